"""Every proximity operator against the convex program that defines it, solved by CVXPY."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsolve import projection, prox
from tests.conic_programs import check_against_program

cvxpy = pytest.importorskip("cvxpy")

N = 6
SCALING = 0.7
LABELS = np.array([1.0, -1.0, 1.0, 1.0, -1.0, -1.0])
TARGET = np.array([0.5, 1.0, 2.0, 0.25, 1.0, 0.1])
WEIGHTS = np.array([1.2, 0.7, 0.5, 0.5, 0.1, 0.0])


def nothing(p):
    return []


def non_negative(p):
    return [p >= 0]


def sorted_norm(p):
    steps = WEIGHTS - np.append(WEIGHTS[1:], 0.0)
    return sum(step * cvxpy.sum_largest(cvxpy.abs(p), k + 1) for k, step in enumerate(steps))


def pieces(x, hyperparams, scaling):
    parts = (x[:2], {"rest": x[2:]})
    first, second = prox.make_prox_separable((prox.prox_ridge, {"rest": prox.prox_linf}))(parts, hyperparams, scaling)
    return jnp.concatenate([first, second["rest"]])


# name -> (prox, hyperparameters, penalty, constraints, shape)
CASES = {
    "lasso": (prox.prox_lasso, WEIGHTS, lambda p: WEIGHTS @ cvxpy.abs(p), nothing, N),
    "non_negative_lasso": (prox.prox_non_negative_lasso, 0.5, lambda p: 0.5 * cvxpy.sum(p), non_negative, N),
    "elastic_net": (
        prox.prox_elastic_net,
        (0.5, 0.75),
        lambda p: 0.5 * cvxpy.norm(p, 1) + 0.1875 * cvxpy.sum_squares(p),
        nothing,
        N,
    ),
    "ridge": (prox.prox_ridge, 0.5, lambda p: 0.25 * cvxpy.sum_squares(p), nothing, N),
    "non_negative_ridge": (
        prox.prox_non_negative_ridge,
        0.5,
        lambda p: 0.25 * cvxpy.sum_squares(p),
        non_negative,
        N,
    ),
    "group_lasso": (prox.prox_group_lasso, 0.5, lambda p: 0.5 * cvxpy.norm(p), nothing, N),
    "non_negative_group_lasso": (
        prox.prox_non_negative_group_lasso,
        0.5,
        lambda p: 0.5 * cvxpy.norm(p),
        non_negative,
        N,
    ),
    "sparse_group_lasso": (
        prox.prox_sparse_group_lasso,
        (0.3, 0.5),
        lambda p: 0.3 * cvxpy.norm(p, 1) + 0.5 * cvxpy.norm(p),
        nothing,
        N,
    ),
    "linf": (prox.prox_linf, 0.75, lambda p: 0.75 * cvxpy.norm(p, "inf"), nothing, N),
    "slope": (prox.prox_slope, WEIGHTS, sorted_norm, nothing, N),
    "total_variation": (prox.prox_total_variation, 0.75, lambda p: 0.75 * cvxpy.tv(p), nothing, 12),
    "nuclear_norm": (prox.prox_nuclear_norm, 0.75, lambda p: 0.75 * cvxpy.normNuc(p), nothing, (2, 3)),
    "spectral_norm": (prox.prox_spectral_norm, 0.75, lambda p: 0.75 * cvxpy.sigma_max(p), nothing, (2, 3)),
    "l12": (prox.prox_l12, 0.75, lambda p: 0.75 * cvxpy.sum(cvxpy.norm(p, 2, axis=1)), nothing, (2, 3)),
    "l1inf": (prox.prox_l1inf, 0.75, lambda p: 0.75 * cvxpy.sum(cvxpy.norm(p, "inf", axis=1)), nothing, (2, 3)),
    "huber": (prox.prox_huber, 0.75, lambda p: 0.5 * cvxpy.sum(cvxpy.huber(p, 0.75)), nothing, N),
    "quantile": (
        prox.prox_quantile,
        0.75,
        lambda p: cvxpy.sum(0.75 * cvxpy.pos(p) + 0.25 * cvxpy.neg(p)),
        nothing,
        N,
    ),
    "hinge": (
        prox.prox_hinge,
        LABELS,
        lambda p: cvxpy.sum(cvxpy.pos(1 - cvxpy.multiply(LABELS, p))),
        nothing,
        N,
    ),
    "squared_hinge": (
        prox.prox_squared_hinge,
        LABELS,
        lambda p: 0.5 * cvxpy.sum_squares(cvxpy.pos(1 - cvxpy.multiply(LABELS, p))),
        nothing,
        N,
    ),
    "log_barrier": (prox.prox_log_barrier, TARGET, lambda p: -TARGET @ cvxpy.log(p), nothing, N),
    "kl": (prox.prox_kl, TARGET, lambda p: cvxpy.sum(cvxpy.kl_div(p, TARGET)), nothing, N),
    "reverse_kl": (prox.prox_reverse_kl, TARGET, lambda p: cvxpy.sum(cvxpy.kl_div(TARGET, p)), nothing, N),
    "from_projection": (
        prox.make_prox_from_projection(projection.projection_simplex),
        1.5,
        lambda p: 0.0,
        lambda p: [p >= 0, cvxpy.sum(p) == 1.5],
        N,
    ),
    "conjugate": (
        prox.make_prox_conjugate(prox.prox_huber),
        0.75,
        lambda p: 0.5 * cvxpy.sum_squares(p),
        lambda p: [cvxpy.abs(p) <= 0.75],
        N,
    ),
    "scaled": (
        prox.make_prox_scaled(prox.prox_group_lasso, -2.0),
        0.5,
        lambda p: 0.5 * cvxpy.norm(-2 * p),
        nothing,
        N,
    ),
    "translated": (
        prox.make_prox_translated(prox.prox_linf, TARGET),
        0.75,
        lambda p: 0.75 * cvxpy.norm(p - TARGET, "inf"),
        nothing,
        N,
    ),
    "boxed": (
        prox.make_prox_boxed(prox.prox_lasso, -0.5, TARGET),
        0.5,
        lambda p: 0.5 * cvxpy.norm(p, 1),
        lambda p: [p >= -0.5, p <= TARGET],
        N,
    ),
    "separable": (
        pieces,
        (0.5, {"rest": 0.75}),
        lambda p: 0.25 * cvxpy.sum_squares(p[:2]) + 0.75 * cvxpy.norm(p[2:], "inf"),
        nothing,
        N,
    ),
}
# Where the penalty is curved the solver finds half as many digits.
CURVED = (
    "group_lasso",
    "spectral_norm",
    "non_negative_group_lasso",
    "sparse_group_lasso",
    "log_barrier",
    "kl",
    "reverse_kl",
    "scaled",
)


@pytest.mark.parametrize("name", CASES)
def test_is_the_solution_of_the_program(name):
    fun, hyperparams, penalty, constraints, shape = CASES[name]
    rng = np.random.default_rng(0)
    xs = [size * rng.normal(size=shape) for size in (0.3, 1.0, 4.0)]
    compiled = jax.jit(lambda x: fun(x, hyperparams, SCALING))
    objective = lambda p, x: 0.5 * cvxpy.sum_squares(p - x) + SCALING * penalty(p)
    check_against_program(compiled, objective, constraints, xs, 2e-6 if name in CURVED else 1e-8)


def test_every_prox_is_here():
    names = {name.replace("make_prox_", "").replace("prox_", "") for name in prox.__all__}
    # Three are of no convex function, and some are computed by a solver, in test_splitting.
    elsewhere = {"none", "l0", "mcp", "scad", "sum", "composed", "groups", "graph_total_variation"}
    assert names - elsewhere <= {*CASES}
