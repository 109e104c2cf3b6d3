"""Matrices and lists of methods that the tests of linear solvers share."""

import functools
from functools import partial

import jax
import numpy as np

from jaxsolve import linear_solve as ls

N = 6
tight_gmres = partial(ls.solve_gmres, tol=None)
refined = partial(ls.solve_iterative_refinement, tol=None)

PSD_METHODS = {"cholesky": ls.solve_cholesky, "cg": ls.solve_cg}
SYMMETRIC_METHODS = {"minres": ls.solve_minres}
GENERAL_METHODS = {
    "lu": ls.solve_lu,
    "qr": ls.solve_qr,
    "inv": ls.solve_inv,
    "lstsq": ls.solve_lstsq,
    "gmres": tight_gmres,
    "bicgstab": ls.solve_bicgstab,
    "lsqr": ls.solve_lsqr,
    "normal_cg": ls.solve_normal_cg,
    "refinement": refined,
}
METHODS = {**PSD_METHODS, **SYMMETRIC_METHODS, **GENERAL_METHODS}
DIRECT = ("cholesky", "lu", "qr", "inv", "lstsq")
LEAST_SQUARES = ("cholesky", "minres", "lu", "qr", "inv", "lstsq", "lsqr", "normal_cg")


def spectrum(values, seed=0):
    """A symmetric matrix with given eigenvalues."""
    rng = np.random.default_rng(seed)
    q, _ = np.linalg.qr(rng.standard_normal((len(values), len(values))))
    return (q * np.asarray(values)) @ q.T


def system(name, seed=0):
    """A matrix that suits the method, and a right-hand side."""
    rng = np.random.default_rng(seed)
    b = rng.standard_normal(N)
    if name in PSD_METHODS:
        return spectrum([1, 2, 3, 4, 5, 6], seed), b
    if name in SYMMETRIC_METHODS:
        return spectrum([-3, -2, 1, 2, 3, 4], seed), b
    return spectrum([2, 2, 3, 4, 5, 6], seed) + 0.5 * rng.standard_normal((N, N)), b


@functools.cache
def jitted(name):
    """``(A, b) -> (x, info)`` by the method, compiled once for all tests with the same shapes and dtypes."""
    return jax.jit(lambda A, b: METHODS[name](lambda v: A @ v, b, info=True))
