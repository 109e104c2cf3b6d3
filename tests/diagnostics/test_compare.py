"""Gradients by every method, side by side."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsolve
from jaxsolve.diagnostics import compare_gradients
from jaxsolve.linear_solve import solve_cg
from tests.registry import CASES, QUADRATIC_CASES, get_case, get_quadratic_case

EXACT_METHODS = ("implicit", "unrolled", "unrolled, checkpointed")
ALL_LINEAR_SOLVERS = ("GradientDescent-ridge", "ProjectedGradient-simplex", "OSQP")
OTHERS = ("one-step", "Neumann, 10 terms", "finite differences")


def half_squares(params):
    return 0.5 * sum(jnp.sum(x**2) for x in jax.tree.leaves(params))


def run(case, name, **options):
    """The comparison of gradients in theta."""
    if name in QUADRATIC_CASES:
        solver = case.make(**({"maxiter": case.unroll_iters} if case.iterates and case.unrolls else {}))
        return compare_gradients(solver, None, case.theta, arguments=case.data, **options)
    solver = case.make(maxiter=case.unroll_iters)
    if hasattr(solver, "_data"):  # takes other arguments: the matrix and the right-hand side, or a pair of variables
        arguments = lambda theta: solver._data(case.init, theta)
        init = getattr(solver, "pair", lambda init: init)(case.init)
        return compare_gradients(solver.solver, init, case.theta, arguments=arguments, **options)
    return compare_gradients(solver, case.init, case.theta, arguments=lambda theta: (*case.before, theta), **options)


def check(name, **options):
    case = get_quadratic_case(name) if name in QUADRATIC_CASES else get_case(name)
    found = run(case, name, **options)
    exact = jax.grad(lambda theta: half_squares(case.exact(theta)))(case.theta)
    assert found.uncertainty < 1e-6
    methods = [row.method for row in found.rows]
    assert methods[0] == "implicit" and methods[-1] == "finite differences"
    assert all(method in methods for method in EXACT_METHODS) or found.skipped
    for row in found.rows[:-1]:
        error = float(jnp.linalg.norm(row.gradient[0] - exact) / jnp.linalg.norm(exact))
        np.testing.assert_allclose(row.error, error, atol=1e-5, rtol=1e-3, err_msg=row.method)
        assert row.method in OTHERS or error < 1e-4, (row.method, error)
    return found


def test_a_gradient():
    found = check("GradientDescent-ridge", linear_solvers=(solve_cg,))
    methods = ["implicit", "implicit, cg", "one-step", "Neumann, 10 terms", *EXACT_METHODS[1:], "finite differences"]
    assert [row.method for row in found.rows] == methods
    assert found["implicit, cg"].residual < 1e-10 and found["unrolled"].residual is None
    assert found["one-step"].error > found["Neumann, 10 terms"].error > 1e-3
    assert found["unrolled"].memory > 5 * found["unrolled, checkpointed"].memory > found["implicit"].memory > 0
    assert all(row.seconds > 0 and row.compile_seconds > 0 for row in found.rows[:-1])
    table = repr(found).splitlines()
    assert table[0].split() == ["method", "iterations", "error", "residual", "time", "compile", "memory"]
    assert len({len(line) for line in table[:8]}) == 1 and "finite differences, uncertain by" in table[8]
    assert found._repr_html_().count("<tr>") == len(methods) + 1
    plain = found.to_dict()
    assert [row["method"] for row in plain["rows"]] == methods and type(plain["rows"][0]["gradient"][0]) is list


def test_a_fixed_point():
    found = check("FixedPointIteration-affine", linear_solvers=())
    # The map is a contraction by at most 0.35: each term of the series takes that much of the error away.
    assert found["Neumann, 10 terms"].error < 1e-3 < found["one-step"].error


@pytest.mark.slow
def test_a_fixed_point_over_numbers_of_iterations():
    case = get_case("FixedPointIteration-affine")
    exact = jax.grad(lambda theta: half_squares(case.exact(theta)))(case.theta)
    found = compare_gradients(
        case.make(), case.init, case.theta, iterations=(3, 10), linear_solvers=(), reference=[exact]
    )
    rows = {(row.method, row.iterations): row.error for row in found.rows}
    assert rows["implicit", 10] < rows["implicit", 3]
    assert rows["implicit", 10] < rows["unrolled", 10] < rows["unrolled", 3]
    assert rows["finite differences", None] < 1e-8
    assert found.reference == "the given one" and found.uncertainty is None


def test_what_does_not_apply_is_left_out_and_said():
    found = check("Bisection-cubic", linear_solvers=())
    assert [row.method for row in found.rows] == ["implicit", "finite differences"]
    assert found["implicit"].residual < 1e-12 and "implicit_diff" in found.skipped["unrolled"]
    assert "unrolled: not available" in repr(found)
    with pytest.raises(KeyError, match="there are implicit"):
        found["exact"]


def test_arguments_that_cannot_be():
    solver = jaxsolve.GradientDescent(lambda x: jnp.sum(x**2))
    with pytest.raises(ValueError, match="nothing to differentiate"):
        compare_gradients(solver, jnp.ones(2))
    solver = jaxsolve.GradientDescent(lambda x, t: jnp.sum((x - t) ** 2), maxiter=2)
    with pytest.raises(ValueError, match="must have the shapes"):
        compare_gradients(solver, jnp.ones(2), 1.0, linear_solvers=(), iterations=(), reference=[jnp.ones(2)])
    with pytest.raises(ValueError, match="reference must be one of"):
        compare_gradients(solver, jnp.ones(2), 1.0, linear_solvers=(), iterations=(), reference="exact")


# Their solutions are not precise enough for differences, or they take bounds by a keyword.
IMPRECISE = ("ArmijoSGD-ridge", "NelderMead-ridge", "ScipyMinimize-logistic")
BY_KEYWORD = ("InteriorPointNLP-simplex", "AugmentedLagrangian-simplex", "ScipyConstrainedMinimize-simplex")


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in (*CASES, *QUADRATIC_CASES) if name not in (*IMPRECISE, *BY_KEYWORD)])
def test_every_solver(name):
    # The linear solvers are the same for all: each structure of the system tries them once.
    check(name, **({} if name in ALL_LINEAR_SOLVERS else {"linear_solvers": ()}))


def test_plots():
    pytest.importorskip("matplotlib")
    row = jaxsolve.diagnostics.GradientRow("implicit", 3, 0.1, 0.0, 1e-3, 0.1, 100, [np.ones(2)])
    rows = [row, jaxsolve.diagnostics.GradientRow("implicit", 5, 0.01, 0.0, 1e-3, 0.1, 100, [np.ones(2)])]
    lines = jaxsolve.diagnostics.GradientComparison(rows, "finite differences", 1e-9, {}).plot().lines
    assert [line.get_xydata().tolist() for line in lines] == [[[3.0, 0.1], [5.0, 0.01]]]
    bars = jaxsolve.diagnostics.GradientComparison(rows[:1], "finite differences", 1e-9, {}).plot().patches
    assert [bar.get_width() for bar in bars] == [0.1]
