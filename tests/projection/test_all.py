"""What holds for every projection: the geometry, derivatives, transformations, pytrees and dtypes."""

import functools

import hypothesis
import hypothesis.extra.numpy as hnp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from jaxsolve import projection
from tests.projection.checks import check_derivatives

N = 6
NORMAL = np.array([1.0, -2.0, 0.5, 0.0, 1.5, -0.25])

SYSTEM = np.array([[1.0, -1.0, 0.5, 0.0, 2.0, 0.25], [0.0, 1.0, 1.0, -0.5, 0.0, 1.5]])


def symmetric(x):
    """The symmetric matrix of order 3 with these entries; an isometry."""
    low = x[3:] * np.sqrt(0.5).astype(x.dtype)
    return jnp.array([[x[0], low[0], low[1]], [low[0], x[1], low[2]], [low[1], low[2], x[2]]])


def entries(matrix):
    low = jnp.stack([matrix[1, 0], matrix[2, 0], matrix[2, 1]]) * np.sqrt(2.0).astype(matrix.dtype)
    return jnp.concatenate([jnp.diagonal(matrix), low])


def transport(fun):
    # The marginals of a probability: their sums agree whatever the parameters are.
    return lambda x, a, b: fun(x.reshape(2, 3), (a / jnp.sum(a), b / jnp.sum(b))).reshape(-1)


def two_cones(fun):
    return lambda x, *params: jax.vmap(lambda v: fun(v, *params))(x.reshape(2, 3)).reshape(-1)


# name -> (projection of x and a flat tuple of differentiable parameters, the parameters)
CASES = {
    "non_negative": (lambda x: projection.projection_non_negative(x), ()),
    "box": (lambda x, lo, up: projection.projection_box(x, (lo, up)), (-0.5, 0.75 + 0.1 * np.arange(N))),
    "hypercube": (projection.projection_hypercube, (0.75,)),
    "linf_ball": (projection.projection_linf_ball, (0.75,)),
    "simplex": (projection.projection_simplex, (1.5,)),
    "l1_ball": (projection.projection_l1_ball, (1.5,)),
    "l2_ball": (projection.projection_l2_ball, (1.5,)),
    "hyperplane": (lambda x, a, b: projection.projection_hyperplane(x, (a, b)), (NORMAL, 0.5)),
    "halfspace": (lambda x, a, b: projection.projection_halfspace(x, (a, b)), (NORMAL, 0.5)),
    "box_section": (
        lambda x, lo, up, w, c: projection.projection_box_section(x, (lo, up, w, c)),
        (-1.0, 1.0 + 0.1 * np.arange(N), NORMAL, 0.7),
    ),
    # The orders; the permutahedron, whose parameter has the size of x, is in test_order.py.
    "monotone_cone": (lambda x: projection.projection_monotone_cone(x), ()),
    "ordered_simplex": (projection.projection_ordered_simplex, (1.5,)),
    "capped_simplex": (projection.projection_capped_simplex, (1.5, 0.75)),
    "affine_set": (lambda x, A, b: projection.projection_affine_set(x, (A, b)), (SYSTEM, np.array([0.5, -1.0]))),
    "second_order_cone": (lambda x: projection.projection_second_order_cone(x), ()),
    # Of a dual point, in another divergence: the rest holds.
    "kl_simplex": (projection.kl_projection_simplex, (1.5,)),
    # Not convex: the rest holds.
    "sparse_simplex": (lambda x, value: projection.projection_sparse_simplex(x, 3, value=value), (1.5,)),
    "l1_sphere": (projection.projection_l1_sphere, (1.5,)),
    "l2_sphere": (projection.projection_l2_sphere, (1.5,)),
}
ON_TREES = [name for name in CASES if name != "second_order_cone"]
# Of arrays with a shape of their own.
CASES |= {
    "l12_ball": (lambda x, r: projection.projection_l12_ball(x.reshape(3, 2), r).reshape(-1), (1.5,)),
    "psd_cone": (lambda x: entries(projection.projection_psd_cone(symmetric(x))), ()),
    "spectrahedron": (lambda x, v: entries(projection.projection_spectrahedron(symmetric(x), v)), (1.5,)),
    "nuclear_norm_ball": (
        lambda x, r: projection.projection_nuclear_norm_ball(x.reshape(2, 3), r).reshape(-1),
        (1.5,),
    ),
    "exponential_cone": (two_cones(projection.projection_exponential_cone), ()),
    "dual_exponential_cone": (two_cones(projection.projection_dual_exponential_cone), ()),
    "power_cone": (two_cones(projection.projection_power_cone), (0.3,)),
    "dual_power_cone": (two_cones(projection.projection_dual_power_cone), (0.3,)),
    "transport": (transport(projection.projection_transport), (np.array([0.4, 0.6]), np.array([0.5, 0.3, 0.2]))),
    "kl_transport": (transport(projection.kl_projection_transport), (np.array([0.4, 0.6]), np.array([0.5, 0.3, 0.2]))),
}
CONVEX = [name for name in CASES if "sphere" not in name and "kl" not in name and name != "sparse_simplex"]
# Compiled twice over these take long: what they are made of is tested, and the rest in files of their own.
LIGHT = [name for name in CASES if not name.startswith("dual") and not name.endswith("transport")]
CURVED = [name for name in CASES if name.endswith("cone") or name.endswith("transport")]
X = np.array([0.9, -1.3, 2.1, 0.3, -0.2, 1.4])
FUNCTIONS = {name: jax.jit(fun) for name, (fun, _) in CASES.items()}


@functools.cache
def jacobian(name, kind):
    fun, params = CASES[name]
    if kind == "hessian":
        everything = tuple(range(1 + len(params)))
        return jax.jit(jax.hessian(lambda *args: jnp.sum(jnp.cos(fun(*args))), everything))
    return jax.jit({"fwd": jax.jacfwd, "rev": jax.jacrev}[kind](fun))


def call(name, x):
    fun, params = FUNCTIONS[name], CASES[name][1]
    return np.asarray(fun(jnp.asarray(x), *map(jnp.asarray, params)))


# Multiples of 1/4, so that ties and points on the boundary occur.
points = hnp.arrays(np.float64, N, elements=st.integers(-16, 16).map(lambda i: i / 4.0))


@pytest.mark.parametrize("name", CONVEX)
@hypothesis.given(x=points, y=points)
def test_is_the_projection_on_a_convex_set(name, x, y):
    px, py = call(name, x), call(name, y)
    np.testing.assert_allclose(call(name, px), px, atol=1e-9 if name in CURVED else 1e-12)
    # px is nearest to x among the points of the set, of which py is one.
    assert (x - px) @ (py - px) <= 1e-10
    # Firmly nonexpansive.
    assert np.sum((px - py) ** 2) <= (px - py) @ (x - y) + 1e-10


@pytest.mark.parametrize("name", ["simplex", "l1_ball", "l2_ball", "linf_ball", "l1_sphere", "l2_sphere"])
@hypothesis.given(x=points)
def test_lands_in_the_set(name, x):
    p = call(name, x)
    norm = {"l1": 1, "l2": 2, "li": np.inf}.get(name[:2], 1)
    radius = CASES[name][1][0]
    if name == "simplex":
        assert p.min() >= 0
    if "ball" in name:
        assert np.linalg.norm(p, norm) <= radius * (1 + 1e-14)
    else:
        np.testing.assert_allclose(np.linalg.norm(p, norm), radius, rtol=1e-14)


@pytest.mark.parametrize("name", [name for name in CASES if not name.startswith("dual")])
def test_derivatives_in_all_arguments(name):
    params = CASES[name][1]
    check_derivatives(CASES[name][0], (jnp.asarray(X), *map(jnp.asarray, params)))


@pytest.mark.parametrize("name", LIGHT)
@pytest.mark.parametrize("x", [X, np.zeros(N), np.full(N, 0.25), np.full(N, 0.75)], ids=["x", "zero", "ties", "bound"])
def test_derivatives_are_finite_and_symmetric(name, x):
    params = tuple(map(jnp.asarray, CASES[name][1]))
    jac = jacobian(name, "fwd")(jnp.asarray(x), *params)
    np.testing.assert_allclose(jac, jacobian(name, "rev")(jnp.asarray(x), *params), atol=1e-12)
    np.testing.assert_allclose(jac, jac.T, atol=1e-12)
    if name in CONVEX:
        eigenvalues = np.linalg.eigvalsh(jac)
        assert eigenvalues.min() >= -1e-12 and eigenvalues.max() <= 1 + 1e-12
    hessian = jacobian(name, "hessian")(jnp.asarray(x), *params)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(hessian))


@pytest.mark.parametrize("name", LIGHT)
def test_vmap_over_everything(name):
    fun, params = CASES[name]
    xs = jnp.stack([jnp.asarray(X), -jnp.asarray(X), jnp.zeros(N)])
    stacked = tuple(jnp.stack([jnp.asarray(p)] * 3) for p in params)
    batched = jax.jit(jax.vmap(fun))(xs, *stacked)
    np.testing.assert_allclose(batched, np.stack([call(name, x) for x in xs]), atol=1e-14)


@pytest.mark.parametrize("name", ["simplex", "l2_ball", "box_section"])
def test_derivatives_of_a_batch(name):
    fun, params = CASES[name]
    xs = jnp.stack([jnp.asarray(X), -jnp.asarray(X)])
    stacked = tuple(jnp.stack([jnp.asarray(p)] * 2) for p in params)
    jacobians = jax.jit(jax.vmap(jax.jacrev(fun)))(xs, *stacked)
    np.testing.assert_allclose(jacobians[0], jacobian(name, "fwd")(xs[0], *map(jnp.asarray, params)), atol=1e-12)


@pytest.mark.parametrize("name", [name for name in ON_TREES if name != "affine_set"])
def test_pytree_is_one_vector(name):
    fun, params = CASES[name]
    split = lambda v: {"a": jnp.asarray(v[:4]).reshape(2, 2), "b": (jnp.asarray(v[4]), jnp.asarray(v[5]))}
    tree = fun(split(X), *(split(p) if np.ndim(p) else p for p in params))
    expected = split(call(name, X))
    assert jax.tree.structure(tree) == jax.tree.structure(expected)
    jax.tree.map(lambda u, v: np.testing.assert_allclose(u, v, atol=1e-14), tree, expected)


MATRICES = {"a": jnp.asarray(X[:4].reshape(2, 2)), "b": (jnp.asarray(np.outer(X[:3], X[3:]) - np.eye(3)),)}
TRIPLES = {"a": jnp.asarray(X[:3]), "b": (jnp.asarray(X[3:]),)}


@pytest.mark.parametrize(
    "name", ["exponential_cone", "dual_exponential_cone", "power_cone", "dual_power_cone", "psd_cone"]
)
def test_every_leaf_is_in_a_cone_of_its_own(name):
    fun, tree = getattr(projection, f"projection_{name}"), MATRICES if name == "psd_cone" else TRIPLES
    jax.tree.map(lambda u, v: np.testing.assert_array_equal(u, fun(v)), fun(tree), tree)


@pytest.mark.parametrize("name", ["spectrahedron", "nuclear_norm_ball"])
def test_matrices_of_a_tree_are_blocks_of_one(name):
    fun = getattr(projection, f"projection_{name}")
    tree = MATRICES | {"a": MATRICES["a"].astype(jnp.float32)}
    out = fun(tree, 1.5)
    whole = fun(jax.scipy.linalg.block_diag(MATRICES["a"], *MATRICES["b"]), 1.5)
    assert out["a"].dtype == jnp.float32
    np.testing.assert_allclose(out["a"], whole[:2, :2], atol=1e-6)
    np.testing.assert_allclose(out["b"][0], whole[2:, 2:], atol=1e-6)
    if name == "nuclear_norm_ball":
        # Not square.
        row = {"a": jnp.array([[3.0, 4.0]]), "b": jnp.array([[2.0], [0.0]])}
        out = fun(row, 5.0)
        np.testing.assert_allclose(out["a"], [[2.4, 3.2]], atol=1e-14)
        np.testing.assert_allclose(out["b"], [[1.0], [0.0]], atol=1e-14)


@pytest.mark.parametrize("name", [name for name in ON_TREES if name not in ("affine_set", "sparse_simplex")])
def test_scalar_parameters_and_numbers_in_trees(name):
    fun, params = CASES[name]
    scalars = [p if np.ndim(p) == 0 else 1.0 for p in params]
    out = fun([1.0, 2], *scalars)
    np.testing.assert_allclose(jnp.stack(out), fun(jnp.array([1.0, 2.0]), *scalars))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_dtype_is_kept(name, dtype):
    fun, params = CASES[name]
    x = jnp.asarray(X, dtype)
    out = FUNCTIONS[name](x, *params)
    assert out.dtype == x.dtype and not out.weak_type
    wide = FUNCTIONS[name](x.astype(jnp.float32), *params)
    np.testing.assert_allclose(out.astype(jnp.float32), wide, atol=8 * float(jnp.finfo(dtype).eps))


@pytest.mark.parametrize("name", [name for name in ON_TREES if name != "affine_set"])
def test_mixed_dtypes_stay_leaf_by_leaf(name):
    fun, params = CASES[name]
    params = [p if np.ndim(p) == 0 else 1.0 for p in params]
    out = fun({"a": jnp.ones(2, jnp.float32), "b": jnp.ones(3, jnp.float64), "c": jnp.ones(1, jnp.bfloat16)}, *params)
    assert [leaf.dtype for leaf in jax.tree.leaves(out)] == [jnp.float32, jnp.float64, jnp.bfloat16]


@pytest.mark.parametrize("name", CASES)
def test_nan_shows(name):
    assert np.any(np.isnan(call(name, np.array([0.1, np.nan, 0.0, 5.0, 0.0, 1.0]))))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_an_infinite_entry_has_its_limit_or_shows(name, sign):
    x = sign * np.where(np.arange(N) == 2, np.inf, X)
    out = call(name, x)
    limit = call(name, np.where(np.isinf(x), np.sign(x) * 1e9, x))
    assert not np.all(np.isfinite(out)) or np.allclose(out, limit, rtol=0, atol=1e-6)


@pytest.mark.float32
@pytest.mark.parametrize("name", ["l2_ball", "l2_sphere", "l1_ball", "l1_sphere", "simplex"])
@pytest.mark.parametrize("magnitude", [1e30, 1e-30])
def test_extreme_magnitudes_in_float32(name, magnitude):
    fun = FUNCTIONS[name]
    x = np.array([3.0, -1.0, 2.5, 0.0], np.float32)
    expected = np.asarray(fun(jnp.asarray(x), jnp.float32(2.0))) * np.float32(magnitude)
    scaled = jnp.asarray(x * np.float32(magnitude))
    np.testing.assert_allclose(fun(scaled, jnp.float32(2 * magnitude)), expected, rtol=1e-6)
    # A radius that is nothing beside x.
    jac = jacobian(name, "rev")(jnp.asarray(x * np.float32(1e30)), jnp.float32(1.0))
    assert np.all(np.isfinite(jac))


@pytest.mark.parametrize("name", ON_TREES)
def test_integers_become_floats(name):
    fun, params = CASES[name]
    out = fun(jnp.array([1, -2, 3, 0, 0, 1]), *params)
    np.testing.assert_allclose(out, call(name, np.array([1.0, -2, 3, 0, 0, 1])), atol=1e-14)


@pytest.mark.parametrize("name", [n for n in ON_TREES if "l2" not in n])
def test_complex_and_text_are_type_errors(name):
    fun, params = CASES[name]
    with pytest.raises(TypeError, match="x must be real"):
        fun(jnp.ones(N, complex), *params)
    with pytest.raises(TypeError, match="x must be a pytree of arrays"):
        fun("text", *params)


RADIUS = ["simplex", "l1_ball", "l1_sphere", "l2_ball", "l2_sphere", "hypercube", "linf_ball"]


@pytest.mark.parametrize("name", RADIUS)
def test_radius_is_checked(name):
    fun = CASES[name][0]
    with pytest.raises(ValueError, match=r"must be non-negative, got -1"):
        fun(jnp.ones(3), -1.0)
    with pytest.raises(ValueError, match="non-negative"):
        fun(jnp.ones(3), jnp.asarray(jnp.nan))
    if name not in ("hypercube", "linf_ball"):
        with pytest.raises(ValueError, match="must be a scalar, got shape"):
            fun(jnp.ones(3), jnp.ones(3))
        assert np.all(np.isnan(jax.jit(fun)(jnp.ones(3), -1.0)))
    np.testing.assert_array_equal(fun(jnp.ones(3), None), fun(jnp.ones(3), 1.0))


@pytest.mark.parametrize("name", [n for n in RADIUS if n not in ("hypercube", "linf_ball")])
def test_radius_zero(name):
    fun = FUNCTIONS[name]
    for x in (jnp.array([1.0, -2.0, 1.0]), jnp.zeros(3)):
        np.testing.assert_array_equal(fun(x, 0.0), np.zeros(3))
        np.testing.assert_array_equal(jacobian(name, "rev")(x, 0.0), np.zeros((3, 3)))
        assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(jacobian(name, "hessian")(x, 0.0)))


@pytest.mark.parametrize("name", ["l1_ball", "l2_ball", "linf_ball", "hypercube"])
def test_infinite_radius(name):
    fun, x = CASES[name][0], jnp.array([1.0, 2.0, 3.0])
    np.testing.assert_array_equal(fun(x, jnp.inf), x)
    np.testing.assert_array_equal(jax.jit(jax.jacrev(fun))(x, jnp.inf), np.eye(3))


@pytest.mark.parametrize("name", ["box", "hyperplane", "halfspace", "box_section", "affine_set"])
def test_hyperparams_must_be_a_tuple_of_the_right_length(name):
    fun = getattr(projection, f"projection_{name}")
    with pytest.raises(ValueError, match="hyperparams must be the tuple .*got 1 entries"):
        fun(jnp.ones(3), (1.0,))
    with pytest.raises(ValueError, match="hyperparams must be the tuple .*got float"):
        fun(jnp.ones(3), 1.0)


def test_eager_calls_compile_once():
    x = jnp.arange(7.0)
    fun = lambda x: projection.projection_box_section(projection.projection_l1_ball(x, 2.0), (0.0, 1.0, 1.0, 1.5))
    y = x + 1
    fun(x)
    events = []
    listen = lambda name, duration, **kwargs: events.append(name)
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        fun(y)
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert not [name for name in events if "backend_compile" in name]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_where_a_value_is_nan_its_derivative_is_too(bad):
    x = jnp.array([bad, 0.5, 1.0])
    section = lambda v: projection.projection_box_section(v, (jnp.zeros(3), jnp.ones(3), jnp.ones(3), 1.0))
    ranks = lambda v: projection.projection_permutahedron(v, jnp.arange(3.0))
    for fun in (projection.projection_simplex, section, ranks, projection.projection_monotone_cone):
        for mode in (jax.jacrev, jax.jacfwd):
            jacobian = jax.jit(mode(fun))(x)
            assert np.all(np.any(np.isnan(jacobian), axis=1) | ~np.isnan(fun(x)))
    assert np.all(np.isnan(projection.projection_simplex(jnp.full(3, -jnp.inf))))
