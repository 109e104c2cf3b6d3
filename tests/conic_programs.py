"""Solutions of small convex programs by CVXPY, as exact as its solver makes them."""

import warnings

import numpy as np
import pytest

cvxpy = pytest.importorskip("cvxpy")

TIGHT = dict.fromkeys(("tol_gap_abs", "tol_gap_rel", "tol_feas"), 1e-12) | {"tol_ktratio": 1e-10}


def check_against_program(fun, objective, constraints, xs, atol, symmetric=False):
    """``fun(x)`` is where ``objective(p, x)`` is least under ``constraints(p)``, for each of ``xs``."""
    shape = xs[0].shape
    p, x = cvxpy.Variable(shape, symmetric=symmetric), cvxpy.Parameter(shape)
    # With a parameter, the program is brought to its standard form once.
    program = cvxpy.Problem(cvxpy.Minimize(objective(p, x)), constraints(p))
    for value in xs:
        x.value = value
        with warnings.catch_warnings():
            # Tolerances it cannot always reach: the comparison says how near it came.
            warnings.filterwarnings("ignore", "Solution may be inaccurate", UserWarning)
            program.solve(solver="CLARABEL", **TIGHT)
        np.testing.assert_allclose(fun(value), p.value, rtol=0, atol=atol)
