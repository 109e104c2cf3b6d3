"""Everyday data as it comes: float32, columns in their own units, no preprocessing.

scikit-learn's diabetes, wine and breast cancer, and made-up columns from 1e-3 to 1e4; squared, logistic and Poisson
losses; ridge, lasso, elastic net, group lasso and bounds. For each solver a line with its status, what its value
exceeds the optimum by relative to what there is to gain, and its evaluations beside those of SciPy's L-BFGS-B, in
float64, to the same relative optimality error, which with ``scale="jacobi"`` is that of the scaled variables. The
optimum is SciPy's, in float64 and in scaled variables.

A line passes if the value is within 1e-3 of the optimum. A run of ``LBFGS`` or by working sets that converged must also
have had at most 1.2 times SciPy's evaluations; a method that only has gradients needs more.
"""

import argparse
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
from sklearn import datasets

import jaxsolve
from jaxsolve import Status, objective
from jaxsolve.base import LinearOperator
from jaxsolve.projection import projection_non_negative
from jaxsolve.prox import prox_elastic_net, prox_group_lasso, prox_l12, prox_lasso

RTOL, MAXITER, CLOSE, DEARER = 1e-4, 2000, 1e-3, 1.2


# ---- Data ---------------------------------------------------------------------------------------------------------


def made_up(n=1000, seed=0):
    """Columns with units from 1e-3 to 1e4, some of them correlated and skewed, and a target that depends on them."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 8))
    X[:, 1] = 0.8 * X[:, 0] + 0.6 * X[:, 1]
    X[:, 2:5] = np.exp(0.5 * X[:, 2:5])
    signal = X @ rng.normal(size=8)
    X = X * np.logspace(-3, 4, 8)
    return X, signal + rng.normal(size=n)


def data_sets():
    """By name: the data matrix and the target, as they come."""
    columns, target = made_up()
    diabetes = datasets.load_diabetes(return_X_y=True)
    return {
        "diabetes": diabetes,
        "diabetes x 100": (100 * diabetes[0], diabetes[1]),
        "wine": datasets.load_wine(return_X_y=True),
        "breast cancer": datasets.load_breast_cancer(return_X_y=True),
        "made up": (columns, target),
        "made up, counts": (columns, np.random.default_rng(1).poisson(np.exp(np.clip(target, -5, 3)))),
        "made up, two targets": (columns, np.stack([target, columns[:, 0] * 1e3 - target], axis=1)),
    }


# ---- Problems -----------------------------------------------------------------------------------------------------


class Poisson(objective.CompositeLinearFunction):
    """Poisson regression with a logarithmic link: the mean of ``exp(p) - y p``."""

    def subfun(self, predictions, data):
        return jnp.mean(jnp.exp(predictions) - data[1].astype(predictions.dtype) * predictions)

    def make_linop(self, data):
        return LinearOperator(data[0])


LOSSES = {
    "squared": objective.least_squares,
    "logistic": objective.binary_logreg,
    "multiclass": objective.multiclass_logreg,
    "poisson": Poisson(),
}


class Problem(NamedTuple):
    """A loss of linear predictions on a data set, plus a penalty.

    Attributes:
        data: name of a data set.
        loss: name of a loss.
        penalty: ``"ridge"``, ``"lasso"``, ``"elastic net"``, ``"group lasso"`` or ``"bounds"``.
        weight: of the penalty, relative to the least one at which the solution is 0; of ridge it is absolute.
    """

    data: str
    loss: str
    penalty: str
    weight: float = 0.1


PROBLEMS = [
    Problem("diabetes", "squared", "ridge", 1e-4),
    Problem("diabetes x 100", "squared", "ridge", 1e-4),
    Problem("made up", "squared", "ridge", 1e-4),
    Problem("breast cancer", "logistic", "ridge", 1e-3),
    Problem("wine", "multiclass", "ridge", 1e-3),
    Problem("diabetes", "poisson", "ridge", 1e-4),
    Problem("diabetes x 100", "poisson", "ridge", 1e-4),
    Problem("made up, counts", "poisson", "ridge", 1e-4),
    Problem("diabetes", "squared", "lasso"),
    Problem("diabetes x 100", "squared", "elastic net"),
    Problem("made up", "squared", "lasso", 1e-4),
    Problem("breast cancer", "logistic", "lasso", 1e-3),
    Problem("breast cancer", "logistic", "elastic net", 1e-3),
    Problem("diabetes x 100", "poisson", "lasso", 1e-2),
    Problem("wine", "multiclass", "group lasso", 1e-3),
    Problem("made up, two targets", "squared", "group lasso", 1e-4),
    Problem("diabetes x 100", "squared", "bounds"),
    Problem("breast cancer", "logistic", "bounds"),
    Problem("made up", "squared", "bounds"),
]


class Task:
    """A problem with its data, for solvers in float32 and for the reference in float64."""

    def __init__(self, problem: Problem):
        X, y = data_sets()[problem.data]
        X = np.column_stack([X, np.ones(len(X))])
        self.penalty, self.composite = problem.penalty, LOSSES[problem.loss]
        self.data64 = (jnp.asarray(X, jnp.float64), jnp.asarray(y))
        as32 = jnp.int32 if np.issubdtype(np.asarray(y).dtype, np.integer) else jnp.float32
        self.data32 = (jnp.asarray(X, jnp.float32), jnp.asarray(y, as32))
        classes = {"multiclass": (3,)}.get(problem.loss, np.shape(y)[1:])
        self.shape = (X.shape[1], *classes)
        self.row_scale = 1 / np.sqrt(np.mean(X**2, axis=0)).reshape(-1, *[1] * len(classes))
        slope = np.asarray(jax.grad(self.composite)(jnp.zeros(self.shape), self.data64))
        norms = np.sqrt((slope**2).reshape(len(slope), -1).sum(axis=1)) if self.penalty == "group lasso" else slope
        self.ridge = problem.weight if self.penalty == "ridge" else 0.0
        self.weight = 0.0 if self.penalty in ("ridge", "bounds") else float(problem.weight * np.max(np.abs(norms)))
        if self.penalty == "elastic net":
            self.weight *= 0.5

    def smooth(self, w, data):
        """The smooth part, a function of the parameters for the gradient methods."""
        return self.composite(w, data) + 0.5 * self.ridge * jnp.sum(w**2)

    def rest(self, w):
        """The other part of the objective, 0 on the feasible set."""
        if self.penalty == "elastic net":
            return self.weight * (jnp.sum(jnp.abs(w)) + 0.5 * jnp.sum(w**2))
        norms = jnp.sqrt(jnp.sum(w**2, axis=1)) if self.penalty == "group lasso" else jnp.abs(w)
        return self.weight * jnp.sum(norms)

    @functools.cached_property
    def value(self):
        """The whole objective in float64."""
        return jax.jit(lambda w: self.smooth(w, self.data64) + self.rest(w))

    @functools.cached_property
    def errors(self):
        """Norm of the gradient, or of ``prox(w - grad) - w``, in float64; and of the gradient in units of curvature."""
        gradient = lambda w: jax.grad(self.smooth)(w, self.data64)  # noqa: E731
        start = jnp.zeros(self.shape)
        units = jnp.eye(start.size).reshape(-1, *self.shape)
        curvatures = jax.lax.map(lambda v: jnp.vdot(v, jax.jvp(gradient, (start,), (v,))[1]), units)

        def both(w):
            grad = gradient(w)
            prox, hyperparams = self.prox()
            plain = grad if prox is None else prox(w - grad, hyperparams) - w
            return jnp.stack([jnp.linalg.norm(plain), jnp.linalg.norm(grad.reshape(-1) / jnp.sqrt(curvatures))])

        return jax.jit(both)

    def prox(self, by_block=False):
        """The proximity operator of the rest, or the projection; and its hyperparameters."""
        group = prox_group_lasso if by_block else prox_l12
        return {
            "ridge": (None, None),
            "lasso": (prox_lasso, self.weight),
            "elastic net": (prox_elastic_net, (self.weight, 1.0)),
            "group lasso": (group, self.weight),
            "bounds": (projection_non_negative, None),
        }[self.penalty]

    # ---- The reference ----

    def smooth_form(self, units, weight=None):
        """The problem as one with bounds for L-BFGS-B, in the given units: ``(fun, first point, bounds, decode)``.

        Lasso penalties get the variables ``w = u - v`` with ``u, v >= 0``.
        """
        units, size = jnp.broadcast_to(jnp.asarray(units), self.shape), int(np.prod(self.shape))
        if self.penalty in ("lasso", "elastic net"):
            decode = lambda z: units * (z[:size] - z[size:]).reshape(self.shape)  # noqa: E731

            def fun(z):
                w = decode(z)
                l2 = self.weight if self.penalty == "elastic net" else 0.0
                l1 = self.weight * jnp.vdot(jnp.tile(units.reshape(-1), 2), z)
                return self.smooth(w, self.data64) + l1 + 0.5 * l2 * jnp.sum(w**2)

            return fun, np.zeros(2 * size), [(0, None)] * 2 * size, decode
        decode = lambda z: units * z.reshape(self.shape)  # noqa: E731
        bounds = [(0, None)] * size if self.penalty == "bounds" else None
        return lambda z: self.smooth(decode(z), self.data64), np.zeros(size), bounds, decode

    def optimum(self):
        """The least value, in float64, and what there is to gain from zero."""
        if self.penalty == "group lasso":
            best = self._grouped_optimum()
        else:
            fun, start, bounds, decode = self.smooth_form(self.row_scale)
            value_and_grad = jax.jit(jax.value_and_grad(fun))
            call = lambda z: tuple(map(np.asarray, value_and_grad(z)))  # noqa: E731
            options = {"maxcor": 50, "ftol": 0.0, "gtol": 1e-13, "maxiter": 50_000, "maxfun": 100_000}
            for _ in range(3):
                result = scipy.optimize.minimize(
                    call, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options
                )
                start = result.x
            best = float(self.value(decode(start)))
        return best, float(self.value(jnp.zeros(self.shape))) - best

    def _grouped_optimum(self):
        """With ``|w_j| = min (|w_j|^2 / t_j + t_j) / 2`` the problem is smooth; ``t_j`` falls to 0 where ``w_j`` does.

        Written as a cone program it is solved by Clarabel.
        """
        import cvxpy

        X, y = map(np.asarray, self.data64)
        W = cvxpy.Variable(self.shape)
        units = self.row_scale.reshape(-1)
        predictions = (X * units) @ W
        if self.composite is LOSSES["squared"]:
            fit = cvxpy.sum_squares(predictions - y) / (2 * y.size)
        else:
            chosen = cvxpy.sum(cvxpy.multiply(np.eye(self.shape[1])[y], predictions))
            fit = (cvxpy.sum(cvxpy.log_sum_exp(predictions, axis=1)) - chosen) / len(y)
        norms = cvxpy.sum(cvxpy.multiply(self.weight * units, cvxpy.norm(W, 2, axis=1)))
        cvxpy.Problem(cvxpy.Minimize(fit + norms)).solve(solver="CLARABEL")
        return float(self.value(jnp.asarray(units[:, None] * W.value)))

    def scipy_errors(self):
        """The relative optimality errors of L-BFGS-B, in float64 and raw units, at each evaluation."""
        if self.penalty == "group lasso":
            return None
        fun, start, bounds, decode = self.smooth_form(1.0)
        value_and_grad, errors = jax.jit(jax.value_and_grad(fun)), []

        def call(z):
            errors.append(np.asarray(self.errors(decode(z))))
            return tuple(map(np.asarray, value_and_grad(z)))

        options = {"maxcor": 10, "ftol": 0.0, "gtol": 0.0, "maxiter": 5000, "maxfun": 20_000}
        scipy.optimize.minimize(call, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options)
        return np.array(errors) / errors[0]

    # ---- Our solvers ----

    def solvers(self):
        """By name, what runs from zero; a function that returns ``(params, state)``."""
        options: dict[str, Any] = {"tol": 0.0, "rtol": RTOL, "maxiter": MAXITER}
        start = jnp.zeros(self.shape, jnp.float32)
        prox, hyperparams = self.prox()
        runs = {}

        def add(name, solver, *args):
            runs[name] = lambda: solver.run(start, *args)

        if self.penalty == "ridge":
            for scale in (None, "jacobi"):
                words = f", {scale}" if scale else ""
                add(f"LBFGS{words}", jaxsolve.LBFGS(self.smooth, scale=scale, **options), self.data32)
                add(
                    f"GradientDescent{words}",
                    jaxsolve.GradientDescent(self.smooth, scale=scale, **options),
                    self.data32,
                )
            plain = jaxsolve.GradientDescent(self.smooth, acceleration=False, **options)
            add("GradientDescent, plain", plain, self.data32)
        else:
            kind = jaxsolve.ProjectedGradient if self.penalty == "bounds" else jaxsolve.ProximalGradient
            for acceleration in (True, False):
                name = kind.__name__ + ("" if acceleration else ", plain")
                solver = kind(self.smooth, prox, acceleration=acceleration, **options)
                add(name, solver, hyperparams, self.data32)
        if self.penalty not in ("ridge", "bounds"):
            block_prox, hyperparams = self.prox(by_block=True)
            for selection in ("working_set", "cyclic", "random"):
                solver = jaxsolve.BlockCoordinateDescent(self.composite, block_prox, selection=selection, **options)
                add(f"BlockCoordinateDescent, {selection}", solver, hyperparams, self.data32)
        return runs


# ---- What is shown ------------------------------------------------------------------------------------------------


class Line(NamedTuple):
    """How one solver did."""

    name: str
    status: str
    excess: float
    error: float
    evaluations: int
    scipy: int | None

    @property
    def passed(self) -> bool:
        """Whether the value is close, and the run was cheap, if it should be and converged."""
        bound = self.scipy is not None and ("LBFGS" in self.name or "working_set" in self.name)
        cheap = not bound or self.evaluations <= DEARER * self.scipy
        return abs(self.excess) <= CLOSE and (cheap or self.status != "CONVERGED")


def lines(problem: Problem, only: str = ""):
    """A line for each solver whose name begins with ``only``."""
    task = Task(problem)
    best, gain = task.optimum()
    theirs, first = task.scipy_errors(), task.errors(jnp.zeros(task.shape))
    for name, run in task.solvers().items():
        if not name.startswith(only):
            continue
        params, state = run()
        w = params.astype(jnp.float64)
        measure = int("jacobi" in name)
        error = float((task.errors(w) / first)[measure])
        reached = None if theirs is None else np.flatnonzero(theirs[:, measure] <= max(error, RTOL))
        scipy_count = None if reached is None or not reached.size else int(reached[0]) + 1
        evaluations = int(state.num_fun_eval) + (0 if name.startswith("LBFGS") else int(state.num_grad_eval))
        yield Line(
            name, Status(int(state.status)).name, (float(task.value(w)) - best) / gain, error, evaluations, scipy_count
        )


def main(only: str, solver: str) -> None:
    """Print everything."""
    failed = count = 0
    for problem in PROBLEMS:
        if only not in problem.data and only not in problem.loss and only not in problem.penalty:
            continue
        print(f"{problem.data}: {problem.loss} loss, {problem.penalty}", flush=True)
        for line in lines(problem, solver):
            count, failed = count + 1, failed + (not line.passed)
            ratio = f"SciPy {line.scipy:6d}   ratio {line.evaluations / line.scipy:6.2f}" if line.scipy else ""
            print(
                f"  {line.name:36}{line.status:10} excess {line.excess:8.1e}   error {line.error:7.1e}   "
                f"evaluations {line.evaluations:6d}   {ratio}{'' if line.passed else '   FAILED'}",
                flush=True,
            )
    print(f"{failed} of {count} lines failed")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="part of the name of a data set, loss or penalty")
    parser.add_argument("--solver", default="", help="how the names of solvers begin")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    main(options.only, options.solver)
