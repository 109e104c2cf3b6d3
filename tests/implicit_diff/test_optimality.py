"""Each mapping of the catalog vanishes at solutions and differentiates them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsolve import KKTSolution
from jaxsolve.implicit_diff import custom_fixed_point, custom_root
from jaxsolve.implicit_diff import optimality as opt
from jaxsolve.projection import projection_simplex

rng = np.random.default_rng(0)
A = jnp.asarray(rng.normal(size=(6, 4)))
Q = A.T @ A + 0.5 * jnp.eye(4)
C = jnp.asarray(rng.normal(size=4))


def fun(x, theta):
    return 0.5 * x @ Q @ x - theta * (C @ x)


def exact(theta):
    return jnp.linalg.solve(Q, theta * C)


MODES = (jax.jacrev, jax.jacfwd, jax.hessian)


def agree(solver, want, theta=1.5):
    got, exact = (jax.jit(lambda t, f=f: [mode(f)(t) for mode in MODES])(theta) for f in (solver, want))
    for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(exact), strict=True):
        np.testing.assert_allclose(g, w, atol=1e-8)


def root(residual, theta=1.5, want=exact):
    np.testing.assert_allclose(residual(want(theta), theta), 0.0, atol=1e-10)
    agree(custom_root(residual)(lambda theta: want(theta)), want)


def fixed_point(mapping, theta=1.5, want=exact, **solve):
    np.testing.assert_allclose(mapping(want(theta), theta), want(theta), atol=1e-10)
    agree(custom_fixed_point(mapping, **solve)(lambda theta: want(theta)), want)


def test_smooth_mappings():
    root(opt.stationary(fun))
    root(opt.stationary(lambda x, theta: (fun(x, theta), "aux"), has_aux=True))
    fixed_point(opt.gradient_descent_fixed_point(fun))
    fixed_point(opt.gradient_descent_fixed_point(fun, stepsize=0.01))
    fixed_point(opt.newton_fixed_point(jax.grad(fun)))
    fixed_point(opt.newton_fixed_point(jax.grad(fun), stepsize=0.5))


def test_newton_has_the_identity_as_tangent_system():
    from jaxsolve.linear_solve import solve_neumann

    mapping = opt.newton_fixed_point(jax.grad(fun))
    assert np.max(np.abs(jax.jacfwd(mapping)(exact(1.5), 1.5))) < 1e-10
    # So one term of the Neumann series is the derivative, which it is far from being for gradient descent.
    one_step = lambda matvec, b: solve_neumann(matvec, b, num_terms=1)
    got = jax.jacfwd(custom_fixed_point(mapping, solve=one_step)(lambda theta: exact(theta)))(1.5)
    np.testing.assert_allclose(got, jax.jacfwd(exact)(1.5), atol=1e-8)


def soft(x, threshold, scaling):
    return jnp.sign(x) * jnp.maximum(jnp.abs(x) - threshold * scaling, 0)


def lasso(theta):
    """Diagonal problem: closed form."""
    d = jnp.asarray([1.0, 2.0, 3.0, 4.0])
    return soft(theta * C, 0.3, 1.0) / d


def diagonal(x, theta):
    return 0.5 * jnp.sum(jnp.asarray([1.0, 2.0, 3.0, 4.0]) * x**2) - theta * (C @ x)


def test_proximal_and_projected_mappings():
    for stepsize in (1.0, 0.1):
        prox = opt.proximal_gradient_fixed_point(diagonal, soft, stepsize)
        fixed_point(lambda x, theta: prox(x, 0.3, theta), want=lasso)
        block = opt.block_proximal_gradient_fixed_point(diagonal, soft, jnp.asarray([0.1, 0.2, 1.0, 3.0]) * stepsize)
        fixed_point(lambda x, theta: block(x, 0.3, theta), want=lasso)
        nonneg = opt.projected_gradient_fixed_point(diagonal, lambda x: jnp.maximum(x, 0), stepsize)
        fixed_point(
            lambda x, theta: nonneg(x, None, theta), want=lambda t: jnp.maximum(t * C, 0) / jnp.arange(1.0, 5.0)
        )
    with_parameter = opt.projected_gradient_fixed_point(diagonal, lambda x, low: jnp.maximum(x, low))
    x = jnp.maximum(C / jnp.arange(1.0, 5.0), 0.1)
    np.testing.assert_allclose(with_parameter(x, 0.1, 1.0), x, atol=1e-12)


def test_mirror_descent():
    """Entropy-regularized linear problem on the simplex: the solution is a softmax."""
    entropic = lambda x, theta: jnp.sum(x * jnp.log(x)) - theta * (C @ x)
    want = lambda theta: jax.nn.softmax(theta * C)
    mapping = opt.mirror_descent_fixed_point(entropic, jax.nn.softmax, jnp.log, stepsize=0.5)
    fixed_point(lambda x, theta: mapping(x, None, theta), want=want)


def test_mirror_descent_at_a_solution_with_zeros():
    """The mapping holds at solutions of other solvers, which may lie on the boundary, where the logarithm does not."""
    want = lambda theta: projection_simplex(theta * C)
    assert int(jnp.sum(want(2.0) == 0)) > 0
    mapping = opt.mirror_descent_fixed_point(
        lambda x, theta: 0.5 * jnp.sum((x - theta * C) ** 2), jax.nn.softmax, jnp.log
    )
    fixed_point(lambda x, theta: mapping(x, None, theta), theta=2.0, want=want)


def test_kkt_with_equalities_and_inequalities():
    """min 0.5 |z - c|^2 with sum z = t and z <= u: active bounds known at the solution."""
    u = jnp.asarray([0.2, 5.0, 5.0])
    c = jnp.asarray([1.0, 0.5, -0.5])
    F = opt.kkt(
        lambda z, c: 0.5 * jnp.sum((z - c) ** 2),
        eq_fun=lambda z, total: jnp.sum(z) - total,
        ineq_fun=lambda z, upper: z - upper,
    )

    def want(total):
        nu = (c[1] + c[2] - (total - u[0])) / 2
        z = jnp.concatenate([u[:1], c[1:] - nu])
        lam = jnp.stack([c[0] - u[0] - nu, 0 * nu, 0 * nu])
        return KKTSolution(z, nu, lam)

    sol = want(0.6)
    assert float(sol.dual_ineq[0]) > 0
    for leaf in jax.tree.leaves(F(sol, c, 0.6, u)):
        np.testing.assert_allclose(leaf, 0.0, atol=1e-12)
    agree(lambda t: custom_root(F)(lambda params_obj, params_eq, params_ineq: want(params_eq))(c, t, u), want, 0.6)


def test_kkt_blocks_come_together_with_their_constraints():
    F = opt.kkt(lambda z, c: jnp.sum((z - c) ** 2), eq_fun=lambda z, t: jnp.sum(z) - t)
    with pytest.raises(ValueError, match="dual_eq is missing"):
        F(KKTSolution(C), C, 1.0)
    with pytest.raises(ValueError, match="dual_ineq is given"):
        F(KKTSolution(C, C[0], C), C, 1.0)
    unconstrained = opt.kkt(lambda z, c: 0.5 * jnp.sum((z - c) ** 2))
    np.testing.assert_allclose(unconstrained(KKTSolution(C), C).primal, 0.0)


def test_general_kkt_with_a_nonlinear_constraint():
    """The point of a disk nearest to theta: min |z - theta|^2 with |z|^2 <= 1, active."""
    F = opt.kkt(lambda z, c: 0.5 * jnp.sum((z - c) ** 2), ineq_fun=lambda z, r: 0.5 * (jnp.sum(z**2) - r**2))

    def want(r):
        c = jnp.asarray([3.0, 4.0])
        z = r * c / 5.0
        return KKTSolution(z, None, 5.0 / r - 1)

    agree(
        lambda r: custom_root(F)(lambda params_obj, params_ineq: want(params_ineq))(jnp.asarray([3.0, 4.0]), r),
        want,
        1.0,
    )


def test_conic_residual_of_a_linear_program():
    """min c'x with Gx <= h, as a cone program over the non-negative orthant, at a vertex."""
    G = jnp.asarray([[-1.0, 0.0], [0.0, -1.0], [1.0, 1.0]])
    c = jnp.asarray([-2.0, -1.0])

    def vertex(theta):
        """x = (theta, 0); y from stationarity c + G'y = 0 on the active rows 1 and 2."""
        x = jnp.stack([theta, 0 * theta])
        h = jnp.stack([0 * theta, 0 * theta, theta])
        y = jnp.asarray([0.0, 1.0, 2.0])
        return x, y, h - G @ x

    F = opt.conic_residual(lambda v: jnp.maximum(v, 0))

    def z_of(theta):
        x, y, s = vertex(theta)
        return x, y - s, jnp.ones_like(theta)

    def residual(z, theta):
        return F(z, G, jnp.stack([0 * theta, 0 * theta, theta]), c)

    for leaf in residual(z_of(jnp.asarray(2.0)), jnp.asarray(2.0)):
        np.testing.assert_allclose(leaf, 0.0, atol=1e-12)
    solver = custom_root(residual)(lambda theta: z_of(theta))

    def primal(theta):
        u, v, w = solver(theta)
        return u / w

    np.testing.assert_allclose(jax.jacfwd(primal)(2.0), [1.0, 0.0], atol=1e-8)
    np.testing.assert_allclose(jax.jacrev(primal)(2.0), [1.0, 0.0], atol=1e-8)


def test_a_function_that_takes_everything():
    """What it takes is not known, so the mapping keeps the signature that it is described with."""
    mapping = opt.proximal_gradient_fixed_point(lambda *args: fun(*args), soft, 0.1)
    np.testing.assert_allclose(mapping(C, 0.0, 1.5), C - 0.1 * jax.grad(fun)(C, 1.5))
