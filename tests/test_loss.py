"""Losses: closed forms, gradients, labels, dtypes, bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.metrics

from jaxsolve import loss
from jaxsolve.perturbations import make_perturbed_argmax, make_perturbed_max
from jaxsolve.projection import entmax, projection_permutahedron, projection_simplex
from tests.projection.checks import check_derivatives

BINARY = ["binary_hinge_loss", "binary_logistic_loss", "binary_perceptron_loss", "binary_sparsemax_loss"]
MULTICLASS = [name for name in loss.__all__ if name.startswith("multiclass")]
T = np.array([-3.0, -0.6, 0.25, 0.7, 2.5, 40.0])
SCORES = np.array([[0.5, -1.2, 2.0, 0.1], [3.0, 2.8, 2.9, -5.0], [0.0, 0.4, -0.3, 0.2]])
LABELS = np.array([2, 1, 3])


def test_binary_losses_of_margin():
    label = jnp.array([0, 1, 0, 1, 1, 0])
    margin = np.where(label, T, -T)
    expected = {
        "binary_hinge_loss": np.maximum(0, 1 - margin),
        "binary_perceptron_loss": np.maximum(0, -margin),
        "binary_logistic_loss": np.logaddexp(0, -margin),
        "binary_sparsemax_loss": np.where(margin >= 1, 0, np.where(margin <= -1, -margin, (1 - margin) ** 2 / 4)),
    }
    for name in BINARY:
        fun = getattr(loss, name)
        np.testing.assert_allclose(fun(label, jnp.asarray(T)), expected[name], atol=1e-15)
        np.testing.assert_allclose(jax.vmap(fun)(label, jnp.asarray(T)), expected[name], atol=1e-15)
        np.testing.assert_allclose(fun(label.astype(bool), jnp.asarray(T)), expected[name], atol=1e-15)


def test_binary_losses_against_sklearn():
    label, t = np.array([0, 1, 0, 1, 1]), T[:5]
    p = 1 / (1 + np.exp(-t))
    np.testing.assert_allclose(jnp.mean(loss.binary_logistic_loss(label, t)), sklearn.metrics.log_loss(label, p))
    np.testing.assert_allclose(jnp.mean(loss.binary_hinge_loss(label, t)), sklearn.metrics.hinge_loss(2 * label - 1, t))


def test_multiclass_losses_against_their_definitions():
    rows = np.arange(3)
    own = SCORES[rows, LABELS]
    rival = np.array([np.delete(s, y).max() for s, y in zip(SCORES, LABELS, strict=True)])
    p = np.asarray(jax.vmap(projection_simplex)(SCORES))
    r = np.asarray(jax.vmap(entmax)(SCORES))
    expected = {
        "multiclass_logistic_loss": np.log(np.sum(np.exp(SCORES), 1)) - own,
        "multiclass_hinge_loss": np.maximum(0, 1 + rival - own),
        "multiclass_perceptron_loss": np.maximum(0, rival - own),
        "multiclass_sparsemax_loss": np.sum(p * SCORES - 0.5 * p**2, 1) + 0.5 - own,
        "multiclass_entmax_loss": np.sum(r * SCORES + (r - r**1.5) / 0.75, 1) - own,
    }
    for name in MULTICLASS:
        fun = getattr(loss, name)
        np.testing.assert_allclose(fun(LABELS, SCORES), expected[name], atol=1e-15)
        np.testing.assert_allclose(jax.vmap(fun)(LABELS, SCORES), expected[name], atol=1e-15)
        np.testing.assert_allclose(fun(2, jnp.asarray(SCORES[0])), expected[name][0], atol=1e-15)
        np.testing.assert_allclose(fun(LABELS.reshape(1, 3), SCORES.reshape(1, 3, 4))[0], expected[name], atol=1e-15)


@pytest.mark.parametrize("name", BINARY)
def test_binary_derivatives(name):
    label = jnp.array([0, 1, 0, 1, 1, 0])
    check_derivatives(lambda t: getattr(loss, name)(label, t), (jnp.asarray(T),))


@pytest.mark.parametrize("name", MULTICLASS)
def test_multiclass_derivatives(name):
    check_derivatives(lambda s: getattr(loss, name)(jnp.asarray(LABELS), s), (jnp.asarray(SCORES),))


def test_gradients_of_logistic_and_sparsemax_are_predictions_less_labels():
    one_hot = np.eye(4)[LABELS]
    for name, predict in (("logistic", jax.nn.softmax), ("sparsemax", jax.vmap(projection_simplex))):
        fun = getattr(loss, f"multiclass_{name}_loss")
        gradient = jax.grad(lambda s, fun=fun: jnp.sum(fun(LABELS, s)))(jnp.asarray(SCORES))
        np.testing.assert_allclose(gradient, predict(SCORES) - one_hot, atol=1e-15)


def test_huber():
    r = jnp.array([-3.0, -2.0, 0.0, 1.0, 5.0])
    np.testing.assert_allclose(loss.huber_loss(0.0, r, 2.0), [4.0, 2.0, 0.0, 0.5, 8.0])
    np.testing.assert_allclose(loss.huber_loss(r, jnp.zeros(5), 2.0), [4.0, 2.0, 0.0, 0.5, 8.0])
    np.testing.assert_allclose(jax.vmap(jax.grad(loss.huber_loss, 1), (None, 0, None))(0.0, r, 2.0), [-2, -2, 0, 1, 2])
    # 1 at the minimum, where the square of an absolute value would give 0.
    second = jax.vmap(jax.grad(jax.grad(loss.huber_loss, 1), 1), (None, 0, None))(0.0, r, 2.0)
    np.testing.assert_array_equal(second, [0, 1, 1, 1, 0])
    check_derivatives(loss.huber_loss, (jnp.zeros(3), jnp.array([0.3, -3.0, 5.0]), jnp.array(2.0)))
    assert np.isnan(loss.huber_loss(0.0, jnp.nan))
    with pytest.raises(ValueError, match="delta must be non-negative"):
        loss.huber_loss(0.0, r, -1.0)


def test_sparse_plus_and_sigmoid():
    x = jnp.array([-2.0, -1.0, 0.0, 0.5, 1.0, 3.0])
    np.testing.assert_allclose(loss.sparse_plus(x), [0, 0, 0.25, 0.5625, 1, 3])
    np.testing.assert_allclose(loss.sparse_sigmoid(x), [0, 0, 0.5, 0.75, 1, 1])
    np.testing.assert_allclose(jax.vmap(jax.grad(loss.sparse_plus))(x), loss.sparse_sigmoid(x))


def test_fenchel_young_loss():
    fun = loss.make_fenchel_young_loss(lambda s, scale: jax.nn.logsumexp(scale * s) / scale)
    y, s = jnp.eye(4)[2], jnp.asarray(SCORES[0])
    np.testing.assert_allclose(fun(y, s, 1.0), loss.multiclass_logistic_loss(2, s))
    np.testing.assert_allclose(fun(y, s, scale=1.0), loss.multiclass_logistic_loss(2, s))
    np.testing.assert_allclose(fun(jnp.array([0, 0, 1, 0]), s, 1.0), loss.multiclass_logistic_loss(2, s))
    gradient = jax.grad(fun, 1)(y, s, 3.0)
    np.testing.assert_allclose(gradient, jax.nn.softmax(3.0 * s) - y, atol=1e-15)
    with pytest.raises(TypeError, match="max_fun must be a function"):
        loss.make_fenchel_young_loss(1.0)


def test_fenchel_young_loss_of_sparsemax():
    def conjugate(s):
        p = projection_simplex(s)
        return jnp.vdot(p, s) - 0.5 * jnp.vdot(p, p)

    fun, y, s = loss.make_fenchel_young_loss(conjugate), jnp.eye(4)[1], jnp.asarray(SCORES[1])
    np.testing.assert_allclose(fun(y, s) + 0.5, loss.multiclass_sparsemax_loss(1, s), atol=1e-15)
    check_derivatives(lambda s: fun(y, s), (s,))


def test_fenchel_young_loss_of_soft_ranks():
    rho = jnp.arange(1.0, 5.0)

    def conjugate(s):
        p = projection_permutahedron(s, rho)
        return jnp.vdot(p, s) - 0.5 * jnp.vdot(p, p)

    fun = loss.make_fenchel_young_loss(conjugate)
    ranks, s = jnp.array([2.0, 1.0, 4.0, 3.0]), 1.2 * jnp.asarray(SCORES[0])
    np.testing.assert_allclose(jax.grad(fun, 1)(ranks, s), projection_permutahedron(s, rho) - ranks, atol=1e-15)
    # At scores that are far enough apart in the right order it is 0, up to the constant.
    np.testing.assert_allclose(fun(ranks, 2 * ranks), -0.5 * jnp.vdot(rho, rho))
    check_derivatives(fun, (ranks, s))


def test_fenchel_young_loss_of_a_perturbed_maximum():
    key = jax.random.key(0)
    one_hot = lambda s: jax.nn.one_hot(jnp.argmax(s), s.size, dtype=s.dtype)
    fun = loss.make_fenchel_young_loss(make_perturbed_max(one_hot, 500, 0.5))
    y, s = jnp.eye(4)[0], jnp.asarray(SCORES[2])
    gradient = make_perturbed_argmax(one_hot, 500, 0.5)(s, key) - y
    np.testing.assert_allclose(jax.grad(fun, 1)(y, s, rng=key), gradient, atol=1e-14)
    np.testing.assert_allclose(jax.jacfwd(fun, 1)(y, s, rng=key), gradient, atol=1e-14)
    batch = jax.vmap(fun, (0, 0, None))(jnp.eye(4)[:3], jnp.asarray(SCORES), key)
    assert batch.shape == (3,) and np.all(np.isfinite(batch))


@pytest.mark.parametrize("name", BINARY + MULTICLASS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_dtype_is_kept(name, dtype):
    fun = getattr(loss, name)
    args = (jnp.array([0, 1], jnp.int32), jnp.array([0.5, 2.0], dtype))
    if name in MULTICLASS:
        args = (jnp.array([1, 2], jnp.int32), jnp.asarray(SCORES[:2], dtype))
    value, gradient = jax.jit(jax.value_and_grad(lambda s: jnp.sum(fun(args[0], s))))(args[1])
    assert value.dtype == dtype and gradient.dtype == dtype and np.all(np.isfinite(gradient))


@pytest.mark.float32
@pytest.mark.parametrize("name", MULTICLASS)
def test_huge_and_impossible_scores(name):
    fun = jax.jit(jax.value_and_grad(getattr(loss, name), 1))
    scores = jnp.array([1e30, -1e30, -jnp.inf], jnp.float32)
    value, gradient = fun(0, scores)
    assert value == 0 and not np.any(gradient)
    value, gradient = fun(1, scores)
    np.testing.assert_allclose(value, 2e30, rtol=1e-6)
    np.testing.assert_array_equal(gradient, [1, -1, 0])


@pytest.mark.float32
@pytest.mark.parametrize("name", BINARY)
def test_huge_logits(name):
    fun = getattr(loss, name)
    value, slope = jax.value_and_grad(fun, 1)(0, jnp.float32(1e30))
    np.testing.assert_allclose(value, 1e30, rtol=1e-6)
    assert slope == 1 and fun(1, jnp.float32(1e30)) == 0


@pytest.mark.parametrize("name", BINARY)
def test_bad_binary_input(name):
    fun = getattr(loss, name)
    with pytest.raises(ValueError, match="label must be 0 or 1"):
        fun(jnp.array([-1, 1]), jnp.zeros(2))
    with pytest.raises(ValueError, match=r"must have one shape, got \(2,\) and \(3,\)"):
        fun(jnp.array([0, 1]), jnp.zeros(3))


@pytest.mark.parametrize("name", MULTICLASS)
def test_bad_multiclass_input(name):
    fun = getattr(loss, name)
    with pytest.raises(ValueError, match="label must be from 0 to 2, got 3"):
        fun(3, jnp.zeros(3))
    with pytest.raises(ValueError, match="without its last axis"):
        fun(jnp.array([0, 1]), jnp.zeros(3))
    with pytest.raises(TypeError, match="integer class"):
        fun(0.5, jnp.zeros(3))
    assert np.isnan(jax.jit(fun)(5, jnp.zeros(3)))


def test_lists_of_numbers_are_arrays():
    for name in ("logistic", "hinge", "perceptron", "sparsemax"):
        multiclass, binary = (getattr(loss, f"{kind}_{name}_loss") for kind in ("multiclass", "binary"))
        np.testing.assert_array_equal(multiclass(2, [1.0, 2.0, 2.5]), multiclass(2, jnp.asarray([1.0, 2.0, 2.5])))
        np.testing.assert_array_equal(binary([0, 1], [1.0, 2.0]), binary(jnp.asarray([0, 1]), jnp.asarray([1.0, 2.0])))
    np.testing.assert_array_equal(loss.huber_loss([1.0], [3.0]), loss.huber_loss(jnp.ones(1), 3 * jnp.ones(1)))


def test_impossible_classes_contribute_nothing():
    scores = jnp.array([1.0, 2.0, -jnp.inf])
    young = loss.make_fenchel_young_loss(jax.nn.logsumexp)
    for y in (jnp.array([1.0, 0.0, 0.0]), jnp.array([0.25, 0.75, 0.0])):
        value, grad = jax.value_and_grad(young, 1)(y, scores)
        np.testing.assert_allclose(value, young(y[:2], scores[:2]), rtol=1e-14)
        np.testing.assert_allclose(grad, jax.nn.softmax(scores) - y, atol=1e-15)
    assert young(jnp.array([0.5, 0.25, 0.25]), scores) == jnp.inf
    # The label itself is impossible; nothing is possible.
    for multiclass in (loss.multiclass_logistic_loss, loss.multiclass_hinge_loss, loss.multiclass_perceptron_loss):
        assert multiclass(2, jnp.array([1.0, -jnp.inf, -jnp.inf])) == jnp.inf
        assert np.isnan(multiclass(2, jnp.full(3, -jnp.inf)))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_an_impossible_label_costs_infinitely_with_the_gradient_of_the_prediction(dtype):
    scores = jnp.array([1.0, -jnp.inf, 1.5], dtype)
    label = jnp.array([0.0, 1.0, 0.0], dtype)
    for multiclass, prediction in (
        (loss.multiclass_logistic_loss, jax.nn.softmax(scores)),
        (loss.multiclass_sparsemax_loss, jnp.array([0.25, 0.0, 0.75], dtype)),
        (lambda y, s: loss.multiclass_entmax_loss(y, s, 2.0), jnp.array([0.25, 0.0, 0.75], dtype)),
    ):
        value, grad = jax.value_and_grad(multiclass, 1)(1, scores)
        assert value == jnp.inf
        np.testing.assert_allclose(grad, prediction - label, atol=1e-6)
        assert np.isnan(multiclass(1, jnp.full(3, -jnp.inf, dtype)))


@pytest.mark.parametrize("name", [name for name in loss.__all__ if name.startswith("multiclass")])
def test_a_value_without_any_possible_class_is_nan_and_so_is_its_gradient(name):
    value, grad = jax.value_and_grad(lambda scores: getattr(loss, name)(1, scores))(jnp.full(3, -jnp.inf))
    assert np.isnan(value) and np.all(np.isnan(grad))
