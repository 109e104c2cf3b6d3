"""Units: powers of two in front of the map and of the right-hand side stand in front of the solution, bit for bit.

``A -> 2**j A`` and ``b -> 2**k b`` give ``2**(k - j) x`` after as many iterations. Direct methods know nothing of the
units of single unknowns and equations either.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsolve import linear_solve as ls
from jaxsolve._inputs import power_of_two
from tests.linear_solve import problems

# Exponents of the map and of the right-hand side.
UNITS = np.array([(0, 0), (-40, 0), (40, 0), (0, -40), (0, 40), (-40, 40), (40, 40), (7, -13), (-3, 5)])
DTYPES = [pytest.param(np.float32, marks=pytest.mark.float32), np.float64]


def _preconditioned(method):
    """By a dense matrix that is near the inverse."""

    def solve(matvec, b, **options):
        A = jax.vmap(matvec, in_axes=1, out_axes=1)(jnp.eye(len(b), dtype=b.dtype))
        return method(matvec, b, preconditioner=jnp.diag(1 / jnp.diag(A)), **options)

    return solve


def _jacobi(matvec, b, **options):
    return ls.solve_cg(matvec, b, preconditioner=ls.jacobi_preconditioner(matvec, b), **options)


def _with_ridge(method, power=1):
    """A ridge has the unit of the map, of which the argument ``b`` of one entry more tells nothing: it is found."""

    def solve(matvec, b, **options):
        unit = jax.lax.stop_gradient(ls.diagonal(matvec, b)[0])
        return method(matvec, b, ridge=0.25 * jnp.abs(unit) ** power, **options)

    return solve


def _started(method):
    """From a point near the solution."""

    def solve(matvec, b, **options):
        x = ls.solve_lu(matvec, b)
        return method(matvec, b, init=x.at[0].multiply(1.125), **options)

    return solve


def _neumann(matvec, b, **options):
    # The map must be near the identity: it is measured in its own unit.
    unit = power_of_two(ls.diagonal(matvec, b)[0], 8.0)
    return ls.solve_neumann(lambda x: matvec(x) / unit, b / unit, residual="x - T(x)", **options)


METHODS = {
    **problems.METHODS,
    "solve-psd": functools.partial(ls.solve, structure="psd"),
    "solve-symmetric": functools.partial(ls.solve, structure="symmetric"),
    "solve-general": ls.solve,
    "lstsq-symmetric": functools.partial(ls.solve_lstsq, symmetric=True),
    "neumann": _neumann,
    "cg-jacobi": _jacobi,
    "cg-preconditioned": _preconditioned(ls.solve_cg),
    "minres-preconditioned": _preconditioned(ls.solve_minres),
    "gmres-preconditioned": _preconditioned(problems.tight_gmres),
    "bicgstab-preconditioned": _preconditioned(ls.solve_bicgstab),
    "cg-ridge": _with_ridge(ls.solve_cg),
    "cholesky-ridge": _with_ridge(ls.solve_cholesky),
    "normal-cg-ridge": _with_ridge(ls.solve_normal_cg, 2),
    "cg-started": _started(ls.solve_cg),
    "gmres-started": _started(problems.tight_gmres),
}
# Where the residual is not that of the system: the power of the unit of the map that it has besides.
RESIDUALS = {"neumann": -1, "normal-cg-ridge": 1}


QUICK = ("cholesky", "lu", "cg", "minres", "gmres", "solve-psd", "solve-general", "lstsq")


def _system(name):
    if name.split("-")[0] in ("cg", "cholesky") or name in ("solve-psd", "lstsq-symmetric", "neumann"):
        return problems.system("cg")
    if name.split("-")[0] == "minres" or name == "solve-symmetric":
        return problems.system("minres")
    return problems.system("lu")


def _in_units(name, A, b, dtype):
    """Solutions, derivatives along one cotangent and information, found in all units and told in the plain one."""
    method = METHODS[name]
    A, b = (np.asarray(x, dtype) for x in (A, b))
    j, k = UNITS.T
    batch = np.stack([np.ldexp(A, m) for m in j]), np.stack([np.ldexp(b, m) for m in k])

    @jax.jit
    def solve(A, b):
        slope, (x, info) = jax.grad(lambda A: _summed(method(lambda v: A @ v, b, info=True)), has_aux=True)(A)
        return x, slope, info

    x, slope, info = jax.device_get(jax.lax.map(lambda pair: solve(*pair), tuple(map(jnp.asarray, batch))))
    x = np.ldexp(x, (j - k)[:, None])
    slope = np.ldexp(slope, (2 * j - k)[:, None, None])
    return x, slope, info._replace(residual_norm=np.ldexp(info.residual_norm, -k - RESIDUALS.get(name, 0) * j))


def _summed(found):
    return jnp.sum(found[0]), found


def _all_equal(values, message):
    np.testing.assert_array_equal(values, np.broadcast_to(values[0], values.shape), err_msg=message)


def _check(found, *, derivative=True):
    x, slope, info = found
    assert np.all(np.isfinite(x[0])) and np.any(x[0] != 0)
    _all_equal(x, "solution")
    if derivative:
        _all_equal(slope, "derivative")
    for field, values in info._asdict().items():
        _all_equal(values, field)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in QUICK else pytest.mark.slow) for n in METHODS])
def test_units_of_the_map_and_of_the_right_hand_side(name, dtype):
    """They are factors of the solution."""
    _check(_in_units(name, *_system(name), dtype))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", problems.LEAST_SQUARES)
def test_units_of_a_singular_system(name, dtype):
    """Whether a map is singular is asked relative to its own size."""
    A = np.outer(np.arange(1.0, 7), np.arange(2.0, 8)) + np.diag([0, 0, 1.0, 2, 0, 0])
    A = problems.spectrum([0, 0, 1, 2, 3, 4]) if name in ("cholesky", "minres") else A
    _check(_in_units(name, A, _system(name)[1], dtype), derivative=False)


# Exponents of the units of the unknowns.
OF_UNKNOWNS = np.array([0, -20, 13, 20, -7, 1])


@pytest.mark.parametrize("dtype", DTYPES)
def test_units_of_unknowns_by_a_cholesky_factor(dtype):
    """Bit for bit."""
    A, b = (x.astype(dtype) for x in _system("cholesky"))
    of_map = np.ldexp(A, OF_UNKNOWNS[:, None] + OF_UNKNOWNS[None, :])
    for j in (0, 1, -13):
        found = ls.solve_cholesky(jnp.asarray(np.ldexp(of_map, j)), jnp.asarray(np.ldexp(b, OF_UNKNOWNS)))
        np.testing.assert_array_equal(
            np.ldexp(found, OF_UNKNOWNS + j), ls.solve_cholesky(jnp.asarray(A), jnp.asarray(b))
        )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["lu", pytest.param("qr", marks=pytest.mark.slow), "inv"])
def test_units_of_equations_and_unknowns_by_elimination(name, dtype):
    """Bit for bit for the equations, and to rounding for the unknowns, whose units choose other pivots."""
    solve = jax.jit(problems.METHODS[name])
    A, b = (x.astype(dtype) for x in _system("lu"))
    x = solve(jnp.asarray(A), jnp.asarray(b))
    found = solve(jnp.asarray(np.ldexp(A, OF_UNKNOWNS[:, None])), jnp.asarray(np.ldexp(b, OF_UNKNOWNS)))
    np.testing.assert_array_equal(found, x)
    found = solve(jnp.asarray(np.ldexp(A, OF_UNKNOWNS[None, :])), jnp.asarray(b))
    found, atol = np.ldexp(found, OF_UNKNOWNS), 10 * np.finfo(dtype).eps * np.max(np.abs(x))
    np.testing.assert_allclose(found, x, rtol=0, atol=atol)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["cg", "minres", "gmres", "bicgstab"])
def test_the_unit_of_a_preconditioner_changes_nothing(name, dtype):
    A, b = (jnp.asarray(x, dtype) for x in _system(name))

    @jax.jit
    def solve(unit):
        return problems.METHODS[name](lambda v: A @ v, b, preconditioner=jnp.diag(unit / jnp.diag(A)), info=True)

    x, info = jax.lax.map(solve, jnp.asarray(np.ldexp(np.ones(3), [0, -40, 40]), dtype))
    _all_equal(np.asarray(x), "solution")
    _all_equal(np.asarray(info.num_iter), "iterations")
