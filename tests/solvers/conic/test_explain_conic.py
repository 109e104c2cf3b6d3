"""The table that says why a run for a conic program ended as it did."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsolve import Cones, ConicADMM, ConicInteriorPoint, Status, solve_conic
from jaxsolve.diagnostics import explain

DISK, FAR = Cones(soc=(3,)), Cones(nonneg=1, soc=(3,))
A = jnp.array([[0.0, 0.0], [-1.0, 0.0], [0.0, -1.0]])
BEYOND = jnp.concatenate([jnp.array([[-1.0, 0.0]]), A])


def beyond(at_least, **options):
    """The point of a disk of radius 2 that is furthest to the right, if it may be so far; explained."""
    args = (None, jnp.array([-1.0, 0.0]), BEYOND, jnp.array([-at_least, 2.0, 0.0, 0.0]), FAR)
    return explain(solve_conic(*args, **options), *args, **options)


@pytest.mark.slow
def test_solved_programs_show_what_holds_them():
    found = beyond(1.0)
    rows = {row.name: row for row in found.rows}
    assert found.kind == "solved" and rows["nonneg[0]"].state == "inactive" and rows["soc[0]"].state == "active"
    assert (rows["nonneg[0]"].rows, rows["soc[0]"].rows) == ("b[0]", "b[1:4]")
    np.testing.assert_allclose([rows["nonneg[0]"].slack, rows["soc[0]"].slack], [1, 0], atol=1e-8)
    np.testing.assert_allclose([rows["nonneg[0]"].multiplier, rows["soc[0]"].multiplier], [0, 1], atol=1e-8)
    assert str(found).splitlines()[1].split() == ["constraint", "rows", "slack", "multiplier"]
    assert "1 of 2 rows are active; 1 have slack." in str(found) and "soc[0]" in found._repr_html_()
    assert found.to_dict()["rows"][1]["state"] == "active"


@pytest.mark.slow
def test_infeasible_programs_show_their_certificate():
    found = beyond(3.0)
    assert found.status is Status.PRIMAL_INFEASIBLE and found.kind == "infeasible"
    assert set(found.contradiction) == {"nonneg[0]", "soc[0]"}
    np.testing.assert_allclose(sum(found.shares.values()), -1, rtol=1e-9)
    # x_0 >= 3 times its multiplier, which that of the disk, as long as its other entries, at least makes up for.
    price, of_disk = (found.contradiction[name] for name in ("nonneg[0]", "soc[0]"))
    assert 0 < price <= of_disk
    np.testing.assert_allclose(
        [found.shares["nonneg[0]"], found.shares["soc[0]"]], [-3 * price, 2 * of_disk], rtol=1e-9
    )
    assert "These cones contradict each other" in str(found)
    # The same by the other method, from an OptStep.
    solver, data = ConicADMM(FAR), ((None, jnp.array([-1.0, 0.0])), (BEYOND, jnp.array([-3.0, 2.0, 0.0, 0.0])))
    other = explain(solver.run(None, *data), None, *data, solver=solver)
    assert set(other.contradiction) == {"nonneg[0]", "soc[0]"}
    np.testing.assert_allclose(sum(other.shares.values()), -1, rtol=1e-9)


@pytest.mark.slow
def test_prices_and_violations():
    found = beyond(3.0, elastic=jnp.array([5.0, 10.0]))
    rows = {row.name: row for row in found.rows}
    assert found.kind == "solved" and rows["nonneg[0]"].state == "violated" and rows["soc[0]"].state == "active"
    np.testing.assert_allclose([rows["nonneg[0]"].slack, rows["nonneg[0]"].multiplier], [-1, 5], atol=1e-6)
    np.testing.assert_allclose(rows["soc[0]"].multiplier, 6, atol=1e-5)
    assert all(row.relative < 1e-6 for row in found.residuals)


@pytest.mark.slow
def test_unbounded_programs_show_a_direction_and_failures_a_residual():
    solver = ConicInteriorPoint(DISK)
    data = ((None, jnp.array([0.0, -1.0])), (jnp.array([[0.0, -2.0], [0.0, 0.0], [0.0, -1.0]]), jnp.zeros(3)))
    found = explain(solver.run(None, *data), None, *data, solver=solver)
    assert found.kind == "unbounded" and list(found.direction) == ["x[1]"]
    np.testing.assert_allclose(found.direction["x[1]"], 1)
    short = ConicInteriorPoint(FAR, maxiter=1, polish=False)
    data = ((None, jnp.array([-1.0, 0.0])), (BEYOND, jnp.array([-1.0, 2.0, 0.0, 0.0])))
    found = explain(short.run(None, *data), None, *data, solver=short)
    assert found.status is Status.MAXITER and found.kind == "failed" and "residual is the largest" in str(found)


@pytest.mark.slow
def test_depths_of_all_kinds_of_cones():
    """Slacks of a program whose solution is known: those of a point inside, and of points on the boundary."""
    cones = Cones(zero=1, nonneg=1, soc=(3,), psd=(2,), exp=1, power=(0.5,))
    m = cones.num_rows
    s = np.array([0, 0.5, 2, 1, 0, 1.25, 0, 0.25, 0, 1, 2, 4, 1, 1], float)
    # Minimize the distance from x = s - A x ... with A = -1: the slacks are x, pulled to s, which is inside.
    args = (np.eye(m), -s, -np.eye(m), np.zeros(m), cones)
    found = explain(solve_conic(*args), *args)
    slacks = {row.name: row.slack for row in found.rows}
    np.testing.assert_allclose([slacks["nonneg[0]"], slacks["soc[0]"], slacks["psd[0]"]], [0.5, 1, 0.25], atol=1e-6)
    center = np.array([-1.051383945322714, 0.556409619469370, 1.258967884768947])
    a, b, c = s[8:11] - slacks["exp[0]"] * center  # on the boundary
    np.testing.assert_allclose(b * np.exp(a / b), c, rtol=1e-5)
    t = slacks["power[0]"]
    np.testing.assert_allclose(np.sqrt((4 - t * 1.5**0.5) * (1 - t * 1.5**0.5)), 1, rtol=1e-5)
    assert [row.state for row in found.rows] == ["equation", *["inactive"] * 5]


@pytest.mark.slow
def test_equations_and_inequalities_are_explained_as_a_quadratic_program():
    cones, A, b = Cones(zero=1, nonneg=2), jnp.array([[1.0, 1.0], [1.0, 0.0], [0.0, 1.0]]), jnp.array([3.0, 1.0, 1.0])
    found = explain(solve_conic(None, jnp.ones(2), A, b, cones), None, jnp.ones(2), A, b, cones)
    assert found.kind == "infeasible" and found.irreducible
    assert set(found.contradiction) == {"zero[0]", "nonneg[0]", "nonneg[1]"}


def test_what_cannot_be_explained_is_named():
    args = (None, jnp.array([-1.0, 0.0]), BEYOND, jnp.zeros(4), FAR)
    with pytest.raises(TypeError, match="explain expects what solve_conic returned"):
        explain(jnp.zeros(2), *args, solver=ConicInteriorPoint(FAR))
    with pytest.raises(TypeError, match="concrete values"):
        jax.eval_shape(lambda c: explain(solve_conic(None, c, *args[2:]), None, c, *args[2:]).status, args[1])
