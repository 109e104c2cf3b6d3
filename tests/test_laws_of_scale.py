"""Units: what a function of the vocabulary does when its arguments are measured in other units.

Each public function obeys a law: arguments times powers of a unit give the result times a power of it, bit for bit for
units that are powers of two, and derivatives likewise. The table states them; a name that is missing fails. Units go
to the ends of the range of the dtype, where squares overflow and vanish.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsolve import isotonic, loss, projection, prox
from tests.registry import float_dtype


class Law(NamedTuple):
    """Powers of the unit.

    Attributes:
        of: one for each argument.
        out: that of the result.
        rounding: None if the law holds bit for bit; else in units of rounding, relative to the largest entry.
        part: of the range of the dtype in which all that occurs stays representable: the derivative of a quotient has
            the square of the denominator, and a correction of the last digits is as much smaller.
    """

    of: tuple
    out: int
    rounding: float | None = None
    part: float = 1.0


class Vocable(NamedTuple):
    """A function of real arrays, arguments for it, and its laws.

    Attributes:
        fun: with one array as result.
        args: arrays or numbers, one for each argument.
        laws: of the function.
    """

    fun: object
    args: tuple
    laws: tuple


# Entries at 0 and of either sign, of several sizes, and none at a kink.
X = np.array([1.3, -0.45, 0.0, 2.6, -3.1, 0.07])
POSITIVE = np.array([1.3, 0.45, 0.7, 2.6, 3.1, 0.07])
MATRIX = np.array([[1.3, -0.45, 0.2], [2.6, -3.1, 0.07]])
SQUARE = np.array([[1.3, -0.45, 0.2], [2.6, -3.1, 0.07], [0.9, 0.4, -0.8]])
TRIPLE = np.array([0.8, -0.3, 1.1])
ROWS = np.array([[1.0, -1.0, 0.5, 0.0, 2.0, 0.25], [0.0, 1.0, 1.0, -0.5, 0.0, 1.5]])
EDGES = np.array([[0, 1], [1, 3], [3, 5]])
# The sums of rows and of columns of a plan.
SHARES = (np.array([0.5, 1.25]), np.array([0.875, 0.5, 0.375]))
PLAN = (Law((1, 1, 1), 1), Law((0, 1, 1), 1))
WEIGHTS = np.array([1.1, 0.9, 0.6, 0.5, 0.3, 0.2])

# A penalty with a weight in the unit of its slope: in another unit of x, and of the objective.
NORM = (Law((1, 1, 0), 1), Law((1, 0, 1), 1), Law((0, 1, -1), 0))
# One whose weight is a curvature, and has the inverse unit of the scaling.
SQUARED = (Law((1, 0, 0), 1), Law((0, 1, -1), 0))
# A cone, and a set with a size.
CONE = (Law((1,), 1),)
SIZED = (Law((1, 1), 1),)


def _norm(fun, x=X, weight=0.6):
    return Vocable(fun, (x, weight, 0.7), NORM)


def _pair(fun):
    return lambda x, a, b, t: fun(x, (a, b), t)


PROX = {
    "prox_none": Vocable(lambda x: prox.prox_none(x), (X,), CONE),
    "prox_lasso": _norm(prox.prox_lasso),
    "prox_non_negative_lasso": _norm(prox.prox_non_negative_lasso),
    "prox_ridge": Vocable(prox.prox_ridge, (X, 0.6, 0.7), SQUARED),
    "prox_non_negative_ridge": Vocable(prox.prox_non_negative_ridge, (X, 0.6, 0.7), SQUARED),
    "prox_elastic_net": Vocable(
        _pair(prox.prox_elastic_net), (X, 0.6, 0.4, 0.7), (Law((1, 1, -1, 0), 1), Law((0, 1, 0, -1), 0))
    ),
    "prox_group_lasso": _norm(prox.prox_group_lasso),
    "prox_non_negative_group_lasso": _norm(prox.prox_non_negative_group_lasso),
    "prox_sparse_group_lasso": Vocable(
        _pair(prox.prox_sparse_group_lasso), (X, 0.3, 0.6, 0.7), (Law((1, 1, 1, 0), 1), Law((0, 1, 1, -1), 0))
    ),
    "prox_l12": _norm(prox.prox_l12, MATRIX),
    "prox_l1inf": _norm(prox.prox_l1inf, MATRIX),
    "prox_linf": _norm(prox.prox_linf),
    "prox_slope": _norm(prox.prox_slope, weight=WEIGHTS),
    "prox_nuclear_norm": _norm(prox.prox_nuclear_norm, MATRIX),
    "prox_spectral_norm": _norm(prox.prox_spectral_norm, MATRIX),
    "prox_total_variation": _norm(prox.prox_total_variation),
    "prox_huber": Vocable(prox.prox_huber, (X, 0.6, 0.7), (Law((1, 1, 0), 1),)),
    "prox_quantile": Vocable(prox.prox_quantile, (X, 0.4, 0.7), (Law((1, 0, 1), 1),)),
    "prox_log_barrier": Vocable(prox.prox_log_barrier, (X, 0.6, 0.7), (Law((1, 1, 1), 1), Law((0, 1, -1), 0))),
    "prox_kl": Vocable(prox.prox_kl, (X, POSITIVE, 0.7), (Law((1, 1, 1), 1),)),
    "prox_reverse_kl": Vocable(prox.prox_reverse_kl, (X, POSITIVE, 0.7), (Law((1, 1, 1), 1),)),
    "prox_l0": Vocable(prox.prox_l0, (X, 0.6, 0.7), (Law((1, 2, 0), 1), Law((1, 1, 1), 1), Law((0, 2, -2), 0))),
    "prox_mcp": Vocable(
        _pair(prox.prox_mcp), (X, 0.6, 2.5, 0.7), (Law((1, 1, 0, 0), 1), Law((0, 1, -1, -1), 0, part=0.5))
    ),
    "prox_scad": Vocable(_pair(prox.prox_scad), (X, 0.6, 3.2, 0.7), (Law((1, 1, 0, 0), 1),)),
    "make_prox_translated": Vocable(
        lambda x, b, w, t: prox.make_prox_translated(prox.prox_lasso, b)(x, w, t),
        (X, 0.2, 0.6, 0.7),
        (Law((1, 1, 1, 0), 1), Law((0, 0, 1, -1), 0)),
    ),
    "make_prox_scaled": Vocable(
        lambda x, s, w, t: prox.make_prox_scaled(prox.prox_lasso, s)(x, w, t),
        (X, 1.7, 0.6, 0.7),
        # It hands on the square of the factor.
        (Law((1, 0, 1, 0), 1), Law((0, 1, -1, 0), 0, part=0.5), Law((0, 0, 1, -1), 0)),
    ),
    "make_prox_conjugate": Vocable(
        # Of the norm, the projection on a ball whose radius is the weight.
        lambda x, w, t: prox.make_prox_conjugate(prox.prox_lasso)(x, w, t),
        (X, 0.6, 0.7),
        (Law((1, 1, 0), 1), Law((0, 0, 1), 0, 4, part=0.5)),
    ),
    "make_prox_separable": Vocable(
        lambda x, w, t: prox.make_prox_separable([prox.prox_lasso, prox.prox_group_lasso])([x, x], [w, w], t)[1],
        (X, 0.6, 0.7),
        NORM,
    ),
    "make_prox_boxed": Vocable(
        lambda x, low, w, t: prox.make_prox_boxed(prox.prox_lasso, low, np.inf)(x, w, t),
        (X, -1.5, 0.6, 0.7),
        (Law((1, 1, 1, 0), 1), Law((0, 0, 1, -1), 0)),
    ),
    "make_prox_from_projection": Vocable(
        lambda x, r, t: prox.make_prox_from_projection(projection.projection_l2_ball)(x, r, t),
        (X, 1.5, 0.7),
        (Law((1, 1, 0), 1), Law((0, 0, 1), 0)),
    ),
    "make_prox_groups": _norm(prox.make_prox_groups([[0, 1], [3, 4, 5]])),
    "make_prox_composed": _norm(prox.make_prox_composed(prox.prox_lasso, jnp.diff)),
    "make_prox_sum": Vocable(
        lambda x, a, b, t: prox.make_prox_sum([prox.prox_lasso, prox.prox_total_variation])(x, (a, b), t),
        (X, 0.3, 0.6, 0.7),
        (Law((1, 1, 1, 0), 1), Law((0, 1, 1, -1), 0)),
    ),
    "make_prox_graph_total_variation": _norm(prox.make_prox_graph_total_variation(np.array([[0, 1], [1, 3], [3, 5]]))),
}

PROJECTION = {
    "projection_non_negative": Vocable(lambda x: projection.projection_non_negative(x), (X,), CONE),
    "projection_box": Vocable(
        lambda x, low, high: projection.projection_box(x, (low, high)), (X, -0.8, 1.1), (Law((1, 1, 1), 1),)
    ),
    "projection_hypercube": Vocable(projection.projection_hypercube, (X, 0.9), SIZED),
    "projection_linf_ball": Vocable(projection.projection_linf_ball, (X, 0.9), SIZED),
    "projection_l1_ball": Vocable(projection.projection_l1_ball, (X, 1.9), SIZED),
    "projection_l1_sphere": Vocable(projection.projection_l1_sphere, (X, 1.9), SIZED),
    "projection_l2_ball": Vocable(projection.projection_l2_ball, (X, 1.9), SIZED),
    "projection_l2_sphere": Vocable(projection.projection_l2_sphere, (X, 1.9), (*SIZED, Law((1, 0), 0))),
    "projection_l12_ball": Vocable(projection.projection_l12_ball, (MATRIX, 1.9), SIZED),
    "projection_simplex": Vocable(projection.projection_simplex, (X, 1.9), SIZED),
    "projection_sparse_simplex": Vocable(
        lambda x, v: projection.projection_sparse_simplex(x, 2, value=v), (X, 1.9), SIZED
    ),
    "projection_ordered_simplex": Vocable(projection.projection_ordered_simplex, (X, 1.9), SIZED),
    "projection_capped_simplex": Vocable(projection.projection_capped_simplex, (X, 1.9, 0.8), (Law((1, 1, 1), 1),)),
    "projection_monotone_cone": Vocable(lambda x: projection.projection_monotone_cone(x), (X,), CONE),
    "projection_permutahedron": Vocable(projection.projection_permutahedron, (X, WEIGHTS), SIZED),
    "projection_second_order_cone": Vocable(lambda x: projection.projection_second_order_cone(x), (X,), CONE),
    "projection_exponential_cone": Vocable(lambda x: projection.projection_exponential_cone(x), (TRIPLE,), CONE),
    "projection_dual_exponential_cone": Vocable(
        lambda x: projection.projection_dual_exponential_cone(x), (TRIPLE,), CONE
    ),
    "projection_power_cone": Vocable(projection.projection_power_cone, (TRIPLE, 0.3), (Law((1, 0), 1),)),
    "projection_dual_power_cone": Vocable(projection.projection_dual_power_cone, (TRIPLE, 0.3), (Law((1, 0), 1),)),
    "projection_psd_cone": Vocable(lambda x: projection.projection_psd_cone(x), (SQUARE,), CONE),
    "projection_spectrahedron": Vocable(projection.projection_spectrahedron, (SQUARE, 1.9), SIZED),
    "projection_nuclear_norm_ball": Vocable(projection.projection_nuclear_norm_ball, (MATRIX, 1.9), SIZED),
    # The equations of a set may be measured in any unit.
    "projection_hyperplane": Vocable(
        lambda x, a, b: projection.projection_hyperplane(x, (a, b)),
        (X, ROWS[0], 0.4),
        (Law((1, 0, 1), 1), Law((0, 1, 1), 0)),
    ),
    "projection_halfspace": Vocable(
        lambda x, a, b: projection.projection_halfspace(x, (a, b)),
        (X, -ROWS[0], 0.4),
        (Law((1, 0, 1), 1), Law((0, 1, 1), 0)),
    ),
    "projection_affine_set": Vocable(
        lambda x, A, b: projection.projection_affine_set(x, (A, b)),
        (X, ROWS, np.array([0.4, -0.3])),
        (Law((1, 0, 1), 1), Law((0, 1, 1), 0)),
    ),
    "projection_polyhedron": Vocable(
        lambda x, A, b, G, h: projection.projection_polyhedron(x, (A, b, G, h)),
        (X, ROWS[:1], np.array([0.4]), ROWS[1:], np.array([-0.3])),
        (Law((1, 0, 1, 0, 1), 1, part=0.7), Law((0, 1, 1, 0, 0), 0), Law((0, 0, 0, 1, 1), 0)),
    ),
    "projection_box_section": Vocable(
        lambda x, low, high, w, c: projection.projection_box_section(x, (low, high, w, c)),
        (X, -1.0, 1.2, ROWS[0], 0.7),
        (Law((1, 1, 1, 0, 1), 1), Law((0, 0, 0, 1, 1), 0)),
    ),
    "projection_transport": Vocable(
        lambda S, a, b: projection.projection_transport(S, (a, b)), (MATRIX, SHARES[0], SHARES[1]), PLAN[:1]
    ),
    "kl_projection_simplex": Vocable(projection.kl_projection_simplex, (X, 1.9), (Law((0, 1), 1),)),
    "kl_projection_transport": Vocable(
        lambda S, a, b: projection.kl_projection_transport(S, (a, b)), (MATRIX, SHARES[0], SHARES[1]), PLAN[1:]
    ),
    "kl_partial_transport": Vocable(
        lambda S, a, b, mass: projection.kl_partial_transport(S, (a, b), mass),
        (MATRIX, POSITIVE[:2], POSITIVE[1:4], 0.9),
        (Law((0, 1, 1, 1), 1),),
    ),
}

ISOTONIC = {
    "isotonic_l2_pav": Vocable(
        lambda y, low, w: isotonic.isotonic_l2_pav(y, low, weights=w),
        (X, -0.5, POSITIVE),
        (Law((1, 1, 0), 1), Law((0, 0, 1), 0)),
    ),
    "soft_sort": Vocable(lambda v, s: isotonic.soft_sort(v, "l2", s), (X, 0.7), (Law((1, -1), 1),)),
    "soft_rank": Vocable(lambda v, s: isotonic.soft_rank(v, "l2", s), (X, 0.7), (Law((1, 1), 0),)),
}

LOSS = {
    "huber_loss": Vocable(loss.huber_loss, (X, X[::-1], 0.9), (Law((1, 1, 1), 2),)),
    "binary_perceptron_loss": Vocable(lambda t: loss.binary_perceptron_loss(X > 0, t), (X[::-1],), CONE),
    "multiclass_perceptron_loss": Vocable(lambda t: loss.multiclass_perceptron_loss(1, t), (X,), CONE),
    "make_fenchel_young_loss": Vocable(
        lambda y, t: loss.make_fenchel_young_loss(jnp.max)(y, t), (POSITIVE, X), (Law((0, 1), 1),)
    ),
}

NO_UNIT = {
    "prox_hinge": "a margin of 1 is meant",
    "prox_squared_hinge": "a margin of 1 is meant",
    "entmax": "scores are compared with an entropy, a number",
    "kl_unbalanced_transport": "the plan is compared with exponentials of scores",
    "projection_birkhoff": "rows and columns sum to 1",
    "kl_projection_birkhoff": "rows and columns sum to 1",
    "isotonic_kl_pav": "its arguments are logarithms",
    "binary_hinge_loss": "a margin of 1 is meant",
    "binary_logistic_loss": "logits are logarithms",
    "binary_sparsemax_loss": "a prediction is a probability",
    "multiclass_entmax_loss": "scores are compared with an entropy, a number",
    "multiclass_hinge_loss": "a margin of 1 is meant",
    "multiclass_logistic_loss": "logits are logarithms",
    "multiclass_sparsemax_loss": "a prediction is a probability",
    "sparse_plus": "a prediction is a probability",
    "sparse_sigmoid": "a prediction is a probability",
}

TABLES = {prox: PROX, projection: PROJECTION, isotonic: ISOTONIC, loss: LOSS}
# Those that take longer to compile are slow tests.
COSTLY = """
    isotonic_l2_pav kl_partial_transport kl_projection_transport make_prox_composed make_prox_graph_total_variation
    make_prox_sum projection_box_section projection_capped_simplex projection_dual_exponential_cone
    projection_dual_power_cone projection_exponential_cone projection_l12_ball projection_nuclear_norm_ball
    projection_ordered_simplex projection_permutahedron projection_polyhedron projection_power_cone
    projection_spectrahedron projection_transport prox_l1inf prox_slope prox_spectral_norm prox_total_variation
    soft_rank soft_sort
""".split()
VOCABLES = {name: vocable for table in TABLES.values() for name, vocable in table.items()}


@pytest.mark.parametrize("module", TABLES, ids=lambda module: module.__name__.split(".")[-1])
def test_every_public_name_states_its_law(module):
    """A function is in the table, or it is said why it has no unit."""
    assert set(module.__all__) == set(TABLES[module]) | (set(NO_UNIT) & set(module.__all__))
    assert not set(TABLES[module]) & set(NO_UNIT)


@functools.cache
def _program(name):
    """The values of a function for a batch of arguments, and their derivatives along one cotangent."""

    def both(args):
        out, pullback = jax.vjp(VOCABLES[name].fun, *args)
        cotangent = jnp.cos(jnp.arange(out.size, dtype=out.dtype)).reshape(out.shape)
        return out, pullback(cotangent)

    # One after another: what is left over when a batch is cut into the vectors of a processor is rounded otherwise.
    return jax.jit(lambda batch: jax.lax.map(both, batch))


def _units(law, dtype):
    """Exponents of units, as large as the range of the dtype leaves room for."""
    largest = 95 if dtype == jnp.float32 else 950
    powers = [law.out, *law.of, *(law.out - power for power in law.of)]
    # An argument without a unit has products with those that have one.
    most = int(law.part * largest) // max(map(abs, powers))
    return sorted({-most, -min(most, 40), -7, 0, 1, min(most, 40), most})


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in COSTLY else name for name in VOCABLES]
)
def test_values_and_derivatives_obey_the_laws(name):
    """In the dtype of this job."""
    dtype = float_dtype()
    vocable = VOCABLES[name]
    args = [np.asarray(arg, dtype) for arg in vocable.args]
    cases = [(law, k) for law in vocable.laws for k in _units(law, dtype)]
    batch = [np.stack([np.ldexp(arg, law.of[i] * k) for law, k in cases]).astype(dtype) for i, arg in enumerate(args)]
    values, grads = jax.device_get(_program(name)(tuple(map(jnp.asarray, batch))))
    for i, (law, k) in enumerate(cases):
        plain = next(j for j, case in enumerate(cases) if case == (law, 0))
        assert np.any(values[plain] != 0)
        _check(values[i], np.ldexp(values[plain], law.out * k), law.rounding, f"{law}, unit 2**{k}")
        for j, grad in enumerate(grads):
            expected = np.ldexp(grad[plain], (law.out - law.of[j]) * k)
            _check(grad[i], expected, law.rounding, f"{law}, unit 2**{k}, derivative in argument {j}")


def _check(found, expected, rounding, message):
    assert np.all(np.isfinite(expected)), message
    if rounding is None:
        np.testing.assert_array_equal(found, expected, err_msg=message)
    else:
        atol = rounding * np.finfo(expected.dtype).eps * np.max(np.abs(expected))
        np.testing.assert_allclose(found, expected, rtol=0, atol=atol, err_msg=message)
