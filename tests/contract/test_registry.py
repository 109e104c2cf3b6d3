"""Every public solver stands in the registry."""

import inspect

import jaxsolve
from tests.registry import CASES, QUADRATIC_CASES


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
