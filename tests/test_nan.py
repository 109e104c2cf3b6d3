"""One NaN among thousands of entries shows in the value, and where a value is NaN its derivative is too.

``jnp.max`` forgets a NaN in large arrays on the CPU, from sizes on that depend on the version of jaxlib.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsolve
from jaxsolve import loss, projection
from jaxsolve._compat import max_abs, max_or_nan, min_or_nan
from tests import test_laws_of_scale as laws

DTYPES = [pytest.param(np.float32, marks=pytest.mark.float32), np.float64]
SIZE, PLACE = 5000, 1777
# Functions of vectors of any length, by what they do with the entries: of a NaN each makes one, or all.
BY_ENTRY = """
    prox_none prox_lasso prox_non_negative_lasso prox_ridge prox_non_negative_ridge prox_elastic_net prox_huber
    prox_quantile prox_log_barrier prox_kl prox_reverse_kl prox_l0 prox_mcp prox_scad make_prox_translated
    make_prox_scaled make_prox_conjugate make_prox_boxed projection_non_negative projection_box projection_hypercube
    projection_linf_ball huber_loss binary_hinge_loss binary_logistic_loss binary_perceptron_loss
    binary_sparsemax_loss
""".split()
TOGETHER = """
    prox_group_lasso prox_non_negative_group_lasso prox_sparse_group_lasso prox_linf prox_slope prox_total_variation
    projection_l1_ball projection_l1_sphere projection_l2_ball projection_l2_sphere projection_simplex
    projection_ordered_simplex projection_capped_simplex projection_monotone_cone projection_permutahedron
    projection_second_order_cone kl_projection_simplex isotonic_l2_pav soft_sort soft_rank entmax
    multiclass_perceptron_loss multiclass_hinge_loss multiclass_logistic_loss multiclass_entmax_loss
    multiclass_sparsemax_loss make_fenchel_young_loss
""".split()
QUICK = """
    prox_lasso prox_kl projection_box projection_non_negative huber_loss binary_hinge_loss entmax
    multiclass_perceptron_loss make_fenchel_young_loss
""".split()
# The identity has the derivative of an identity.
IDENTITIES = ("prox_none",)
OTHERS = {
    "entmax": lambda x: projection.entmax(x, 1.5),
    **{name: lambda x, name=name: getattr(loss, name)(x > 0, x) for name in loss.__all__ if name.startswith("binary")},
    **{name: lambda x, name=name: getattr(loss, name)(1, x) for name in loss.__all__ if name.startswith("multiclass")},
}


def _entries(like, dtype):
    entries = np.random.default_rng(0).standard_normal(SIZE)
    return (entries if np.any(np.asarray(like) < 0) else np.abs(entries) + 0.1).astype(dtype)


def _arguments(name, dtype):
    """A function, and arguments with long vectors in place of those of the table."""
    if name in OTHERS:
        return OTHERS[name], [_entries(laws.X, dtype)]
    vocable = laws.VOCABLES[name]
    args = [_entries(a, dtype) if np.shape(a) == laws.X.shape else np.asarray(a, dtype) for a in vocable.args]
    return vocable.fun, args


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in BY_ENTRY + TOGETHER]
)
def test_one_nan_shows(name, dtype):
    """In the value, and in the derivative."""
    fun, args = _arguments(name, dtype)

    @jax.jit
    def along(*args):
        out, tangent = jax.jvp(fun, args, jax.tree.map(jnp.ones_like, args))
        return out, tangent, jax.grad(lambda x: jnp.sum(fun(x, *args[1:])))(args[0])

    for place in [i for i, arg in enumerate(args) if arg.shape == (SIZE,)]:
        given = list(map(np.copy, args))
        given[place][PLACE] = np.nan
        out, tangent, grad = jax.device_get(along(*map(jnp.asarray, given)))
        expected = np.isnan(given[place]) if name in BY_ENTRY else np.ones(np.shape(out), bool)
        np.testing.assert_array_equal(np.isnan(out), expected)
        if name not in IDENTITIES:
            np.testing.assert_array_equal(np.isnan(tangent), expected)
            assert np.isnan(grad[PLACE])


@pytest.mark.parametrize(
    "dtype, size", [pytest.param(np.float32, 100_000, marks=pytest.mark.float32), (np.float64, SIZE)]
)
def test_maxima_say_nan(size, dtype):
    """Of all entries or along an axis, with their derivatives; ``jnp.max`` itself does not."""
    x = np.random.default_rng(0).standard_normal(size).astype(dtype)
    bad = x.copy()
    bad[size // 3] = np.nan
    both = jnp.asarray(np.stack([x, bad]))
    for fun, oracle in ((max_or_nan, np.max), (min_or_nan, np.min), (max_abs, lambda x: np.max(np.abs(x)))):
        for axis, rows in ((1, both), (0, both.T)):
            values, grad = jax.jit(lambda v, f=fun, a=axis: (f(v, a), jax.grad(lambda v: jnp.sum(f(v, a)))(v)))(rows)
            np.testing.assert_array_equal(values, [oracle(x), np.nan])
            grad = np.asarray(grad if axis else grad.T)
            assert np.isnan(grad[1]).all()
            np.testing.assert_array_equal(np.flatnonzero(grad[0]), np.flatnonzero(np.abs(x) == np.abs(oracle(x))))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_bisection_with_one_bad_entry_has_not_converged(dtype):
    low = np.zeros(100_000, dtype)
    theta = np.full(low.shape, 0.25, dtype)
    # Not bad at the ends, where it would be seen at once.
    theta[SIZE // 3] = np.nan
    fun = lambda x, theta: jnp.where((x == 0) | (x == 1), x - 0.5, x - theta)
    solver = jaxsolve.Bisection(fun, lower=jnp.asarray(low), upper=jnp.asarray(low + 1), check_bracket=False)
    _, state = solver.run(None, jnp.asarray(theta))
    assert int(state.status) == jaxsolve.Status.NONFINITE
