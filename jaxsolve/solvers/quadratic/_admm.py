r"""Operator splitting for quadratic programs.

Problem: :math:`\min_x \tfrac12 x^T P x + q^T x` subject to :math:`l \le A x \le u`. Method: the alternating direction
method of multipliers with over-relaxation :math:`\alpha`, on the equilibrated problem; with :math:`R = \rho S`,

.. math::

    \Delta x &= -(P + \sigma I + A^T R A)^{-1} \bigl(P x + q + A^T (y + R (A x - z))\bigr), \\
    w &= \alpha A (x + \Delta x) + (1 - \alpha) z, \qquad x \leftarrow x + \alpha \Delta x, \\
    z &\leftarrow \Pi_{[l, u]}(w + R^{-1} y), \qquad y \leftarrow y + R (w - z).

:math:`\rho` balances the two residuals. Optimality: the Karush-Kuhn-Tucker conditions.

Reference:
    Stellato, Banjac, Goulart, Bemporad and Boyd (2020), "OSQP: an operator splitting solver for quadratic programs",
    Mathematical Programming Computation.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxsolve._compat import is_concrete
from jaxsolve._loop import loop
from jaxsolve._status import Status
from jaxsolve._types import Array, OptStep, PyTree
from jaxsolve.base import option
from jaxsolve.solvers.quadratic._admm_linear_system import LinearSystem, linear_system, renewed, solved
from jaxsolve.solvers.quadratic._base import Problem, Solution
from jaxsolve.solvers.quadratic._certificates import find_certificates
from jaxsolve.solvers.quadratic._iterative import IterativeQP
from jaxsolve.solvers.quadratic._problem import QuadraticProgram
from jaxsolve.solvers.quadratic._residuals import (
    Products,
    Residuals,
    feasible_signs,
    norm,
    optimality_error,
    products,
    residuals,
)
from jaxsolve.solvers.quadratic._scaling import scale
from jaxsolve.tree_util import tree_all_finite, tree_where

__all__ = ["OperatorSplitting", "SplittingState"]

# A warm start is near a solution if its residuals are at most this part of their terms.
_NEAR = 0.3
# The penalty is changed if another would be better by this factor.
_WORTH_CHANGING = 5.0
# A change disturbs for a while, and could call for the next one, back and forth. The iterations until the next are at
# least all before it over this number.
_REST = 2


class Point(NamedTuple):
    """An iterate of the scaled problem.

    Attributes:
        x: shape ``(n,)``.
        z: the rows, within their bounds, shape ``(m,)``.
        y: multipliers, shape ``(m,)``.
        at: the products at ``(x, y)``.
        inverse: of the linear system; ``None`` without a factorization.
        stale: whether the penalty is no longer that of the inverse.
        changed: the iteration in which the penalty was changed last, int32.
    """

    x: Array
    z: Array
    y: Array
    at: Products
    inverse: Any
    stale: Array
    changed: Array


class SplittingState(NamedTuple):
    """State of operator splitting.

    Attributes:
        iter_num: iterations done, int32.
        error: optimality error; converged at ``tol``.
        value: the objective.
        status: a :class:`jaxsolve.Status`, int32.
        primal_residuals: ``A x - z``, shape ``(m,)``.
        dual_residuals: ``Q x + c + A^T y``, shape ``(n,)``.
        rho_bar: the penalty of inequalities.
        solver_state: the iterate in scaled units; ``None`` in the result of a run.
    """

    iter_num: Array
    error: Array
    value: Array
    status: Array
    primal_residuals: Array
    dual_residuals: Array
    rho_bar: Array
    solver_state: Any


class OperatorSplitting(IterativeQP):
    """Base of :class:`.OSQP` and :class:`.BoxOSQP`.

    Attributes:
        check_primal_dual_infeasability: whether to look for proofs of infeasibility; ``"auto"`` means ``True``.
        sigma: proximal weight of the variables.
        momentum: over-relaxation, between 0 and 2.
        eq_qp_solve: how the linear systems are solved: ``"lu"`` by a factorization (matrices are made dense), ``"cg"``
            or ``"cg+jacobi"`` by conjugate gradients, ``"auto"`` by a factorization if the matrices are given by
            their entries and are not too large.
        rho_start: first penalty.
        rho_min: smallest penalty.
        rho_max: largest penalty.
        stepsize_updates_frequency: number of iterations between two checks of the penalty.
        primal_infeasible_tol: how closely a direction must satisfy the conditions of a certificate of primal
            infeasibility, relative to its size, before it is refined and tested; this is loosened during a run.
        dual_infeasible_tol: likewise, for unbounded problems.
        termination_check_frequency: number of iterations between two tests of convergence. At these tests ``verbose``
            prints its line, and ``callback`` is called.
    """

    check_primal_dual_infeasability: bool | str = option("auto", among=("auto", True, False))
    sigma: float = option(1e-6, above=0)
    momentum: float = option(1.6, above=0, below=2)
    eq_qp_solve: str = option("auto", among=("auto", "cg", "cg+jacobi", "lu"))
    rho_start: float = option(0.1, above=0)
    rho_min: float = option(1e-6, above=0)
    rho_max: float = option(1e6, above=0)
    stepsize_updates_frequency: int = option(10, at_least=1)
    primal_infeasible_tol: float = option(1e-3, at_least=0)
    dual_infeasible_tol: float = option(1e-3, at_least=0)
    maxiter: int = option(4000)
    tol: float = option(1e-3)
    termination_check_frequency: int = option(5, at_least=1)

    _State = SplittingState
    _resumed_fields = ("rho_bar",)
    _shares_scaling = True

    def _validate(self) -> None:
        super()._validate()
        for name in ("stepsize_updates_frequency", "termination_check_frequency"):
            if not isinstance(getattr(self, name), int):
                raise TypeError(f"{name} must be an int, got {getattr(self, name)!r}.")

    # ---- The problem ----------------------------------------------------------------------------------------------

    def _wanted_form(self, qp: QuadraticProgram) -> QuadraticProgram:
        """The problem with matrices given by their entries, if it is to be factorized."""
        return qp.with_factor() if self.eq_qp_solve == "lu" else qp

    def _prepared(self, problem: Problem, inputs: Any = None) -> Problem:
        probe = None
        if inputs is not None:
            probe = _sum_of_first_entries((inputs, self.tol, self.rtol, self.maxiter, self.rho_start, self.momentum))
        qp = scale(problem.qp, problem.scaling.of_common_parts())
        sigma = _number(self.sigma, qp.q)
        if jnp.finfo(sigma.dtype).bits < 64:
            sigma = jnp.maximum(sigma, 1e-4)  # it decides the condition of the system, and of nothing else
        sigma = sigma / problem.scaling.steepness
        direct = qp.has_factor and not self.eq_qp_solve.startswith("cg")
        system = linear_system(qp, sigma, direct=direct, unrolls=self._unrolls, batch_probe=probe)
        return problem._replace(linear_system=system)

    # ---- The set of the rows: here a box, elsewhere cones ---------------------------------------------------------

    def _nearest_rows(self, qp: QuadraticProgram, z: Array) -> Array:
        """The nearest rows that meet the constraints."""
        return jnp.clip(z, qp.lower, qp.upper)

    def _feasible_multipliers(self, qp: QuadraticProgram, y: Array) -> Array:
        """The nearest multipliers that rows may have."""
        return feasible_signs(qp, y)

    def _residuals(self, qp: QuadraticProgram, x: Array, y: Array, at: Products) -> Residuals:
        """The residuals at a point whose multipliers are feasible."""
        return residuals(qp, x, y, at)

    def _proof(
        self, problem: Problem, d: Array, dy: Array, along: Products, iter_num: Array, wanted: Array
    ) -> tuple[Any, ...]:
        """What is proved by the directions in which the iterates move, in scaled units.

        Returns:
            The status, that of a run without a proof; and then the fields that the state has behind those of
            :class:`SplittingState`.
        """
        # The longer a run takes, the more it is worth to look closely.
        patience = 1 + iter_num.astype(d.dtype) / 100
        tols = (self.primal_infeasible_tol, self.dual_infeasible_tol)
        y_tol, d_tol = (patience * _number(tol, d) for tol in tols)
        forgiven = self._forgiven(problem)
        return (find_certificates(problem.scaled, d, dy, along, forgiven, (y_tol, d_tol), wanted=wanted),)

    def _no_proof(self, problem: Problem) -> tuple[Any, ...]:
        """The further fields of the state before the first iteration."""
        return ()

    # ---- The iterations -------------------------------------------------------------------------------------------

    def _begin(self, problem: Problem, init_params: PyTree) -> SplittingState:
        system = problem.linear_system
        qp = system.qp
        x, y, rho_bar = self._first(problem, init_params)
        x, y = problem.scaling.of_common_parts().to_scaled(x, y)
        y = self._feasible_multipliers(qp, y)
        at = products(qp, x, y)
        inverse = jnp.zeros_like(x, shape=qp.P.shape) if system.direct else None
        never = jnp.zeros((), jnp.int32)
        point = Point(x, self._nearest_rows(qp, at.Ax), y, at, inverse, jnp.asarray(True), never)
        return self._judge(problem, point, None, never, rho_bar)

    def _first(self, problem: Problem, init_params: PyTree) -> tuple[Array, Array, Array]:
        """The vectors ``(x, y)`` where a run begins, and its first penalty."""
        x, y = self._form.start(problem, init_params)
        rho_bar = _number(self.rho_start, x)
        given = self._given(problem, init_params)
        if given is None:
            return x, y, rho_bar
        # What a point near a solution lacks is a part of its multipliers and of its rows, in the same proportion: then
        # the best penalty is the ratio of their sizes. Elsewhere estimated multipliers and such a penalty do harm.
        qp, scaling = problem.scaled, problem.scaling
        scaled_x, scaled_y = scaling.to_scaled(given.x, given.y)
        at = products(qp, scaled_x, self._feasible_multipliers(qp, scaled_y))
        slope, violation = at.Px + qp.q + at.Aty, at.Ax - self._nearest_rows(qp, at.Ax)
        near = norm(slope) <= _NEAR * norm(at.Px, qp.q, at.Aty)
        near &= norm(violation) <= _NEAR * norm(at.Ax)
        ratio = jnp.linalg.norm(scaled_y) / jnp.linalg.norm(at.Ax)
        known = near & jnp.isfinite(ratio) & (ratio > 0)
        ratio = jnp.clip(ratio, _number(self.rho_min, x), _number(self.rho_max, x))
        return x, jnp.where(near, given.y, y), lax.stop_gradient(jnp.where(known, ratio, rho_bar))

    def _advance(self, problem: Problem, state: SplittingState) -> SplittingState:
        system, old = problem.linear_system, state.solver_state
        rho = state.rho_bar / problem.scaling.steepness
        fresh = old._replace(inverse=renewed(system, old.inverse, rho, old.stale))
        moved, count = self._iterate(system, fresh, rho, state.iter_num)
        finite = tree_all_finite(moved)
        x, z, y = tree_where(finite, moved, (old.x, old.z, old.y))
        point = fresh._replace(x=x, z=z, y=y, at=products(system.qp, x, y))
        iter_num = state.iter_num + count
        frequency = self.stepsize_updates_frequency
        due = iter_num // frequency > state.iter_num // frequency
        due &= _REST * (iter_num - old.changed) >= old.changed
        rho_bar = jnp.where(due, self._better_penalty(system, point, state.rho_bar), state.rho_bar)
        stale = rho_bar != state.rho_bar
        point = point._replace(stale=stale, changed=jnp.where(stale, iter_num, old.changed))
        new = self._judge(problem, point, old, iter_num, rho_bar)
        return new._replace(status=Status.NONFINITE.where(~finite, new.status))

    def _solution(self, problem: Problem, state: SplittingState) -> Solution:
        point = state.solver_state
        x, y, at = problem.scaling.of_common_parts().to_user(point.x, point.y, point.at)
        return Solution(x, y, at.Ax)

    def _solve(self, init_params: PyTree, *data: Any) -> tuple[OptStep, Any]:
        (params, state), system = super()._solve(init_params, *data)
        return OptStep(params, state._replace(solver_state=None)), system

    def _iterate(self, system: LinearSystem, point: Point, rho: Array, iter_num: Array) -> tuple[tuple, Array]:
        """``(x, z, y)`` after a block of iterations, and how many they were."""
        qp, alpha = system.qp, _number(self.momentum, rho)
        stiffness = rho * system.weights

        def one(carry):
            x, z, y, Ax = carry
            g = qp.P.matvec(x) + qp.q + qp.A.rmatvec(y + stiffness * (Ax - z))
            back = solved(system, point.inverse, rho, g)
            Aback = qp.A.matvec(back)
            w = alpha * (Ax - Aback) + (1 - alpha) * z
            new_z = self._nearest_rows(qp, w + y / stiffness)
            return x - alpha * back, new_z, y + stiffness * (w - new_z), Ax - alpha * Aback

        size, count = self.termination_check_frequency, jnp.zeros_like(iter_num)
        carry, kind = (point.x, point.z, point.y, point.at.Ax), self._loop_kind
        if kind == "while" and is_concrete(self.maxiter) and self.maxiter % size == 0:
            carry, count = lax.fori_loop(0, size, lambda _, carry: one(carry), carry), count + size
        else:
            left = jnp.asarray(self.maxiter).astype(jnp.int32) - iter_num
            body = lambda carry: (one(carry[0]), carry[1] + 1)  # noqa: E731
            carry, count = loop(lambda carry: carry[1] < left, body, (carry, count), maxiter=size, kind=kind)
        return carry[:3], count

    def _better_penalty(self, system: LinearSystem, point: Point, rho_bar: Array) -> Array:
        """The penalty that would have balanced the residuals, if it is worth a change."""
        x, z, y, at = point[:4]
        tiny = jnp.finfo(x.dtype).tiny
        primal = norm(at.Ax - z) / jnp.maximum(norm(at.Ax, z), tiny)
        dual = norm(at.Px + system.qp.q + at.Aty) / jnp.maximum(norm(at.Px, at.Aty, system.qp.q), tiny)
        ratio = jnp.sqrt(jnp.maximum(primal, tiny) / jnp.maximum(dual, tiny))
        wanted = jnp.clip(rho_bar * ratio, _number(self.rho_min, x), _number(self.rho_max, x))
        change = wanted / rho_bar
        worth = (change > _WORTH_CHANGING) | (change < 1 / _WORTH_CHANGING)
        return lax.stop_gradient(jnp.where(worth, wanted, rho_bar))

    def _judge(
        self, problem: Problem, point: Point, old: Point | None, iter_num: Array, rho_bar: Array
    ) -> SplittingState:
        """The state at a point: its residuals, its error, and whether the run is over."""
        qp, scaling = problem.scaled, problem.scaling
        x, y, at = scaling.from_common_parts(point.x, point.y, point.at)
        error = optimality_error(self._residuals(qp, x, y, at), *self._tolerances(x.dtype))
        status, proof = self._status_of(error), self._no_proof(problem)
        if old is not None and self.check_primal_dual_infeasability is not False:
            d, dy, along = jax.tree.map(jnp.subtract, (point.x, point.y, point.at), (old.x, old.y, old.at))
            dy = self._feasible_multipliers(qp, dy)
            d, dy, along = scaling.from_common_parts(d, dy, along)
            along = along._replace(Aty=qp.A.rmatvec(dy))
            running = Status.RUNNING.holds(status)
            proved, *proof = self._proof(problem, d, dy, along, iter_num, running)
            status = jnp.where(running, proved, status)
            if not qp.has_factor:  # a factorization would have told
                status = Status.NONCONVEX.where(_curves_down(qp, d, along), status)
        value = (0.5 * (x @ at.Px) + qp.q @ x) / scaling.cost
        primal = (point.at.Ax - point.z) / scaling.common[1]
        dual = (at.Px + qp.q + at.Aty) / (scaling.cost * scaling.variables)
        return self._State(iter_num, error, value, status, primal, dual, rho_bar, point, *proof)


def _curves_down(qp: QuadraticProgram, d: Array, along: Products) -> Array:
    """Whether the objective has negative curvature along a step that keeps to the equalities."""
    rounding = jnp.sqrt(jnp.finfo(d.dtype).eps)
    kept = norm(jnp.where(qp.lower == qp.upper, along.Ax, 0)) <= rounding * norm(along.Ax, d)
    return kept & (d @ along.Px < -rounding * (jnp.abs(d) @ jnp.abs(along.Px)))


def _number(value: Any, like: Array) -> Array:
    return jnp.asarray(value).astype(like.dtype)


def _sum_of_first_entries(tree: PyTree) -> Array:
    """A number to which every array contributes: if ``vmap`` batches any of them, it is batched."""
    leaves = [jnp.ravel(leaf)[:1] for leaf in jax.tree.leaves(tree) if hasattr(leaf, "dtype")]
    return sum((jnp.sum(leaf.astype(jnp.float32)) for leaf in leaves), jnp.zeros((), jnp.float32))
