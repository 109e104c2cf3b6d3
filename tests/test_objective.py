"""Objectives: closed forms, scikit-learn and SciPy, the parts that coordinate methods use, sparse data, bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import sklearn.linear_model
from jax.experimental import sparse

from jaxsolve import objective
from jaxsolve.base import LinearOperator
from jaxsolve.objective import CompositeLinearFunction

RNG = np.random.default_rng(0)
N, D, K = 7, 3, 4
X = RNG.normal(size=(N, D)) * (RNG.uniform(size=(N, D)) < 0.7)
TARGETS, LABELS = RNG.normal(size=(N, K)), np.array([0, 3, 1, 2, 2, 0, 1])
W, B = RNG.normal(size=(D, K)), RNG.normal(size=K)
LOGISTIC = np.mean(scipy.special.logsumexp(X @ W, 1) - (X @ W)[np.arange(N), LABELS])
WITH_INTERCEPT = np.mean(scipy.special.logsumexp(X @ W + B, 1) - (X @ W + B)[np.arange(N), LABELS])
RIDGE = 0.5 * 0.3 * np.sum(W**2)
ONE_HOT, BETA = np.eye(K)[LABELS], RNG.dirichlet(np.ones(K), N)
SVM = np.sum((X.T @ (ONE_HOT - BETA)) ** 2) / (2 * 0.3) - np.sum(BETA * (1 - ONE_HOT))

# name -> (arguments before the data, y, value)
CASES = {
    "least_squares": ((W,), TARGETS, 0.5 * np.mean((X @ W - TARGETS) ** 2)),
    "ridge_regression": ((W, 0.3), TARGETS, 0.5 * np.mean((X @ W - TARGETS) ** 2) + RIDGE),
    "binary_logreg": ((W[:, 0],), LABELS % 2, np.mean(np.logaddexp(0, (1 - 2 * (LABELS % 2)) * (X @ W[:, 0])))),
    "multiclass_logreg": ((W,), LABELS, LOGISTIC),
    "multiclass_logreg_with_intercept": (((W, B),), LABELS, WITH_INTERCEPT),
    "l2_multiclass_logreg": ((W, 0.3), LABELS, LOGISTIC + RIDGE),
    "l2_multiclass_logreg_with_intercept": (((W, B), 0.3), LABELS, WITH_INTERCEPT + RIDGE),
    "multiclass_linear_svm_dual": ((BETA, 0.3), ONE_HOT, SVM),
}
COMPOSITE = [name for name in CASES if isinstance(getattr(objective, name), CompositeLinearFunction)]


def arguments(name, X=X, dtype=None):
    before, y, _ = CASES[name]
    to_array = lambda v: jnp.asarray(v, dtype if np.asarray(v).dtype.kind == "f" else None)
    return (*jax.tree.map(to_array, before), (X if dtype is None else X.astype(dtype), to_array(y)))


@pytest.mark.parametrize("name", CASES)
def test_value(name):
    fun, args = getattr(objective, name), arguments(name, jnp.asarray(X))
    np.testing.assert_allclose(fun(*args), CASES[name][2], rtol=1e-13)
    np.testing.assert_allclose(jax.jit(fun)(*args), CASES[name][2], rtol=1e-13)
    assert fun(*args).shape == ()
    assert fun.__doc__ and "Example" in fun.__doc__


def test_names_of_the_parameters():
    names = {"least_squares": "W", "binary_logreg": "w", "multiclass_logreg": "W", "l2_multiclass_logreg": "W"}
    for name in CASES:
        params, *rest = arguments(name, jnp.asarray(X))
        by_name = {names.get(name, "params"): params, **dict(zip(("l2reg", "data")[-len(rest) :], rest, strict=True))}
        np.testing.assert_allclose(getattr(objective, name)(**by_name), CASES[name][2], rtol=1e-13)


@pytest.mark.parametrize("name", CASES)
def test_sparse_data(name):
    fun, dense = getattr(objective, name), arguments(name, jnp.asarray(X))
    args = arguments(name, sparse.BCOO.fromdense(jnp.asarray(X)))
    np.testing.assert_allclose(fun(*args), CASES[name][2], rtol=1e-13)
    if name in ("least_squares", "multiclass_linear_svm_dual"):
        gradient, expected = jax.jit(jax.grad(fun))(*args), jax.jit(jax.grad(fun))(*dense)
        np.testing.assert_allclose(gradient, expected, atol=1e-13)


@pytest.mark.float32
@pytest.mark.parametrize("name", CASES)
def test_float32(name):
    fun, args = getattr(objective, name), arguments(name, jnp.asarray(X, jnp.float32), jnp.float32)
    value, gradient = jax.jit(jax.value_and_grad(fun))(*args)
    assert value.dtype == jnp.float32 and all(g.dtype == jnp.float32 for g in jax.tree.leaves(gradient))
    np.testing.assert_allclose(value, CASES[name][2], rtol=1e-5)


def test_minimum_of_ridge_is_that_of_scikit_learn():
    # Its objective is the sum of squares, so its penalty is n times as large.
    fit = sklearn.linear_model.Ridge(alpha=0.3 * N, fit_intercept=False, solver="cholesky").fit(X, TARGETS[:, 0])
    gradient = jax.grad(objective.ridge_regression)(jnp.asarray(fit.coef_), 0.3, (X, TARGETS[:, 0]))
    np.testing.assert_allclose(gradient, np.zeros(D), atol=1e-13)


def test_minimum_of_logistic_regression_is_that_of_scikit_learn():
    fit = sklearn.linear_model.LogisticRegression(C=1 / (0.3 * N), tol=1e-10, max_iter=1000).fit(X, LABELS)
    params = (jnp.asarray(fit.coef_.T), jnp.asarray(fit.intercept_))
    gradient = jax.grad(objective.l2_multiclass_logreg_with_intercept)(params, 0.3, (X, LABELS))
    np.testing.assert_allclose(np.concatenate([gradient[0].ravel(), gradient[1]]), 0, atol=1e-6)


@pytest.mark.parametrize("name", COMPOSITE)
def test_lipschitz_constants_bound_the_curvature_along_each_row(name):
    fun = getattr(objective, name)
    params, *rest = arguments(name, jnp.asarray(X))
    bounds = np.asarray(fun.columnwise_lipschitz_const(*rest))
    hessian = np.asarray(jax.jit(jax.hessian(fun))(params, *rest))
    sharp = []
    for i, bound in enumerate(bounds):
        block = hessian[i, ..., i, :] if params.ndim == 2 else hessian[i, i].reshape(1, 1)
        sharp.append(np.linalg.eigvalsh(block).max() / bound)
    assert max(sharp) <= 1 + 1e-12
    if name in ("least_squares", "multiclass_linear_svm_dual"):
        np.testing.assert_allclose(sharp, 1)


@pytest.mark.parametrize("name", COMPOSITE)
def test_parts_make_the_whole(name):
    fun = getattr(objective, name)
    params, *rest = arguments(name, jnp.asarray(X))
    operator, linear = fun.make_linop(*rest), fun.b(*rest)
    value = fun.subfun(operator.matvec(params), *rest)
    value = value if linear is None else value + jnp.vdot(params, linear)
    np.testing.assert_allclose(value, fun(params, *rest), rtol=1e-14)


@pytest.mark.parametrize("make", [jnp.asarray, lambda A: sparse.BCOO.fromdense(jnp.asarray(A))], ids=["dense", "bcoo"])
def test_operator(make):
    operator = LinearOperator(make(X))
    assert operator.shape == X.shape
    for x, y in ((W, TARGETS), (W[:, 0], TARGETS[:, 0])):
        x, y = jnp.asarray(x), jnp.asarray(y)
        np.testing.assert_allclose(operator.matvec(x), X @ x, atol=1e-14)
        np.testing.assert_allclose(operator.rmatvec(y), X.T @ y, atol=1e-14)
        np.testing.assert_allclose(operator.matvec_element(x, 2), (X @ x)[2], atol=1e-14)
        np.testing.assert_allclose(jax.jit(operator.rmatvec_element)(y, 2), (X.T @ y)[2], atol=1e-14)
        np.testing.assert_allclose(operator.update_matvec(X @ x, x[1], 2), X @ x.at[2].add(x[1]), atol=1e-14)
        np.testing.assert_allclose(operator.update_rmatvec(X.T @ y, y[1], 2), X.T @ y.at[2].add(y[1]), atol=1e-14)
    np.testing.assert_allclose(operator.column_l2_norms(), np.linalg.norm(X, axis=0))
    np.testing.assert_allclose(operator.column_l2_norms(squared=True), np.sum(X**2, 0))


def test_norms_of_a_sparse_matrix_with_repeated_entries():
    matrix = sparse.BCOO((jnp.array([1.0, 2.0, 4.0]), jnp.array([[0, 0], [0, 0], [1, 1]])), shape=(2, 2))
    np.testing.assert_allclose(LinearOperator(matrix).column_l2_norms(), [3.0, 4.0])


def test_own_function():
    class Quartic(CompositeLinearFunction):
        def subfun(self, predictions, data, power=4):
            return jnp.sum(predictions**power)

        def make_linop(self, data, power=4):
            return LinearOperator(data[0])

    fun, w = Quartic(), jnp.asarray(W[:, 0])
    np.testing.assert_allclose(fun(w, (X, None)), np.sum((X @ W[:, 0]) ** 4))
    np.testing.assert_allclose(fun(w, data=(X, None), power=2), np.sum((X @ W[:, 0]) ** 2))
    assert fun.columnwise_lipschitz_const is None
    with pytest.raises(TypeError, match="abstract.*make_linop"):
        CompositeLinearFunction()


def test_bad_input():
    with pytest.raises(ValueError, match=r"X W has shape \(7, 4\), but y has shape \(7,\)"):
        objective.least_squares(W, (X, TARGETS[:, 0]))
    with pytest.raises(ValueError, match=r"A must be a matrix, got shape \(7,\)"):
        objective.least_squares(W, (X[:, 0], TARGETS))
    with pytest.raises(ValueError, match="l2reg must be a scalar"):
        objective.ridge_regression(W, jnp.ones(2), (X, TARGETS))
    with pytest.raises(ValueError, match="label must be from 0 to 3"):
        objective.multiclass_logreg(W, (X, LABELS + 1))
