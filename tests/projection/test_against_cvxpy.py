"""Every projection against the conic program that defines it, solved by CVXPY."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsolve import projection
from tests.conic_programs import check_against_program

cvxpy = pytest.importorskip("cvxpy")

N = 6
NORMAL = np.array([1.0, -2.0, 0.5, 0.0, 1.5, -0.25])
UPPER = 0.75 + 0.1 * np.arange(N)
SYSTEM = np.array([[1.0, -1.0, 0.5, 0.0, 2.0, 0.25], [0.0, 1.0, 1.0, -0.5, 0.0, 1.5]])
LEVELS = np.array([0.5, -1.0])
WEIGHTS = np.array([0.5, 2.0, -1.0, 1.25, 0.5, 3.0])
MARGINALS = np.array([0.4, 0.6]), np.array([0.5, 0.3, 0.2])
ONES = np.ones(3), np.ones(3)


def distance(p, x):
    return cvxpy.sum_squares(p - x)


def divergence(p, x):
    """Of ``p`` from ``exp(x)``, but for a constant and where the sum of ``p`` is given."""
    return -cvxpy.sum(cvxpy.entr(p)) - cvxpy.sum(cvxpy.multiply(x, p))


def permutahedron(p):
    largest = (cvxpy.sum_largest(p, k) <= np.sort(WEIGHTS)[-k:].sum() for k in range(1, N))
    return [cvxpy.sum(p) == WEIGHTS.sum(), *largest]


def has_marginals(p, marginals):
    return [p >= 0, cvxpy.sum(p, axis=1) == marginals[0], cvxpy.sum(p, axis=0) == marginals[1]]


# name -> (the projection, the constraints, the shape of x)
CASES = {
    "non_negative": (projection.projection_non_negative, lambda p: [p >= 0], N),
    "box": (lambda x: projection.projection_box(x, (-0.5, UPPER)), lambda p: [p >= -0.5, p <= UPPER], N),
    "hypercube": (lambda x: projection.projection_hypercube(x, 0.75), lambda p: [p >= 0, p <= 0.75], N),
    "linf_ball": (lambda x: projection.projection_linf_ball(x, 0.75), lambda p: [cvxpy.norm(p, "inf") <= 0.75], N),
    "simplex": (lambda x: projection.projection_simplex(x, 1.5), lambda p: [p >= 0, cvxpy.sum(p) == 1.5], N),
    "l1_ball": (lambda x: projection.projection_l1_ball(x, 1.5), lambda p: [cvxpy.norm(p, 1) <= 1.5], N),
    "l2_ball": (lambda x: projection.projection_l2_ball(x, 1.5), lambda p: [cvxpy.norm(p, 2) <= 1.5], N),
    "hyperplane": (lambda x: projection.projection_hyperplane(x, (NORMAL, 0.5)), lambda p: [NORMAL @ p == 0.5], N),
    "halfspace": (lambda x: projection.projection_halfspace(x, (NORMAL, 0.5)), lambda p: [NORMAL @ p <= 0.5], N),
    "affine_set": (
        lambda x: projection.projection_affine_set(x, (SYSTEM, LEVELS)),
        lambda p: [SYSTEM @ p == LEVELS],
        N,
    ),
    "polyhedron": (
        lambda x: projection.projection_polyhedron(x, (NORMAL[None], LEVELS[:1], SYSTEM, LEVELS)),
        lambda p: [NORMAL @ p == LEVELS[0], SYSTEM @ p <= LEVELS],
        N,
    ),
    "box_section": (
        lambda x: projection.projection_box_section(x, (-1.0, UPPER, NORMAL, 0.7)),
        lambda p: [p >= -1, p <= UPPER, NORMAL @ p == 0.7],
        N,
    ),
    "capped_simplex": (
        lambda x: projection.projection_capped_simplex(x, 1.5, 0.5),
        lambda p: [p >= 0, p <= 0.5, cvxpy.sum(p) == 1.5],
        N,
    ),
    "ordered_simplex": (
        lambda x: projection.projection_ordered_simplex(x, 1.5),
        lambda p: [p >= 0, cvxpy.diff(p) <= 0, cvxpy.sum(p) == 1.5],
        N,
    ),
    "monotone_cone": (projection.projection_monotone_cone, lambda p: [cvxpy.diff(p) >= 0], N),
    "falling_cone": (
        lambda x: projection.projection_monotone_cone(x, increasing=False),
        lambda p: [cvxpy.diff(p) <= 0],
        N,
    ),
    "permutahedron": (lambda x: projection.projection_permutahedron(x, WEIGHTS), permutahedron, N),
    "second_order_cone": (projection.projection_second_order_cone, lambda p: [cvxpy.SOC(p[0], p[1:])], N),
    "exponential_cone": (projection.projection_exponential_cone, lambda p: [cvxpy.ExpCone(p[0], p[1], p[2])], 3),
    "dual_exponential_cone": (
        projection.projection_dual_exponential_cone,
        lambda p: [cvxpy.ExpCone(-p[1], -p[0], np.e * p[2])],
        3,
    ),
    "power_cone": (
        lambda x: projection.projection_power_cone(x, 0.3),
        lambda p: [cvxpy.PowCone3D(p[0], p[1], p[2], 0.3)],
        3,
    ),
    "dual_power_cone": (
        lambda x: projection.projection_dual_power_cone(x, 0.3),
        lambda p: [cvxpy.PowCone3D(p[0] / 0.3, p[1] / 0.7, p[2], 0.3)],
        3,
    ),
    "l12_ball": (
        lambda x: projection.projection_l12_ball(x, 1.5),
        lambda p: [cvxpy.sum(cvxpy.norm(p, 2, axis=1)) <= 1.5],
        (3, 2),
    ),
    "psd_cone": (projection.projection_psd_cone, lambda p: [p >> 0], (3, 3)),
    "spectrahedron": (
        lambda x: projection.projection_spectrahedron(x, 1.5),
        lambda p: [p >> 0, cvxpy.trace(p) == 1.5],
        (3, 3),
    ),
    "nuclear_norm_ball": (
        lambda x: projection.projection_nuclear_norm_ball(x, 1.5),
        lambda p: [cvxpy.normNuc(p) <= 1.5],
        (2, 3),
    ),
    "transport": (
        lambda x: projection.projection_transport(x, MARGINALS),
        lambda p: has_marginals(p, MARGINALS),
        (2, 3),
    ),
    "birkhoff": (projection.projection_birkhoff, lambda p: has_marginals(p, ONES), (3, 3)),
    "kl_simplex": (lambda x: projection.kl_projection_simplex(x, 1.5), lambda p: [cvxpy.sum(p) == 1.5], N),
    "kl_transport": (
        lambda x: projection.kl_projection_transport(x, MARGINALS),
        lambda p: has_marginals(p, MARGINALS),
        (2, 3),
    ),
    "kl_birkhoff": (projection.kl_projection_birkhoff, lambda p: has_marginals(p, ONES), (3, 3)),
}


# Where the boundary is curved the solver finds half as many digits.
CURVED = (
    "second_order_cone",
    "exponential_cone",
    "dual_exponential_cone",
    "power_cone",
    "dual_power_cone",
    "kl_simplex",
)
SYMMETRIC = ("psd_cone", "spectrahedron")


@pytest.mark.parametrize("name", CASES)
def test_is_the_solution_of_the_program(name):
    fun, constraints, shape = CASES[name]
    rng = np.random.default_rng(0)
    xs = [size * rng.normal(size=shape) for size in (0.3, 1.0, 4.0)]
    if name in SYMMETRIC:
        xs = [x + x.T for x in xs]
    objective = divergence if name.startswith("kl") else distance
    atol = 2e-6 if name in CURVED else 1e-8
    check_against_program(jax.jit(fun), objective, constraints, xs, atol, symmetric=name in SYMMETRIC)


# Sets that are unions of simplices: the signs of the entries on each, 0 for entries that are 0.
UNIONS = {
    "l1_sphere": (projection.projection_l1_sphere, list(itertools.product((-1.0, 1.0), repeat=4))),
    "sparse_simplex": (
        lambda x, value: projection.projection_sparse_simplex(x, 2, value=value),
        [np.isin(range(4), kept).astype(float) for kept in itertools.combinations(range(4), 2)],
    ),
}


@pytest.mark.parametrize("name", UNIONS)
def test_is_the_nearest_point_of_all_pieces(name):
    fun, pieces = UNIONS[name]
    x = np.random.default_rng(0).normal(size=4)
    size, found = cvxpy.Variable(4), []
    for signs in map(np.array, pieces):
        to_piece = cvxpy.sum_squares(cvxpy.multiply(signs, size) - x)
        program = cvxpy.Problem(cvxpy.Minimize(to_piece), [size >= 0, np.abs(signs) @ size == 1.5])
        found.append((program.solve(solver="CLARABEL"), signs * size.value))
    np.testing.assert_allclose(fun(jnp.asarray(x), 1.5), min(found, key=lambda pair: pair[0])[1], atol=1e-6)


def test_every_projection_is_here():
    # The Euclidean sphere has a closed form; the last three have their own oracles, in files of their own.
    names = {name.replace("projection_", "") for name in projection.__all__}
    assert names - {"l2_sphere", "entmax", "kl_unbalanced_transport", "kl_partial_transport"} <= {*CASES, *UNIONS}
