"""The residuals of the linear solves of derivatives."""

import warnings
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsolve
from jaxsolve.diagnostics import TangentError, check_tangents
from jaxsolve.implicit_diff import TangentSystem, custom_root
from jaxsolve.implicit_diff._check import observe_tangents
from jaxsolve.linear_solve import solve_neumann

MATRIX = np.array([[0.4, 0.3], [0.0, 0.2]])


def contraction(x, theta):
    return jnp.asarray(MATRIX, x.dtype) @ x + theta


def solution(theta, **options):
    return jaxsolve.FixedPointIteration(contraction, tol=1e-10, **options).run(jnp.zeros(2), theta).params


THETA = np.array([1.0, 2.0])
ROUGH = {"implicit_diff_solve": partial(solve_neumann, num_terms=3)}


def neumann_residual(matrix, b):
    """|| A x - b || / ||b|| of the three-term series of A = M - I: the norm of M^3 b."""
    return np.linalg.norm(np.linalg.matrix_power(matrix, 3) @ b) / np.linalg.norm(b)


def seen(derivative):
    heard = []
    with observe_tangents(lambda name, residual: heard.append((name, residual))):
        derivative()
    return heard


def test_the_residual_of_each_mode_is_that_of_its_system():
    cotangent = jnp.asarray([1.0, -3.0])
    heard = seen(lambda: jax.grad(lambda t: jnp.vdot(cotangent, solution(t, **ROUGH)))(THETA))
    np.testing.assert_allclose([r for _, r in heard], [neumann_residual(MATRIX.T, cotangent)], rtol=1e-10)
    assert heard[0][0] == "FixedPointIteration"
    heard = seen(lambda: jax.jvp(lambda t: solution(t, **ROUGH), (THETA,), (np.asarray(cotangent),)))
    np.testing.assert_allclose([r for _, r in heard], [neumann_residual(MATRIX, cotangent)], rtol=1e-10)
    # A Jacobian is a batch of solves.
    heard = seen(lambda: jax.jacrev(lambda t: solution(t, **ROUGH))(THETA))
    want = [neumann_residual(MATRIX.T, row) for row in np.eye(2)]
    np.testing.assert_allclose(sorted(r for _, r in heard), sorted(want), rtol=1e-10)


def test_a_block_warns_and_compiled_programs_see_it_begin_and_end():
    gradient = jax.jit(jax.grad(lambda t: jnp.sum(solution(t, **ROUGH))))
    want = gradient(THETA)
    residual = f"{neumann_residual(MATRIX.T, np.ones(2)):.1e}"
    with pytest.warns(RuntimeWarning, match=f"derivative of FixedPointIteration .* relative residual of {residual}"):
        with check_tangents():
            np.testing.assert_array_equal(gradient(THETA), want)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gradient(THETA)  # the block is over
        jax.effects_barrier()
        with check_tangents(tol=0.1):
            gradient(THETA)
        with check_tangents():
            jax.grad(lambda t: jnp.sum(solution(t)))(THETA)  # an exact solve


def test_eager_runs_and_blocks_that_raise():
    gradient = jax.grad(lambda t: jnp.sum(solution(t, **ROUGH)))
    for _ in range(2):
        gradient(THETA)
        with pytest.raises(TangentError, match="FixedPointIteration"):
            with check_tangents("raise"):
                gradient(THETA)
    with check_tangents("raise"):
        pass  # nothing is left of the other blocks


def test_the_option_of_a_solver():
    gradient = jax.grad(lambda t, action: jnp.sum(solution(t, check_tangents=action, **ROUGH)))
    with pytest.warns(RuntimeWarning, match="FixedPointIteration"):
        gradient(THETA, "warn")
        jax.effects_barrier()
    with pytest.raises(jax.errors.JaxRuntimeError, match="TangentError: the linear solve of a derivative of FixedPo"):
        jax.block_until_ready(gradient(THETA, "raise"))
    with pytest.raises(ValueError, match="check_tangents must be one of"):
        jaxsolve.FixedPointIteration(contraction, check_tangents="always")
    with pytest.raises(ValueError, match="action"):
        check_tangents("print").__enter__()


def test_without_a_check_no_program_changes():
    def text():
        return jax.jit(jax.grad(lambda t: jnp.sum(solution(t)))).lower(THETA).as_text()

    before = text()
    with check_tangents():
        assert "callback" in text()
    assert text() == before and "callback" not in before


def test_solvers_with_a_system_of_their_own_and_decorated_ones():
    qp = jaxsolve.EqualityConstrainedQP()

    def value(c):
        data = (jnp.asarray([[2.0, 0.5], [0.5, 1.0]]), c), (jnp.ones((1, 2)), jnp.ones(1))
        return jnp.sum(qp.run(None, *data).params.primal ** 2)

    (name, residual), *others = seen(lambda: jax.grad(value)(THETA))
    assert name == "EqualityConstrainedQP" and residual < 1e-12 and not others

    @jax.custom_vjp
    def square(x):
        return x**2

    square.defvjp(lambda x: (x**2, x), lambda x, g: (2 * x * g,))

    @custom_root(lambda x, theta: square(x) - theta)
    def root(theta):
        return jnp.sqrt(theta)

    heard = seen(lambda: jax.grad(root)(4.0))
    assert [name for name, _ in heard] == ["root"] and heard[0][1] < 1e-12


def test_second_order_solves_are_checked_too():
    heard = seen(lambda: jax.hessian(lambda t: jnp.sum(solution(t) ** 2))(THETA))
    assert len(heard) > 2 and max(r for _, r in heard) < 1e-12


def test_accuracy_of_a_system():
    system = TangentSystem(lambda x, theta: jnp.asarray([[2.0, 1.0], [0.0, 1.0]]) @ x - theta)
    x, rhs = jnp.asarray([1.0, 1.0]), jnp.asarray([3.0, 2.0])
    np.testing.assert_allclose(system.accuracy(x, rhs, x, THETA), 1 / np.sqrt(13.0))
    np.testing.assert_allclose(system.accuracy_transposed(x, rhs, x, THETA), 1 / np.sqrt(13.0))
    np.testing.assert_allclose(system.accuracy_transposed(x, jnp.asarray([2.0, 2.0]), x, THETA), 0.0)
