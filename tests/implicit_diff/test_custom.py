"""custom_root and its relatives: any solver, any signature, any mode."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsolve.implicit_diff import custom_fixed_point, custom_root, root_jvp, root_vjp
from jaxsolve.linear_solve import solve_cg, solve_lu

X = jnp.asarray(np.random.default_rng(0).normal(size=(8, 3)))
y = jnp.asarray(np.random.default_rng(1).normal(size=8))


def fun(w, theta):
    return 0.5 * jnp.sum((X @ w - y) ** 2) + 0.5 * theta * jnp.sum(w**2)


F = jax.grad(fun)


def exact(theta):
    return jnp.linalg.solve(X.T @ X + theta * jnp.eye(3), X.T @ y)


def host(theta):
    """The same by NumPy: it fails on tracers."""
    X_, theta = np.asarray(X), np.asarray(theta)
    return np.linalg.solve(X_.T @ X_ + theta * np.eye(3), X_.T @ np.asarray(y))


MODES = (jax.jacrev, jax.jacfwd, jax.hessian)


def check_all_modes(solution, theta=2.0, want=exact):
    got = jax.jit(lambda theta: [mode(solution)(theta) for mode in MODES])(theta)
    for mode, value in zip(MODES, got, strict=True):
        np.testing.assert_allclose(value, mode(want)(theta), atol=1e-9)


def test_the_slides_style_and_the_released_style():
    check_all_modes(custom_root(F)(lambda theta: exact(theta)))
    check_all_modes(lambda t: custom_root(F)(lambda init, theta: exact(theta))(None, t))
    check_all_modes(lambda t: custom_root(F)(lambda init, other_name: exact(other_name))(jnp.zeros(3), t))
    check_all_modes(custom_root(F)(lambda other_name: exact(other_name)))
    check_all_modes(lambda t: custom_root(F)(lambda init, theta: exact(theta))(init=None, theta=t))


def test_without_jit():
    solution = custom_root(F)(exact)
    for mode in MODES:
        np.testing.assert_allclose(mode(solution)(2.0), mode(exact)(2.0), atol=1e-9)


@pytest.mark.slow
def test_signatures_need_not_agree():
    def wide(w, theta, scale=1.0, *, offset=0.0):
        return F(w, theta * scale + offset)

    check_all_modes(custom_root(wide)(lambda theta: exact(theta)))
    check_all_modes(lambda t: custom_root(wide)(lambda init, theta, maxiter: exact(theta))(None, t, 3))
    check_all_modes(lambda t: custom_root(wide)(lambda theta, *, offset: exact(theta + offset))(t - 1.0, offset=1.0))
    check_all_modes(lambda t: custom_root(wide)(lambda init, theta, verbose=False: exact(theta))(None, t, verbose=True))
    # Of two optional arguments the ones given are meant.
    optional = lambda w, theta=1.0: F(w, theta)
    check_all_modes(custom_root(optional)(lambda lam: exact(lam)))
    anything = lambda w, *args, **kwargs: F(w, *args, **kwargs)
    check_all_modes(lambda t: custom_root(anything)(lambda init, t: exact(t))(None, t))
    with pytest.raises(TypeError, match="cannot be matched"):
        custom_root(F)(lambda a, b, c, d: exact(b))(1.0, 2.0, 3.0, 4.0)
    with pytest.raises(TypeError, match="does not take"):
        custom_root(F)(lambda theta: exact(theta))(nonsense=1.0)
    reference = custom_root(F, reference_signature=lambda init, theta: None)(lambda *args: exact(args[1]))
    check_all_modes(lambda t: reference(None, t))


def test_captured_traced_parameters():
    """F and the solver capture theta: both modes are right, where elsewhere forward mode is silently 0."""

    def solution(theta):
        return custom_root(lambda w: F(w, theta))(lambda init: exact(theta))(jnp.zeros(3))

    check_all_modes(solution)

    def with_loop(theta):
        """The solver is a while loop over a captured tracer, which reverse mode could not go through."""

        def solver(init):
            H = X.T @ X + theta * jnp.eye(3)
            step = lambda c: (c[0] + 1, c[1] - jnp.linalg.solve(H, F(c[1], theta)))
            return jax.lax.while_loop(lambda c: c[0] < 3, step, (0, init))[1]

        return custom_root(lambda w: F(w, theta))(solver)(jnp.zeros(3))

    check_all_modes(with_loop)


def test_host_solvers():
    """NumPy code is called directly where values are concrete, and through pure_callback under jit."""
    direct = custom_root(F)(lambda theta: jnp.asarray(host(theta)))
    for mode in (jax.jacrev, jax.jacfwd, jax.hessian):
        np.testing.assert_allclose(mode(direct)(2.0), mode(exact)(2.0), atol=1e-9)
    shape = jax.ShapeDtypeStruct((3,), X.dtype)
    called_back = custom_root(F)(lambda theta: jax.pure_callback(host, shape, theta, vmap_method="sequential"))
    check_all_modes(called_back)
    thetas = jnp.asarray([1.0, 2.0])
    got = jax.jit(jax.vmap(jax.jacrev(called_back)))(thetas)
    np.testing.assert_allclose(got, jax.vmap(jax.jacrev(exact))(thetas), atol=1e-9)


def test_a_host_solver_without_concrete_arrays_says_what_to_do():
    def numeric(theta):
        return jnp.asarray(host(np.asarray(theta)))

    for transformed in (jax.jit(custom_root(F)(numeric)), jax.vmap(custom_root(F)(numeric))):
        with pytest.raises(jax.errors.TracerArrayConversionError) as caught:
            transformed(jnp.asarray([1.0, 2.0]))
        assert any(
            "numeric needs concrete arrays" in note and "pure_callback" in note for note in caught.value.__notes__
        )


def test_scipy_and_scikit_learn():
    import scipy.optimize
    from sklearn.linear_model import Ridge

    def scipy_solver(theta):
        jac = lambda w: np.asarray(F(jnp.asarray(w), theta))
        return scipy.optimize.minimize(lambda w: float(fun(w, theta)), np.zeros(3), jac=jac, method="BFGS", tol=1e-12).x

    def sklearn_solver(theta):
        model = Ridge(alpha=float(theta), fit_intercept=False, solver="cholesky")
        return model.fit(np.asarray(X), np.asarray(y)).coef_

    shape = jax.ShapeDtypeStruct((3,), X.dtype)
    for solver in (scipy_solver, sklearn_solver):
        solution = custom_root(F)(lambda theta, solver=solver: jax.pure_callback(solver, shape, theta))
        for mode in (jax.jacrev, jax.jacfwd):
            np.testing.assert_allclose(jax.jit(mode(solution))(2.0), mode(exact)(2.0), atol=1e-6)


def test_auxiliary_output():
    solution = custom_root(F, has_aux=True)(lambda theta: (exact(theta), {"it": jnp.asarray(3), "name": "lu"}))
    w, aux = solution(2.0)
    assert aux["name"] == "lu"
    gradient, aux = jax.grad(lambda t: (lambda w, aux: (w.sum(), aux["it"]))(*solution(t)), has_aux=True)(2.0)
    np.testing.assert_allclose(gradient, jax.grad(lambda t: exact(t).sum())(2.0))
    assert int(aux) == 3


def test_the_linear_solver_is_the_one_given():
    calls = []

    def spy(matvec, b):
        calls.append(1)
        return solve_lu(matvec, b)

    np.testing.assert_allclose(
        jax.grad(lambda t: custom_root(F, solve=spy)(exact)(t).sum())(2.0), jax.grad(lambda t: exact(t).sum())(2.0)
    )
    assert calls
    check_all_modes(custom_root(F, solve=solve_cg, structure="psd")(exact))


def test_fixed_points():
    T = lambda w, theta: w - 0.01 * F(w, theta)
    check_all_modes(custom_fixed_point(T)(lambda theta: exact(theta)))
    check_all_modes(lambda t: custom_fixed_point(T, has_aux=True)(lambda init, theta: (exact(theta), 0))(None, t)[0])


def test_pytrees_and_other_containers():
    """The residual may come in another container than the solution."""

    def residual(sol, theta):
        return (sol["x"] ** 2 - theta["a"], [sol["y"] - theta["b"] * sol["x"]])

    @custom_root(residual)
    def solver(theta):
        x = jnp.sqrt(theta["a"])
        return {"x": x, "y": theta["b"] * x}

    theta = {"a": jnp.asarray(4.0), "b": jnp.asarray(3.0)}
    gradient = jax.grad(lambda t: solver(t)["y"])(theta)
    np.testing.assert_allclose([gradient["a"], gradient["b"]], [0.75, 2.0])


def test_shapes_and_dtypes_are_checked():
    with pytest.raises(ValueError, match="one residual for each unknown"):
        custom_root(lambda x, t: x[:1])(lambda t: t * jnp.ones(2))(1.0)
    with pytest.raises(TypeError, match="floating point"):
        custom_root(lambda x, t: x)(lambda t: jnp.arange(2))(1.0)


def test_root_jvp_and_root_vjp():
    theta, w = 2.0, exact(2.0)
    tangent = root_jvp(F, w, (theta,), (1.0,))
    np.testing.assert_allclose(tangent, jax.jacfwd(exact)(theta), atol=1e-12)
    cotangent = jnp.asarray([1.0, -2.0, 0.5])
    (theta_bar,) = root_vjp(F, w, (theta,), cotangent)
    np.testing.assert_allclose(theta_bar, jax.vjp(exact, theta)[1](cotangent)[0], atol=1e-12)

    # A residual without symmetry, two arguments, one of them integer.
    G = lambda x, a, i: jnp.stack([x[0] ** 2 - a[0], x[1] - 3 * x[0] - a[1]])[i]
    solve = lambda a: jnp.stack([jnp.sqrt(a[0]), 3 * jnp.sqrt(a[0]) + a[1]])
    a, i = jnp.asarray([4.0, 1.0]), jnp.asarray([0, 1])
    a_bar, i_bar = root_vjp(G, solve(a), (a, i), cotangent[:2])
    np.testing.assert_allclose(a_bar, jax.vjp(solve, a)[1](cotangent[:2])[0], atol=1e-12)
    assert i_bar.dtype == jax.dtypes.float0
    with pytest.raises(ValueError, match="one tangent"):
        root_jvp(F, w, (theta,), ())


def test_singular_systems_give_the_least_squares_tangent():
    """F(x) = (x0 + x1 - theta, x0 + x1 - theta): the solutions form a line, the tangent is the shortest."""
    residual = lambda x, theta: jnp.full(2, jnp.sum(x) - theta)
    solver = custom_root(residual)(lambda theta: jnp.full(2, theta / 2))
    np.testing.assert_allclose(jax.jacfwd(solver)(1.0), [0.5, 0.5], atol=1e-10)
    np.testing.assert_allclose(jax.jacrev(solver)(1.0), [0.5, 0.5], atol=1e-10)


def test_tiny_cotangents_do_not_vanish():
    solution = custom_root(F)(exact)
    tiny = jax.grad(lambda t: 1e-25 * solution(t).sum())(2.0)
    np.testing.assert_allclose(tiny, 1e-25 * jax.grad(lambda t: exact(t).sum())(2.0), rtol=1e-9)
