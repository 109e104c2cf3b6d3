"""Every public solver stands in the registry."""

import inspect
import re

import jax
import jax.numpy as jnp
import pytest

import jaxsolve
from tests.registry import CASES, QUADRATIC_CASES, get_case, get_quadratic_case

ITERATIVE = [
    name
    for name in jaxsolve.__all__
    if inspect.isclass(getattr(jaxsolve, name))
    and issubclass(getattr(jaxsolve, name), jaxsolve.base.IterativeSolver)
    and getattr(jaxsolve, name).__module__.startswith("jaxsolve.solvers.")
]
# Their tolerance has no unit: the error is a cosine, or relative to its terms.
NO_UNIT = ("AugmentedLagrangian", "BoundedLeastSquares", "BoxCDQP", "InteriorPointNLP")


def test_every_public_solver_has_a_case():
    solvers = {
        name
        for name in jaxsolve.__all__
        if inspect.isclass(getattr(jaxsolve, name))
        and issubclass(getattr(jaxsolve, name), jaxsolve.base.Solver)
        and getattr(jaxsolve, name).__module__.startswith("jaxsolve.solvers.")
    }
    assert len(solvers) >= 6
    assert solvers - {case.split("-")[0] for case in [*CASES, *QUADRATIC_CASES]} == set()


@pytest.mark.parametrize("name", ITERATIVE)
def test_every_tolerance_with_a_unit_has_a_relative_one_beside_it(name):
    """And the documentation says what it is relative to."""
    solver = getattr(jaxsolve, name)
    options = inspect.signature(solver).parameters
    assert "tol" in options
    assert ("rtol" in options) != (name in NO_UNIT)
    option = "tol" if name in NO_UNIT else "rtol"
    sections = [re.search(rf"\n +{option}: (.*?)(?=\n +\w+: |\n\n|\Z)", c.__doc__ or "", re.S) for c in solver.__mro__]
    text = next(" ".join(found[1].split()) for found in sections if found)
    relative_to = "times .*(first_error|(the|its) terms|norm)|state.first_error"
    quantity = {"tol": "no unit|orthogonal", "rtol": relative_to}[option]
    assert re.search(quantity, text), text


@pytest.mark.slow
# A working set of all coordinates is solved to rounding in the first iteration.
@pytest.mark.parametrize(
    "name", [name for name in CASES if name != "BlockCoordinateDescent-composite" and get_case(name).iterates]
)
def test_a_relative_tolerance_ends_a_run(name):
    case = get_case(name)

    @jax.jit
    def iterations(rtol):
        state = case.run(case.make(tol=0.0, rtol=rtol), case.theta).state
        return state.iter_num, state.status

    loose, tight = (iterations(jnp.asarray(rtol, case.theta.dtype)) for rtol in (0.3, 1e-3))
    assert int(loose[1]) == int(tight[1]) == jaxsolve.Status.CONVERGED
    assert int(loose[0]) < int(tight[0])


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in QUADRATIC_CASES if n.split("-")[0] in set(ITERATIVE) - set(NO_UNIT)])
def test_a_relative_tolerance_ends_the_run_of_a_quadratic_program(name):
    case = get_quadratic_case(name)
    options = {} if name.startswith("InteriorPoint") else {"polish": False}
    states = [case.run(case.make(tol=0.0, rtol=rtol, **options), case.theta).state for rtol in (0.3, 1e-5)]
    assert [int(state.status) for state in states] == [jaxsolve.Status.CONVERGED] * 2
    assert int(states[0].iter_num) < int(states[1].iter_num)
