"""Products of matrices at full precision: what accelerators do to float32 where nobody says otherwise.

The programs are read, not run: on a CPU every product is at full precision.
"""

import jax
import jax.numpy as jnp
import pytest
from jax.lax import Precision

import jaxsolve
from jaxsolve._compat import subjaxprs
from tests import registry
from tests.test_laws_of_scale import VOCABLES

FULL = (Precision.HIGHEST, Precision.HIGHEST)
# Stochastic solvers change nothing, and the case of refinement calls its function outside of the solver.
OTHERS = ("OptaxSolver", "ArmijoSGD", "PolyakSGD", "IterativeRefinement")


def products(fun, *args):
    """Shapes and precision of all products in a program, at any depth."""

    def walk(jaxpr):
        for eqn in jaxpr.eqns:
            if eqn.primitive.name in ("dot_general", "conv_general_dilated"):
                yield *[x.aval.shape for x in eqn.invars], eqn.params["precision"]
        for inner in subjaxprs(jaxpr):
            yield from walk(inner)

    return list(walk(jax.make_jaxpr(fun)(*args).jaxpr))


def check(fun, *args):
    for transform in (lambda fun: fun, jax.jacfwd, jax.jacrev):
        for found in products(transform(fun), *args):
            assert found[-1] == FULL, found


@pytest.mark.parametrize("name", VOCABLES)
def test_vocabulary(name):
    vocable = VOCABLES[name]
    first, *rest = (jnp.asarray(arg, jnp.float32) for arg in vocable.args)
    check(lambda x: vocable.fun(x, *rest), first)


@registry.each(
    quick=["LBFGS-zoom", "BlockCoordinateDescent-lasso"], where=lambda case: case.name.split("-")[0] not in OTHERS
)
def test_solvers(case):
    check(lambda theta: case.run(case.make(), theta).params, case.theta)


@registry.each_quadratic(quick=["InteriorPointQP"])
def test_quadratic_programs(case):
    check(lambda theta: case.primal(case.run(case.make(), theta).params), case.theta)


def test_the_function_has_the_precision_that_its_user_has_set():
    case = registry.get_case("LBFGS-zoom")
    run = lambda theta: case.run(case.make(), theta).params
    for setting, wanted in (("default", Precision.DEFAULT), ("tensorfloat32", Precision.HIGH)):
        with jax.default_matmul_precision(setting):
            found = products(run, case.theta)
        assert {precision for *_, precision in found} == {FULL, (wanted, wanted)}
        assert all(registry.X.shape in shapes for *shapes, precision in found if precision != FULL)


def test_stochastic_solvers_leave_the_precision_alone():
    solver = jaxsolve.PolyakSGD(lambda w, theta: jnp.sum((registry.X @ w - theta) ** 2), max_stepsize=0.1, maxiter=3)
    found = products(lambda theta: solver.run(jnp.zeros(4), theta).params, jnp.ones(12))
    assert {precision for *shapes, precision in found if registry.X.shape in shapes} == {None}
