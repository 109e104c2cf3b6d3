"""One case per solver and problem: what the contract tests know of them.

A case says how to build the solver around a function, from where to start, the parameters of the problem, and the
solution by other means. A public solver without a case fails ``test_registry.py``.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsolve
from jaxsolve.base import LinearOperator
from jaxsolve.linear_solve import solve_gmres
from jaxsolve.objective import CompositeLinearFunction
from jaxsolve.projection import kl_projection_simplex, projection_non_negative, projection_simplex
from jaxsolve.prox import prox_lasso, prox_none
from jaxsolve.solvers.composite import PrimalDualSolution

__all__ = [
    "CASES",
    "MAIN",
    "QUADRATIC_CASES",
    "Case",
    "QuadraticCase",
    "check_line",
    "each",
    "each_quadratic",
    "float_dtype",
    "get_case",
    "get_quadratic_case",
]


def float_dtype():
    """The default floating dtype of this job: float64, or float32 in the job beside it."""
    return jnp.result_type(float)


@dataclasses.dataclass(frozen=True)
class Case:
    """A solver on a problem.

    Attributes:
        name: of the case; the solver's class comes first.
        solver: ``solver(fun, **options)``, the solver around a function of ``(params, theta)``.
        fun: ``fun(params, theta)``: objective, residual or mapping, whatever the solver takes.
        init: initial point.
        theta: parameters of the problem, an array.
        exact: ``exact(theta)``, the solution by a formula that jax can differentiate.
        before: positional arguments of ``run`` between the initial point and ``theta``.
        oracle: the solution at ``theta`` by somebody else's code, or ``None`` where ``exact`` is a textbook formula.
        unroll_iters: iterations after which unrolling agrees with the exact derivative.
        unroll_options: other options for unrolling.
        scalar: whether ``fun`` is a scalar objective.
        unrolls: whether unrolling has the right derivative.
        pytrees: whether the parameters may be any pytree, rather than one array.
        iterates: whether the solver is an iteration of ours, with the methods that come with it.
        passes_on: whether the arguments of ``run`` are passed on to ``fun``.
        like_params: whether the output of a ``fun`` that is no scalar must be like the parameters.
        by_values: whether the solver judges a point by values alone, and knows no gradient.
        from_inside: whether the solver moves its first point to the inside of the set, and needs the multipliers too.
    """

    name: str
    solver: Callable[..., Any]
    fun: Callable
    init: Any
    theta: Any
    exact: Callable
    before: tuple = ()
    oracle: Callable | None = None
    unroll_iters: int = 400
    unroll_options: dict = dataclasses.field(default_factory=dict)
    scalar: bool = True
    unrolls: bool = True
    pytrees: bool = True
    passes_on: bool = True
    iterates: bool = True
    like_params: bool = True
    by_values: bool = False
    from_inside: bool = False

    def make(self, fun: Callable | None = None, **options: Any) -> Any:
        """The solver, tight enough for derivatives to be compared."""
        double = float_dtype() == jnp.float64
        return self.solver(fun or self.fun, **{"tol": 1e-10 if double else 3e-6, "maxiter": 2000, **options})

    def run(self, solver: Any, theta: Any, init: Any = None) -> Any:
        """Run the solver at ``theta``."""
        return solver.run(self.init if init is None else init, *self.before, theta)

    def tolerance(self) -> float:
        """Relative tolerance for solutions and derivatives in this job's dtype."""
        return 1e-6 if float_dtype() == jnp.float64 else 2e-3


# ---- Problems -----------------------------------------------------------------------------------------------------

_rng = np.random.default_rng(0)
X = _rng.normal(size=(12, 4))
Y = _rng.normal(size=12)
THETA = np.array([0.7, 1.3])


def _data():
    return jnp.asarray(X, float_dtype()), jnp.asarray(Y, float_dtype())


def ridge(w, theta):
    """Ridge regression, theta = (regularization, scale of the targets)."""
    X, y = _data()
    dtype = jnp.result_type(w)
    residual = X.astype(dtype) @ w - theta[1].astype(dtype) * y.astype(dtype)
    return 0.5 * jnp.sum(residual**2) + 0.5 * theta[0].astype(dtype) * jnp.sum(w**2)


def ridge_exact(theta):
    X, y = _data()
    return jnp.linalg.solve(X.T @ X + theta[0] * jnp.eye(4, dtype=X.dtype), theta[1] * (X.T @ y))


def logistic(w, theta):
    """Regularized logistic regression; the labels are the signs of Y, the inputs scaled by theta[1]."""
    X, y = _data()
    dtype = jnp.result_type(w)
    margins = jnp.sign(y).astype(dtype) * ((theta[1].astype(dtype) * X.astype(dtype)) @ w)
    return jnp.sum(jnp.logaddexp(-margins, jnp.zeros_like(margins))) + 0.5 * theta[0].astype(dtype) * jnp.sum(w**2)


def logistic_exact(theta):
    """Newton's method to machine precision, differentiated by the last, exact step repeated: 8 steps of autodiff."""
    w = jnp.zeros(4, float_dtype())
    for _ in range(8):
        w = w - jnp.linalg.solve(jax.hessian(logistic)(w, theta), jax.grad(logistic)(w, theta))
    return w


def logistic_oracle(theta):
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=1 / theta[0], fit_intercept=False, tol=1e-12, max_iter=10_000)
    return model.fit(np.asarray(X) * theta[1], np.sign(Y)).coef_[0]


def curve(w, theta):
    """Residuals of a nonlinear model with a ridge term; theta = (regularization, scale of the targets)."""
    X, y = _data()
    dtype = jnp.result_type(w)
    misfit = jnp.tanh(X.astype(dtype) @ w) - 0.3 * theta[1].astype(dtype) * jnp.tanh(y.astype(dtype))
    return jnp.concatenate([misfit, jnp.sqrt(theta[0]).astype(dtype) * w])


def curve_exact(theta):
    """Newton's method to machine precision, as for the logistic regression."""
    w = jnp.zeros(4, float_dtype())
    cost = lambda w: 0.5 * jnp.sum(curve(w, theta) ** 2)
    for _ in range(8):
        w = w - jnp.linalg.solve(jax.hessian(cost)(w), jax.grad(cost)(w))
    return w


def curve_oracle(theta):
    from scipy.optimize import least_squares

    def residuals(w):
        return np.concatenate([np.tanh(X @ w) - theta[1] * 0.3 * np.tanh(Y), np.sqrt(theta[0]) * w])

    return least_squares(residuals, np.zeros(4), xtol=1e-15, ftol=1e-15, gtol=1e-15).x


def robust_exact(theta):
    """The same for half the cost of the loss soft_l1."""
    w = jnp.zeros(4, float_dtype())
    cost = lambda w: jnp.sum(jnp.sqrt(1 + curve(w, theta) ** 2) - 1)
    for _ in range(8):
        w = w - jnp.linalg.solve(jax.hessian(cost)(w), jax.grad(cost)(w))
    return w


def robust_oracle(theta):
    from scipy.optimize import least_squares

    def residuals(w):
        return np.concatenate([np.tanh(X @ w) - theta[1] * 0.3 * np.tanh(Y), np.sqrt(theta[0]) * w])

    return least_squares(residuals, np.zeros(4), loss="soft_l1", xtol=1e-15, ftol=1e-15, gtol=1e-15).x


LASSO_WEIGHT = 1.5


def lasso_exact(theta):
    """The lasso solution on the support that scikit-learn finds: locally a closed form."""
    X, y = _data()
    reference = lasso_oracle(THETA)
    support, sign = np.flatnonzero(reference), jnp.asarray(np.sign(reference), X.dtype)
    XS = X[:, support]
    gram = XS.T @ XS + theta[0] * jnp.eye(len(support), dtype=X.dtype)
    weights = jnp.linalg.solve(gram, theta[1] * (XS.T @ y) - LASSO_WEIGHT * sign[support])
    return jnp.zeros(4, X.dtype).at[support].set(weights)


def lasso_oracle(theta):
    from sklearn.linear_model import ElasticNet

    n = len(Y)
    l1, l2 = LASSO_WEIGHT / n, theta[0] / n
    model = ElasticNet(alpha=l1 + l2, l1_ratio=l1 / (l1 + l2), fit_intercept=False, tol=1e-14, max_iter=100_000)
    return model.fit(X, theta[1] * Y).coef_


def nnls_exact(theta):
    X, y = _data()
    support = np.flatnonzero(nnls_oracle(THETA))
    XS = X[:, support]
    gram = XS.T @ XS + theta[0] * jnp.eye(len(support), dtype=X.dtype)
    return jnp.zeros(4, X.dtype).at[support].set(jnp.linalg.solve(gram, theta[1] * (XS.T @ y)))


def nnls_oracle(theta):
    from scipy.optimize import nnls

    stacked = np.vstack([X, np.sqrt(theta[0]) * np.eye(4)])
    return nnls(stacked, np.concatenate([theta[1] * Y, np.zeros(4)]))[0]


def simplex_exact(theta):
    """Ridge regression over the simplex, on the support that SciPy finds, by its equality-constrained KKT system."""
    X, y = _data()
    support = np.flatnonzero(simplex_oracle(THETA) > 1e-6)
    XS, k = X[:, support], len(support)
    ones = jnp.ones((k, 1), X.dtype)
    gram = XS.T @ XS + theta[0] * jnp.eye(k, dtype=X.dtype)
    system = jnp.block([[gram, ones], [ones.T, jnp.zeros((1, 1), X.dtype)]])
    rhs = jnp.concatenate([theta[1] * (XS.T @ y), jnp.ones(1, X.dtype)])
    return jnp.zeros(4, X.dtype).at[support].set(jnp.linalg.solve(system, rhs)[:k])


def simplex_oracle(theta):
    from scipy.optimize import minimize

    result = minimize(
        lambda w: 0.5 * np.sum((X @ w - theta[1] * Y) ** 2) + 0.5 * theta[0] * np.sum(w**2),
        np.full(4, 0.25),
        jac=lambda w: X.T @ (X @ w - theta[1] * Y) + theta[0] * w,
        bounds=[(0, None)] * 4,
        constraints={"type": "eq", "fun": lambda w: np.sum(w) - 1, "jac": lambda w: np.ones(4)},
        method="SLSQP",
        options={"ftol": 1e-15, "maxiter": 500},
    )
    return result.x


SCORES = np.array([1.0, 0.8, -1.5, 0.9])


def sparsemax(x, theta):
    """Over the simplex, the projection of theta[1] / theta[0] times the scores; one entry is 0, by far."""
    scores = jnp.asarray(SCORES, x.dtype)
    return 0.5 * theta[0].astype(x.dtype) * jnp.sum(x**2) - theta[1].astype(x.dtype) * jnp.vdot(scores, x)


def sparsemax_exact(theta):
    """Martins and Astudillo (2016), proposition 1."""
    support = np.array([0, 1, 3])
    scaled = theta[1] / theta[0] * jnp.asarray(SCORES[support], float_dtype())
    return jnp.zeros(4, float_dtype()).at[support].set(scaled - (jnp.sum(scaled) - 1) / 3)


CONTRACTION = 0.5 * X[:4] / np.linalg.norm(X[:4], 2)


def affine(x, theta):
    """An affine contraction."""
    matrix = jnp.asarray(CONTRACTION, x.dtype)
    return theta[0].astype(x.dtype) * (matrix @ x) + theta[1].astype(x.dtype)


def affine_exact(theta):
    matrix = jnp.asarray(CONTRACTION, float_dtype())
    return jnp.linalg.solve(jnp.eye(4, dtype=matrix.dtype) - theta[0] * matrix, theta[1] * jnp.ones(4, matrix.dtype))


def cubic(x, theta):
    """Increasing cubics with the roots of depressed cubic equations."""
    targets = jnp.asarray([1.0, 2.0, -3.0, 0.5], x.dtype)
    return x**3 + theta[0].astype(x.dtype) * x - theta[1].astype(x.dtype) * targets


def cubic_exact(theta):
    """Cardano's formula."""
    half = 0.5 * theta[1] * jnp.asarray([1.0, 2.0, -3.0, 0.5], float_dtype())
    root = jnp.sqrt(half**2 + (theta[0] / 3) ** 3)
    return jnp.cbrt(half + root) + jnp.cbrt(half - root)


def _bisection(fun, **options):
    return jaxsolve.Bisection(fun, lower=-4.0, upper=np.full(4, 4.0).astype(float_dtype()), **options)


_entropic_step = jaxsolve.MirrorDescent.make_projection_grad(kl_projection_simplex, jnp.log)


def _wrapped(fun, **options):
    own = {name: options.pop(name) for name in ("has_aux", "value_and_grad") if name in options}
    plain = jaxsolve.ProjectedGradient(fun, projection_non_negative, acceleration=False, **own)
    return jaxsolve.AndersonWrapper(plain, **options)


def _scipy(solver, fun, tol=1e-10, maxiter=2000, **options):
    """A solver of SciPy, whose tolerances mean other things."""
    double = float_dtype() == jnp.float64
    if solver is jaxsolve.ScipyMinimize:  # below, differences of values are rounding errors
        return solver(fun, maxiter=maxiter, options={"gtol": min(300 * tol, 1e-2)}, **options)
    if "LeastSquares" in solver.__name__:
        # SciPy warns of a tolerance below rounding.
        return solver(fun, options=dict.fromkeys(("gtol", "xtol", "ftol"), max(tol, 1e-15)), **options)
    named = {"maxiter": maxiter} if solver is jaxsolve.ScipyBoundedMinimize else {}
    return solver(fun, tol=tol if double else 1e-4, **named, **options)


class Composite(CompositeLinearFunction):
    """A function of the parameters as a function of the predictions X w, from which they can be recovered."""

    def __init__(self, fun):
        self._fun = fun

    def subfun(self, predictions, *args, **kwargs):
        inverse = jnp.asarray(np.linalg.pinv(X)).astype(predictions.dtype)
        return self._fun(inverse @ predictions, *args, **kwargs)

    def make_linop(self, *args, **kwargs):
        return LinearOperator(jnp.asarray(X, float_dtype()))


def _coordinates(fun, **options):
    if callable(fun):  # one object for each function, by which a solver is known to have been compiled
        fun = vars(fun).setdefault("composite", Composite(fun))
    return jaxsolve.BlockCoordinateDescent(fun, prox_lasso, **options)


class _Refinement:
    """Iterative refinement for residuals ``fun(x, theta)`` that are affine in x."""

    def __init__(self, fun, **options):
        def product(theta, x):
            return jax.jvp(lambda x: fun(x, theta), (jax.tree.map(jnp.zeros_like, x),), (x,))[1]

        # The rough solver has an error of a fifth.
        rough = functools.partial(solve_gmres, ridge=0.2)
        self.fun, self.solver = (
            fun,
            jaxsolve.IterativeRefinement(product if callable(fun) else fun, solve=rough, **options),
        )
        self.tol = self.solver.tol

    def _data(self, like, theta):
        """Theta, with which the matrix is known, and the right-hand side."""
        origin = jax.tree.map(lambda x: jnp.zeros(x.shape, theta.dtype), like)
        return theta, jax.tree.map(jnp.negative, self.fun(origin, theta))

    def run(self, init, theta):
        return self.solver.run(init, *self._data(init, theta))

    def init_state(self, init, theta):
        return self.solver.init_state(init, *self._data(init, theta))

    def update(self, params, state, theta):
        return self.solver.update(params, state, *self._data(params, theta))

    def l2_optimality_error(self, params, theta):
        return self.solver.l2_optimality_error(params, *self._data(params, theta))


class _Constrained:
    """A solver with general constraints, over the simplex: an equality and bounds; of its solution the primal part."""

    def __init__(self, solver, fun, **options):
        self.solver = solver(fun, _excess, **options)
        self.tol = self.solver.tol

    def run(self, init, *args, **kwargs):
        params, state = self.solver.run(init, *args, bounds=(0.0, np.inf), **kwargs)
        if not isinstance(params.primal, jax.core.Tracer):
            self.params = params
        return jaxsolve.OptStep(params.primal, state)

    def l2_optimality_error(self, params, *args, **kwargs):
        return self.solver.l2_optimality_error(self.params, *args, bounds=(0.0, np.inf), **kwargs)


def _excess(w, *args, **kwargs):
    return jnp.sum(w) - 1


# The lasso behind a map: |K w| in place of |w|.
MAP = np.array([[1.0, -1.0, 0.0, 0.0], [0.0, 1.0, -1.0, 0.5], [0.0, 0.0, 1.0, -1.0], [0.5, 0.0, 0.0, 1.0]])


class _PrimalDual:
    """The solver with its two variables in one vector."""

    def __init__(self, fun, **options):
        if callable(fun):  # one object for each function, by which a solver is known to have been compiled
            fun = vars(fun).setdefault("of_primal", functools.partial(_of_primal, fun))
        self.solver = jaxsolve.PrimalDual(fun, prox_none, prox_lasso, _mapped, **options)
        self.tol = self.solver.tol

    def pair(self, vector):
        return PrimalDualSolution(vector[:4], vector[4:])

    def _data(self, like, theta):
        return None, LASSO_WEIGHT, theta

    def _vector(self, step):
        return jaxsolve.OptStep(jnp.concatenate(step.params), step.state)

    def run(self, init, *args, **kwargs):
        return self._vector(self.solver.run(self.pair(init), *args, **kwargs))

    def init_state(self, init, *args, **kwargs):
        return self.solver.init_state(self.pair(init), *args, **kwargs)

    def update(self, params, state, *args, **kwargs):
        return self._vector(self.solver.update(self.pair(params), state, *args, **kwargs))

    def l2_optimality_error(self, params, *args, **kwargs):
        return self.solver.l2_optimality_error(self.pair(params), *args, **kwargs)


def _of_primal(fun, x, *args, **kwargs):
    return fun(jnp.concatenate([x, jnp.zeros_like(x)]), *args, **kwargs)


def _mapped(w):
    return jnp.asarray(MAP, w.dtype) @ w


def ridge_of_primal(both, theta):
    return ridge(both[:4], theta)


def mapped_lasso_exact(theta):
    """The dual variables between the bounds, at those that SciPy finds, and the weights from them."""
    X, y = _data()
    reference = mapped_lasso_oracle(THETA)[4:]
    fixed = np.abs(reference) > LASSO_WEIGHT - 1e-6
    at_bound = jnp.where(fixed, LASSO_WEIGHT * np.sign(reference), 0).astype(X.dtype)
    inverse = jnp.linalg.inv(X.T @ X + theta[0] * jnp.eye(4, dtype=X.dtype))
    K = jnp.asarray(MAP, X.dtype)
    free = K[~fixed]
    weights = inverse @ (theta[1] * (X.T @ y) - K.T @ at_bound)
    dual = at_bound.at[np.flatnonzero(~fixed)].set(jnp.linalg.solve(free @ inverse @ free.T, free @ weights))
    return jnp.concatenate([inverse @ (theta[1] * (X.T @ y) - K.T @ dual), dual])


def mapped_lasso_oracle(theta):
    """The dual problem: least squares over a box."""
    from scipy.optimize import lsq_linear

    gram, target = X.T @ X + theta[0] * np.eye(4), theta[1] * (X.T @ Y)
    factor = np.linalg.cholesky(gram)
    A, b = np.linalg.solve(factor, MAP.T), np.linalg.solve(factor, target)
    dual = lsq_linear(A, b, (-LASSO_WEIGHT, LASSO_WEIGHT), tol=1e-14, method="bvls").x
    return np.concatenate([np.linalg.solve(gram, target - MAP.T @ dual), dual])


def linear(x, theta):
    """The residual of the fixed-point equation of the affine contraction."""
    return x - affine(x, theta)


def consistent(x, theta):
    """Half its squared norm, whose least value is 0."""
    return 0.5 * jnp.sum(linear(x, theta) ** 2)


def linear_oracle(theta):
    return np.linalg.solve(np.eye(4) - theta[0] * CONTRACTION, theta[1] * np.ones(4))


def _cases():
    theta, zeros = np.asarray(THETA), np.zeros(4)
    on_ridge = {"fun": ridge, "init": zeros, "theta": theta, "exact": ridge_exact}
    on_logistic = {"fun": logistic, "init": zeros, "theta": theta, "exact": logistic_exact, "oracle": logistic_oracle}
    yield Case("GradientDescent-ridge", jaxsolve.GradientDescent, **on_ridge)
    yield Case(
        "GradientDescent-plain-logistic",
        lambda fun, **o: jaxsolve.GradientDescent(fun, **{"acceleration": False, **o}),
        **on_logistic,
    )
    yield Case(
        "ProximalGradient-lasso",
        lambda fun, **o: jaxsolve.ProximalGradient(fun, prox_lasso, **o),
        ridge,
        zeros,
        theta,
        lasso_exact,
        before=(LASSO_WEIGHT,),
        oracle=lasso_oracle,
    )
    yield Case(
        "ProximalGradient-fixed-step",
        lambda fun, **o: jaxsolve.ProximalGradient(
            fun, prox_lasso, **{"stepsize": float(0.9 / np.linalg.norm(X, 2) ** 2), "acceleration": False, **o}
        ),
        ridge,
        zeros,
        theta,
        lasso_exact,
        before=(LASSO_WEIGHT,),
        oracle=lasso_oracle,
    )
    yield Case(
        "ProjectedGradient-nonnegative",
        lambda fun, **o: jaxsolve.ProjectedGradient(fun, projection_non_negative, **o),
        ridge,
        zeros,
        theta,
        nnls_exact,
        before=(None,),
        oracle=nnls_oracle,
    )
    yield Case(
        "ProjectedGradient-simplex",
        lambda fun, **o: jaxsolve.ProjectedGradient(fun, projection_simplex, **o),
        ridge,
        np.full(4, 0.25),
        theta,
        simplex_exact,
        before=(1.0,),
        oracle=simplex_oracle,
    )
    yield Case(
        "PrimalDual-mapped-lasso",
        _PrimalDual,
        ridge_of_primal,
        np.zeros(8),
        theta,
        mapped_lasso_exact,
        before=(None, LASSO_WEIGHT),
        oracle=mapped_lasso_oracle,
        unroll_iters=500,
        pytrees=False,
    )
    for name, make in {
        "general": lambda fun, **o: jaxsolve.BlockCoordinateDescent(fun, prox_lasso, **o),
        "composite": _coordinates,
    }.items():
        yield Case(
            f"BlockCoordinateDescent-{name}",
            make,
            ridge,
            zeros,
            theta,
            lasso_exact,
            before=(LASSO_WEIGHT,),
            oracle=lasso_oracle,
            unroll_iters=60,
            pytrees=False,
        )
    yield Case(
        "MirrorDescent-simplex",
        lambda fun, **o: jaxsolve.MirrorDescent(fun, _entropic_step, **{"stepsize": 0.0, **o}),
        sparsemax,
        np.full(4, 0.25),
        theta,
        sparsemax_exact,
        before=(1.0,),
        unroll_iters=150,
    )
    for linesearch in ("zoom", "backtracking", "hager-zhang"):
        yield Case(
            f"LBFGS-{linesearch}",
            lambda fun, linesearch=linesearch, **o: jaxsolve.LBFGS(fun, linesearch=linesearch, **o),
            **(on_ridge if linesearch == "backtracking" else on_logistic),
            unroll_iters=25,
        )
    yield Case("BFGS-logistic", jaxsolve.BFGS, **on_logistic, unroll_iters=25)
    yield Case(
        "BFGS-direct",
        lambda fun, **o: jaxsolve.BFGS(fun, **{"form": "direct", "linesearch": "hager-zhang", **o}),
        **on_ridge,
        unroll_iters=25,
    )
    # Later on gradients are differences of rounded sums, and quotients of them have derivatives that are no better.
    yield Case("NonlinearCG-logistic", jaxsolve.NonlinearCG, **on_logistic, unroll_iters=12)
    yield Case(
        "NonlinearCG-hager-zhang",
        lambda fun, **o: jaxsolve.NonlinearCG(fun, **{"method": "hager-zhang", "linesearch": "hager-zhang", **o}),
        **on_ridge,
        unroll_iters=25,
    )
    yield Case("NewtonCG-logistic", jaxsolve.NewtonCG, **on_logistic, unroll_iters=8)
    yield Case("TrustNewton-logistic", jaxsolve.TrustNewton, **on_logistic, unroll_iters=8)
    yield Case(
        "NelderMead-ridge",
        lambda fun, **o: jaxsolve.NelderMead(fun, **{"xtol": 1e-7 if float_dtype() == jnp.float64 else 1e-4, **o}),
        **on_ridge,
        unrolls=False,
        by_values=True,
    )
    yield Case(
        "LBFGS-fixed-step",
        lambda fun, **o: jaxsolve.LBFGS(fun, **{"stepsize": 0.05, **o}),
        **on_ridge,
        unroll_iters=600,
    )
    yield Case(
        "FixedPointIteration-affine",
        jaxsolve.FixedPointIteration,
        affine,
        zeros,
        theta,
        affine_exact,
        unroll_iters=120,
        scalar=False,
    )
    for method in ("II", "I"):
        yield Case(
            f"AndersonAcceleration-{method}",
            lambda fun, method=method, **o: jaxsolve.AndersonAcceleration(fun, method=method, **o),
            affine,
            zeros,
            theta,
            affine_exact,
            unroll_iters=8,
            scalar=False,
        )
    yield Case(
        "AndersonWrapper-nonnegative",
        _wrapped,
        ridge,
        zeros,
        theta,
        nnls_exact,
        before=(None,),
        oracle=nnls_oracle,
    )
    yield Case(
        "IterativeRefinement-affine",
        _Refinement,
        linear,
        zeros,
        theta,
        affine_exact,
        oracle=linear_oracle,
        unroll_iters=30,
        scalar=False,
        passes_on=False,
    )
    for name, make in {
        "Newton": jaxsolve.Newton,
        "Chord": jaxsolve.Chord,
        "Broyden": jaxsolve.Broyden,
        "Broyden-limited": lambda fun, **o: jaxsolve.Broyden(fun, **{"history_size": 8, **o}),
    }.items():
        name, _, form = name.partition("-")
        yield Case(f"{name}-{form or 'cubic'}", make, cubic, zeros, theta, cubic_exact, unroll_iters=40, scalar=False)
    on_curve: dict[str, Any] = {"fun": curve, "init": zeros, "theta": theta, "exact": curve_exact}
    on_curve |= {"oracle": curve_oracle, "like_params": False}
    yield Case(
        "LBFGSB-nonnegative",
        jaxsolve.LBFGSB,
        ridge,
        np.full(4, 0.3),
        theta,
        nnls_exact,
        before=((0.0, np.inf),),
        oracle=nnls_oracle,
        unroll_iters=25,
    )
    for name, options in (
        ("LevenbergMarquardt-qr", {}),
        ("LevenbergMarquardt-products", {"materialize_jac": False}),
        ("LevenbergMarquardt-geodesic", {"geodesic": True}),
        ("GaussNewton-qr", {}),
        ("Dogleg-qr", {}),
    ):
        yield Case(
            name,
            functools.partial(getattr(jaxsolve, name.split("-")[0]), **options),
            **on_curve,
            unroll_iters=20,
            scalar=False,
        )
    yield Case(
        "LevenbergMarquardt-robust",
        lambda fun, **o: jaxsolve.LevenbergMarquardt(fun, **{"loss": "soft_l1", **o}),
        **{**on_curve, "exact": robust_exact, "oracle": robust_oracle},
        unroll_iters=40,
        scalar=False,
    )
    for name, make in {
        "OptaxSolver-sgd": lambda fun, **o: jaxsolve.OptaxSolver(
            fun, optax.sgd(float(0.9 / np.linalg.norm(X, 2) ** 2)), **{"implicit_diff": True, **o}
        ),
        "ArmijoSGD-ridge": lambda fun, **o: jaxsolve.ArmijoSGD(fun, **{"implicit_diff": True, **o}),
    }.items():
        yield Case(name, make, **on_ridge)
    yield Case(
        "PolyakSGD-consistent",
        lambda fun, **o: jaxsolve.PolyakSGD(fun, **{"implicit_diff": True, "max_stepsize": 10.0, **o}),
        consistent,
        zeros,
        theta,
        affine_exact,
        oracle=linear_oracle,
    )
    infinite = (-np.inf, np.inf)
    external: dict[str, Any] = {"unrolls": False, "iterates": False}
    for name, before, on in (
        ("ScipyMinimize-logistic", (), on_logistic),
        (
            "ScipyBoundedMinimize-nonnegative",
            ((0.0, np.inf),),
            {**on_ridge, "exact": nnls_exact, "oracle": nnls_oracle},
        ),
        ("ScipyRootFinding-cubic", (), {"fun": cubic, "init": zeros, "theta": theta, "exact": cubic_exact}),
        ("ScipyLeastSquares-curve", (), on_curve),
        ("ScipyBoundedLeastSquares-curve", (infinite,), on_curve),
    ):
        solver = functools.partial(_scipy, getattr(jaxsolve, name.split("-")[0]))
        yield Case(name, solver, **on, before=before, **external, scalar="Minimize" in name)
    for name in ("InteriorPointNLP", "AugmentedLagrangian", "ScipyConstrainedMinimize"):
        yield Case(
            f"{name}-simplex",
            functools.partial(_Constrained, getattr(jaxsolve, name)),
            ridge,
            np.full(4, 0.25),
            theta,
            simplex_exact,
            oracle=simplex_oracle,
            **external,
            from_inside=True,
        )
    yield Case("Bisection-cubic", _bisection, cubic, None, theta, cubic_exact, scalar=False, unrolls=False)


def _in_dtype(case: Case) -> Case:
    dtype = float_dtype()
    init = None if case.init is None else jnp.asarray(case.init, dtype)
    return dataclasses.replace(case, init=init, theta=jnp.asarray(case.theta, dtype))


# Cases that differ from another one in an option, or in the step, alone; the job in float32 leaves them out.
VARIANTS = (
    "Broyden-limited",
    "AndersonAcceleration-I",
    "LBFGS-hager-zhang",
    "LBFGS-backtracking",
    "LBFGS-fixed-step",
    "BFGS-direct",
    "NonlinearCG-hager-zhang",
    "GradientDescent-plain-logistic",
    "ProximalGradient-fixed-step",
    "ProjectedGradient-nonnegative",
    "BlockCoordinateDescent-general",
    "LevenbergMarquardt-products",
    "LevenbergMarquardt-geodesic",
    "LevenbergMarquardt-robust",
    "GaussNewton-qr",
    "Dogleg-qr",
)
# Cases of solvers that have much in common with others: their tests are slow.
SECONDARY = (
    "BFGS-logistic",
    "NonlinearCG-logistic",
    "NewtonCG-logistic",
    "TrustNewton-logistic",
    "NelderMead-ridge",
    "Chord-cubic",
    "Broyden-cubic",
    "AndersonWrapper-nonnegative",
    "ArmijoSGD-ridge",
    "PolyakSGD-consistent",
    "ScipyBoundedMinimize-nonnegative",
    "ScipyRootFinding-cubic",
    "ScipyLeastSquares-curve",
    "ScipyBoundedLeastSquares-curve",
    "AugmentedLagrangian-simplex",
    "ScipyConstrainedMinimize-simplex",
    "InteriorPointNLP-simplex",
    *(name for name in VARIANTS if name.startswith(("BFGS", "NonlinearCG"))),
    "LevenbergMarquardt-robust",
)
MAIN = [case.name for case in _cases() if case.name not in VARIANTS]
CASES = MAIN if float_dtype() == jnp.float32 else [case.name for case in _cases()]


def get_case(name: str) -> Case:
    """The case of that name, in this job's dtype."""
    return _in_dtype(next(case for case in _cases() if case.name == name))


def check_line(case: Any, params: Any, state: Any) -> None:
    """A result prints as one line, which names the solver and says how the run ended."""
    line = repr(jaxsolve.OptStep(params, state))
    assert line == repr(state)
    assert line.startswith(f"{case.name.split('-')[0]}: CONVERGED in {state.iter_num} iteration")
    assert len(line) <= 120 and len(line.splitlines()) == 1


def _quickly(names, quick):
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in names]


def each(quick=MAIN, where: Callable[[Case], bool] = lambda case: True):
    """Run a test with every case that it holds for.

    Args:
        quick: names of the cases of `make test`, the others are slow. A promise of the solver names all; one of what
            the solvers share names two or three.
        where: whether the test says something about a case.
    """
    names = [case.name for case in _cases() if case.name in CASES and where(case)]
    quick = [name for name in quick if name not in SECONDARY]
    return pytest.mark.parametrize("case", _quickly(names, quick), indirect=True)


# ---- Quadratic programs -------------------------------------------------------------------------------------------

# Four variables; an equality, an active lower and an active upper bound, and two rows that are slack. Theta scales and
# moves the data.
_P = X[:5].T @ X[:5] / 5 + 0.2 * np.eye(4)
_A = X[5:10]


def _quadratic_data(theta):
    """``(Q, c, A, l, u)``; every one of them depends on theta."""
    dtype = theta.dtype
    P, A, c = jnp.asarray(_P, dtype), jnp.asarray(_A, dtype), jnp.asarray(Y[:4], dtype)
    infinite = jnp.asarray(jnp.inf, dtype)
    lower = jnp.stack([0.3 * theta[1], -4 * theta[0], -infinite, -5 * theta[1], -infinite])
    upper = jnp.stack([0.3 * theta[1], 9 * theta[1], 0.8 * theta[0], infinite, 9 * theta[1]])
    first = jnp.zeros_like(A).at[:, 0].set(1)
    return theta[0] * P, theta[1] * c, A + 0.1 * theta[0] * first, lower, upper


_ACTIVE, _AT_UPPER = np.array([0, 1, 2]), np.array([True, False, True])


def _quadratic_exact(theta):
    """Primal solution and multipliers from the system of the active rows (which SciPy finds too)."""
    P, c, A, lower, upper = _quadratic_data(theta)
    held, zeros = A[_ACTIVE], jnp.zeros((3, 3), A.dtype)
    bound = jnp.where(_AT_UPPER, upper[_ACTIVE], lower[_ACTIVE])
    solution = jnp.linalg.solve(jnp.block([[P, held.T], [held, zeros]]), jnp.concatenate([-c, bound]))
    return solution[:4], jnp.zeros(5, A.dtype).at[_ACTIVE].set(solution[4:])


def _quadratic_oracle(*data):
    from scipy.optimize import minimize

    P, c, A, lower, upper = (np.asarray(part, np.float64) for part in data)
    equal = lower == upper
    below, above = ~equal & np.isfinite(lower), ~equal & np.isfinite(upper)
    rows = np.concatenate([A[below], -A[above]])
    bounds = np.concatenate([lower[below], -upper[above]])
    return minimize(
        lambda x: 0.5 * x @ P @ x + c @ x,
        np.zeros(4),
        jac=lambda x: P @ x + c,
        constraints=[
            {"type": "eq", "fun": lambda x: A[equal] @ x - lower[equal], "jac": lambda x: A[equal]},
            {"type": "ineq", "fun": lambda x: rows @ x - bounds, "jac": lambda x: rows},
        ],
        method="SLSQP",
        options={"ftol": 1e-15, "maxiter": 1000},
    ).x


@dataclasses.dataclass(frozen=True)
class QuadraticCase:
    """A solver of quadratic programs.

    Attributes:
        name: of the case; the solver's class comes first.
        solver: ``solver(**options)``.
        rows: ``rows(theta) = (Q, c, A, l, u)``, the problem.
        data: ``data(theta)``, the positional arguments of ``run`` behind the initial point.
        exact: ``exact(theta)``, the parameters that ``run`` returns, by a formula that jax can differentiate.
        primal: the primal variables among the parameters.
        theta: parameters of the problem.
        unroll_iters: iterations after which unrolling agrees with the exact derivative.
        unrolls: whether the iterations can be unrolled.
        iterates: whether the solver is an iteration of ours, with the options that come with it.
        external: whether it calls a program outside of jax, which is as accurate as that is.
        costly: whether it takes long to compile; its tests are always slow.
        constant: ``constant(theta)``, by which the objective exceeds that of the rows.
        wrong: a matrix with which no problem can be made, and what the message says of it.
    """

    name: str
    solver: Callable[..., Any]
    rows: Callable
    data: Callable
    exact: Callable
    primal: Callable
    theta: Any
    unroll_iters: int = 25
    unrolls: bool = True
    iterates: bool = True
    external: bool = False
    costly: bool = False
    constant: Callable = lambda theta: 0
    wrong: tuple = (np.ones((2, 3)), "Q must")

    def make(self, **options: Any) -> Any:
        """The solver, tight enough for derivatives to be compared."""
        return self.solver(**{"tol": 1e-5 if self.single else 1e-10, **options})

    def run(self, solver: Any, theta: Any, init: Any = None) -> Any:
        """Run the solver at ``theta``."""
        return solver.run(init, *self.data(theta))

    @property
    def single(self) -> bool:
        """Whether this job is in single precision."""
        return float_dtype() == jnp.float32

    def tolerance(self) -> float:
        """Relative tolerance in this job's dtype."""
        return 2e-3 if self.single else 1e-7

    def oracle(self, theta: Any) -> Any:
        """The primal solution by SciPy."""
        return _quadratic_oracle(*self.rows(jnp.asarray(theta)))

    def value(self, theta: Any) -> Any:
        """The optimal value."""
        P, c, *_ = self.rows(theta)
        x = self.primal(self.exact(theta))
        return 0.5 * (x @ P @ x) + c @ x + self.constant(theta)


def _box_form(theta):
    P, c, A, lower, upper = _quadratic_data(theta)
    return (P, c), A, (lower, upper)


def _box_params(theta):
    x, y = _quadratic_exact(theta)
    z = _quadratic_data(theta)[2] @ x
    return jaxsolve.KKTSolution((x, z), y, (jnp.maximum(y, 0), jnp.maximum(-y, 0)))


def _standard_form(theta):
    P, c, A, lower, upper = _quadratic_data(theta)
    return (P, c), (A[:1], upper[:1]), (_SIGNS[:, None] * A[1:], jnp.stack([-lower[1], upper[2], -lower[3], upper[4]]))


def _standard_params(theta):
    x, y = _quadratic_exact(theta)
    return jaxsolve.KKTSolution(x, y[:1], _SIGNS * y[1:])


_SIGNS = np.array([-1, 1, -1, 1]).astype(float_dtype())


def _conic_form(theta):
    P, c, A, lower, upper = _quadratic_data(theta)
    b = jnp.stack([upper[0], -lower[1], upper[2], -lower[3], upper[4]])
    return (P, c), (jnp.concatenate([A[:1], _SIGNS[:, None] * A[1:]]), b)


def _conic_params(theta):
    (x, y), (_, (A, b)) = _quadratic_exact(theta), _conic_form(theta)
    slack = jnp.asarray(~_ACTIVE_ROWS, A.dtype) * (b - A @ x)
    return jaxsolve.ConicSolution(x, jnp.concatenate([y[:1], _SIGNS * y[1:]]), slack)


_ACTIVE_ROWS = np.isin(np.arange(5), _ACTIVE)


def _equality_data(theta):
    """The first two rows as equalities."""
    P, c, A, lower, upper = _quadratic_data(theta)
    bound = jnp.stack([upper[0], lower[1]])
    return P, c, A[:2], bound, bound


def _equality_params(theta):
    P, c, A, bound, _ = _equality_data(theta)
    system = jnp.block([[P, A.T], [A, jnp.zeros((2, 2), A.dtype)]])
    solution = jnp.linalg.solve(system, jnp.concatenate([-c, bound]))
    return jaxsolve.KKTSolution(solution[:4], solution[4:], None)


def _bounded_data(theta):
    """Bounds of the variables instead of rows; the second is at its lower, the fourth at its upper bound."""
    P, c, A, _, _ = _quadratic_data(theta)
    return P, c, jnp.eye(4, dtype=A.dtype), jnp.full(4, -1.8, A.dtype) * theta[1], jnp.full(4, 2.4, A.dtype) * theta[0]


def _bounded_exact(theta):
    P, c, _, lower, upper = _bounded_data(theta)
    x = jnp.where(_BOX_AT_LOWER, lower, jnp.where(_BOX_AT_UPPER, upper, 0))
    free = ~(_BOX_AT_LOWER | _BOX_AT_UPPER)
    inside = jnp.linalg.solve(P[free][:, free], -(c + P @ x)[free])
    return x.at[free].set(inside)


def _least_squares_data(theta):
    """A least-squares problem over a box: one variable is at its lower bound, one at its upper bound."""
    A, b = jnp.asarray(X, theta.dtype), jnp.asarray(Y, theta.dtype)
    A = A + 0.1 * theta[0] * jnp.zeros_like(A).at[:, 0].set(1)
    lower, upper = jnp.full(4, -0.05, A.dtype) * theta[1], jnp.full(4, 0.5, A.dtype) * theta[0]
    return A, theta[1] * b, lower, upper


def _least_squares_rows(theta):
    A, b, lower, upper = _least_squares_data(theta)
    return A.T @ A, -A.T @ b, jnp.eye(4, dtype=A.dtype), lower, upper


def _least_squares_exact(theta):
    A, b, lower, upper = _least_squares_data(theta)
    x = jnp.where(_FIT_AT_LOWER, lower, jnp.where(_FIT_AT_UPPER, upper, 0))
    inside = A[:, ~(_FIT_AT_LOWER | _FIT_AT_UPPER)]
    return x.at[~(_FIT_AT_LOWER | _FIT_AT_UPPER)].set(jnp.linalg.solve(inside.T @ inside, inside.T @ (b - A @ x)))


_FIT_AT_LOWER, _FIT_AT_UPPER = np.array([False, True, False, False]), np.array([False, False, False, True])
_BOX_AT_LOWER, _BOX_AT_UPPER = np.array([False, True, False, False]), np.array([False, False, False, True])


def _quadratic_cases():
    yield QuadraticCase(
        "InteriorPointQP",
        jaxsolve.InteriorPointQP,
        _quadratic_data,
        _box_form,
        _box_params,
        lambda params: params.primal[0],
        THETA,
        unroll_iters=25,
    )
    yield QuadraticCase(
        "BoxOSQP",
        jaxsolve.BoxOSQP,
        _quadratic_data,
        _box_form,
        _box_params,
        lambda params: params.primal[0],
        THETA,
        unroll_iters=200,
    )
    yield QuadraticCase(
        "OSQP",
        jaxsolve.OSQP,
        _quadratic_data,
        _standard_form,
        _standard_params,
        lambda params: params.primal,
        THETA,
        unroll_iters=200,
    )
    for name, iterations in (("ConicADMM", 400), ("ConicInteriorPoint", 30)):
        yield QuadraticCase(
            name,
            functools.partial(getattr(jaxsolve, name), jaxsolve.Cones(zero=1, nonneg=4)),
            _quadratic_data,
            _conic_form,
            _conic_params,
            lambda params: params.x,
            THETA,
            unroll_iters=iterations,
            costly=True,
            wrong=(np.ones((2, 3)), "P must"),
        )
    for name, options in (("CvxpyQP", {}), ("ExternalOSQP", {})):
        yield QuadraticCase(
            name,
            functools.partial(getattr(jaxsolve, name), **options),
            _quadratic_data,
            _standard_form,
            _standard_params,
            lambda params: params.primal,
            THETA,
            unrolls=False,
            iterates=False,
            external=True,
        )
    yield QuadraticCase(
        "EqualityConstrainedQP",
        jaxsolve.EqualityConstrainedQP,
        _equality_data,
        lambda theta: (_equality_data(theta)[:2], _equality_data(theta)[2:4]),
        _equality_params,
        lambda params: params.primal,
        THETA,
        unrolls=False,
        iterates=False,
    )
    yield QuadraticCase(
        "BoxCDQP",
        jaxsolve.BoxCDQP,
        _bounded_data,
        lambda theta: (_bounded_data(theta)[:2], _bounded_data(theta)[3:]),
        _bounded_exact,
        lambda params: params,
        THETA,
        unroll_iters=200,
    )
    yield QuadraticCase(
        "BoundedLeastSquares",
        jaxsolve.BoundedLeastSquares,
        _least_squares_rows,
        lambda theta: (_least_squares_data(theta)[:2], _least_squares_data(theta)[2:]),
        _least_squares_exact,
        lambda params: params,
        THETA,
        unrolls=False,
        constant=lambda theta: 0.5 * jnp.sum(_least_squares_data(theta)[1] ** 2),
        wrong=(np.ones((2, 3, 2)), "A must"),
    )


QUADRATIC_CASES = [case.name for case in _quadratic_cases()]


def get_quadratic_case(name: str) -> QuadraticCase:
    """The case of that name, in this job's dtype."""
    case = next(case for case in _quadratic_cases() if case.name == name)
    return dataclasses.replace(case, theta=jnp.asarray(case.theta, float_dtype()))


def each_quadratic(quick=None, where: Callable[[QuadraticCase], bool] = lambda case: True):
    """The same for quadratic programs; those solved by external programs, or as conic programs, are always slow."""
    cases = [case for case in _quadratic_cases() if where(case)]
    affordable = [case.name for case in cases if not (case.external or case.costly)]
    quick = [name for name in affordable if quick is None or name in quick]
    return pytest.mark.parametrize("case", _quickly([case.name for case in cases], quick), indirect=True)
