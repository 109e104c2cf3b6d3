"""An iterative method that has not converged: NaN in a derivative, a warning on request, no silent wrong gradient."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from jaxsolve import linear_solve as ls
from jaxsolve.implicit_diff import custom_root
from tests.linear_solve.problems import spectrum

N = 12
A = spectrum(np.linspace(1, 50, N))
B = np.random.default_rng(0).standard_normal(N)
LIMITED = {
    "cg": partial(ls.solve_cg, maxiter=2),
    "minres": partial(ls.solve_minres, maxiter=2),
    "gmres": partial(ls.solve_gmres, restart=2, maxiter=1),
    "bicgstab": partial(ls.solve_bicgstab, maxiter=1),
    "lsqr": partial(ls.solve_lsqr, maxiter=2),
    "normal_cg": partial(ls.solve_normal_cg, maxiter=2),
    "refinement": partial(ls.solve_iterative_refinement, maxiter=1, solve=partial(ls.solve_gmres, tol=0.5)),
}
every_method = pytest.mark.parametrize("name", LIMITED)


@pytest.mark.parametrize(
    "name",
    [name if name in ("cg", "gmres", "lsqr") else pytest.param(name, marks=pytest.mark.slow) for name in LIMITED],
)
def test_the_value_is_kept_and_derivatives_are_nan(name):
    def solve(b, **options):
        return LIMITED[name](lambda v: A @ v, b, **options)

    x = solve(B)
    assert np.all(np.isfinite(x)) and np.linalg.norm(B - A @ np.asarray(x)) > 1e-3
    assert solve(B, info=True)[1].relative_residual > 1e-3
    # The right-hand side of a tangent is another one than that of the value.
    assert np.all(np.isnan(jax.jvp(solve, (B,), (np.ones(N),))[1]))
    assert np.all(np.isnan(jax.grad(lambda b: solve(b).sum())(B)))
    assert np.all(np.isfinite(jax.grad(lambda b: solve(b, on_failure="ignore").sum())(B)))
    assert np.all(np.isnan(solve(B, on_failure="nan")))


@pytest.mark.parametrize("name", ["cg", "gmres", "minres"])
def test_solve_and_the_derivatives_of_roots_give_nan(name):
    assert np.all(np.isnan(ls.solve(A, B, LIMITED[name])))
    assert np.all(np.isfinite(ls.solve(A, B, LIMITED[name], on_failure="ignore")))
    assert np.all(np.isfinite(ls.solve(A, B, partial(LIMITED[name], on_failure="ignore"))))

    limited = custom_root(lambda x, b: A @ x - b, solve=LIMITED[name])(lambda x, b: jnp.linalg.solve(A, b))
    assert np.all(np.isnan(jax.grad(lambda b: limited(None, b).sum())(B)))


def test_a_warning_on_request():
    with pytest.warns(RuntimeWarning, match="relative residual of"):
        x = jax.block_until_ready(jax.jit(lambda b: ls.solve_cg(A, b, maxiter=2, on_failure="warn"))(B))
        jax.effects_barrier()
    assert np.all(np.isfinite(x))
    text = str(jax.make_jaxpr(lambda b: ls.solve_cg(A, b))(B))
    assert "callback" not in text


@every_method
def test_what_converges_or_is_meant_is_no_failure(name):
    method = LIMITED[name].func
    # Unbounded, with a loose tolerance of the user's own.
    assert np.all(np.isfinite(ls.solve(A, B, partial(method, tol=1e-2))))
    gradient = jax.grad(lambda b: method(lambda v: A @ v, b, tol=1e-2).sum())(B)
    assert np.all(np.isfinite(gradient))


def test_least_squares_is_no_failure():
    singular = spectrum([0, 0, *range(1, N - 1)])
    for method in (ls.solve_lsqr, ls.solve_minres, ls.solve_normal_cg):
        x = ls.solve(singular, B, partial(method, on_failure="nan"), structure="symmetric")
        assert_allclose(x, np.linalg.pinv(singular, rcond=1e-12) @ B, rtol=1e-7, atol=1e-9)
    assert np.all(np.isnan(ls.solve(singular, B, ls.solve_cg)))


def test_each_batch_element_is_judged():
    scales = np.array([0.0, 1.0])  # at 0 the map is the identity

    def solve(scale):
        return ls.solve(lambda v: v + scale * (A @ v), B, LIMITED["cg"])

    assert np.isnan(jax.vmap(solve)(scales)).any(axis=1).tolist() == [False, True]


def test_unknown_options():
    with pytest.raises(ValueError, match="on_failure must be one of"):
        ls.solve_cg(A, B, on_failure="raise")
    with pytest.raises(TypeError, match="solve_cg has no option 'max_iter': did you mean 'maxiter'"):
        ls.solve_cg(A, B, max_iter=3)
