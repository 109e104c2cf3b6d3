"""Polyhedron: against other projections, redundant rows, empty sets, derivatives, under jit with default options."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from jaxsolve import projection
from jaxsolve.projection import projection_polyhedron
from tests.programs import bodies_of_loops, kernels
from tests.projection.checks import check_derivatives

X = jnp.array([0.9, -1.3, 2.1, 0.3])
ONES, NONE = jnp.ones((1, 4)), (jnp.zeros((0, 4)), jnp.zeros(0))
SIMPLEX = (ONES, jnp.ones(1), -jnp.eye(4), jnp.zeros(4))
project = jax.jit(projection_polyhedron)


# Rows twice, and a bound that is not there.
DOUBLED = (jnp.tile(ONES, (2, 1)), jnp.ones(2), jnp.tile(-jnp.eye(4), (2, 1)), jnp.zeros(8).at[4].set(jnp.inf))


def test_known_sets():
    np.testing.assert_allclose(projection_polyhedron(X, DOUBLED), projection.projection_simplex(X), atol=1e-8)
    halfspace = (*NONE, ONES, jnp.ones(1))
    np.testing.assert_allclose(project(X, halfspace), projection.projection_halfspace(X, (1.0, 1.0)), atol=1e-8)


def _sets(rng, count):
    """Random sets with a point, in general position and not: rows twice, many rows at one point, small integers."""
    for k in range(count):
        rows = rng.normal(size=(11, 5)) if k % 3 else rng.integers(-1, 2, size=(11, 5)).astype(float)
        if k % 4 == 0:
            rows[6:] = rows[1:6]
        inside, slack = rng.integers(-2, 3, size=5), rng.exponential(size=11) * (rng.uniform(size=11) < k % 5 / 4)
        bound = rows @ inside
        yield inside + 10 ** rng.uniform(-2, 2) * rng.normal(size=5), rows[:1], bound[:1], rows[1:], (bound + slack)[1:]


def test_optimality_conditions_of_random_sets():
    sets = [np.stack(parts) for parts in zip(*_sets(np.random.default_rng(0), 40), strict=True)]
    out = jax.jit(jax.vmap(lambda x, *data: projection_polyhedron(x, data)))(*map(jnp.asarray, sets))
    for x, A, b, G, h, z in zip(*sets, np.asarray(out), strict=True):
        size = np.linalg.norm(x - z)
        np.testing.assert_allclose(A @ z, b, atol=1e-12 * (size + np.max(np.abs(z))))
        assert np.all(G @ z <= h + 1e-12 * (size + np.max(np.abs(z))))
        # x - z is a combination of the normals of the rows that hold, with the right signs.
        normals = np.concatenate([A, -A, G[G @ z > h - 1e-9 * (1 + size)]])
        assert scipy.optimize.nnls(normals.T, x - z, maxiter=1000)[1] <= 1e-12 * size


def test_derivatives_of_undecided_and_repeated_rows():
    G, h = jnp.array([[1.0, 0.0, 0.0], [2.0, 0.0, 0.0], [0.0, 1.0, 0.0]]), jnp.array([1.0, 2.0, 1.0])
    none = jnp.zeros((0, 3)), jnp.zeros(0)
    value, jacobian = jax.jit(lambda x, h: (projection_polyhedron(x, (*none, G, h)), _jacobian(none, G)(x, h)))(
        jnp.array([3.0, 1.0, 0.5]), h
    )
    np.testing.assert_allclose(value, [1.0, 1.0, 0.5], atol=1e-15)
    # The second entry is at its bound without a push: half. The first has two bounds, each of which moves it by half,
    # in its own unit.
    np.testing.assert_allclose(jacobian[0], np.diag([0.0, 0.5, 1.0]), atol=1e-12)
    np.testing.assert_allclose(jacobian[1], [[0.5, 0.25, 0.0], [0.0, 0.0, 0.5], [0.0, 0.0, 0.0]], atol=1e-12)


def _jacobian(none, G):
    return jax.jacobian(lambda x, h: projection_polyhedron(x, (*none, G, h)), argnums=(0, 1))


def test_derivatives():
    G, h = jnp.array([[1.0, 0.5, 0.0, -1.0], [0.0, 1.0, -1.0, 0.25]]), jnp.array([0.5, -4.0])
    fun = lambda x, A, b, G, h: projection_polyhedron(x, (A, b, G, h))
    check_derivatives(fun, (X, ONES, jnp.array([1.5]), G, h))


def test_empty_and_bad_sets():
    empty = (*DOUBLED[:2], jnp.tile(ONES, (8, 1)), jnp.zeros(8))
    with pytest.raises(ValueError, match="no point satisfies"):
        projection_polyhedron(X, empty)
    unchecked = lambda x: projection_polyhedron(x, empty, check_feasible=False)
    assert np.all(np.isnan(unchecked(X))) and not np.any(np.isfinite(unchecked(X.at[0].set(jnp.inf))))
    # The derivative is NaN where the value is: in both modes, and in rows that no step has looked at.
    for mode in (jax.jacfwd, jax.jacrev):
        derivatives = mode(lambda *data: projection_polyhedron(data[0], data[1:], check_feasible=False), range(5))
        assert all(np.all(np.isnan(part)) for part in derivatives(X, *empty))
    with pytest.raises(ValueError, match="hyperparams must be the tuple"):
        projection_polyhedron(X, (ONES, jnp.ones(1)))
    with pytest.raises(ValueError, match="G must have a row for each entry of h"):
        projection_polyhedron(X, (ONES, jnp.ones(1), ONES, jnp.ones(2)))


def test_float32_and_batches():
    x = X.astype(jnp.float32)
    sets = jax.tree.map(lambda v: v.astype(jnp.float32), SIMPLEX)
    out = jax.jit(jax.vmap(projection_polyhedron, in_axes=(0, None)))(jnp.stack([x, -x]), sets)
    assert out.dtype == jnp.float32
    np.testing.assert_allclose(out, jax.vmap(projection.projection_simplex)(jnp.stack([x, -x])), atol=1e-4)


@pytest.mark.float32
def test_float32_at_a_vertex():
    # From the cone of the normals the projection is the vertex: accurate to the rounding of its equations.
    rng = np.random.default_rng(0)
    G, vertex = rng.normal(size=(64, 12, 6)), rng.normal(size=(64, 6))
    h = np.einsum("kmn,kn->km", G, vertex)
    h[:, 6:] += rng.uniform(0.1, 1, size=(64, 6))
    x = vertex + np.einsum("kmn,km->kn", G[:, :6], rng.exponential(size=(64, 6)))
    x, G, h = (v.astype(np.float32) for v in (x, G, h))
    none = jnp.zeros((0, 6), jnp.float32), jnp.zeros(0, jnp.float32)
    out = jax.jit(jax.vmap(lambda x, G, h: projection_polyhedron(x, (*none, G, h))))(x, G, h)
    face = G[:, :6].astype(np.float64)
    exact = np.linalg.solve(face, h[:, :6, None].astype(np.float64))[..., 0]
    assert np.all(np.max(np.abs(np.asarray(out) - exact), axis=1) <= 1e-6 * np.linalg.cond(face))


def test_kernels():
    """Compilation takes as long as there are kernels: those of an exchange, and all others."""
    text = project.lower(X, SIMPLEX).compile().as_text()
    (exchange,) = bodies_of_loops(text)
    rest = text.splitlines()
    rest = rest[next(i for i, line in enumerate(rest) if line.startswith("ENTRY")) :]
    assert kernels(exchange) <= 50 and kernels(rest) <= 42


def test_explicit_mesh():
    mesh = jax.make_mesh((1,), ("d",), axis_types=(jax.sharding.AxisType.Explicit,))
    with jax.set_mesh(mesh):
        x, G = (jax.device_put(v, jax.NamedSharding(mesh, jax.P("d"))) for v in (X, SIMPLEX[2]))
        np.testing.assert_allclose(
            projection_polyhedron(x, (*SIMPLEX[:2], G, SIMPLEX[3])), project(X, SIMPLEX), atol=1e-15
        )
