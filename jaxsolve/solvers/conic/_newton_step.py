r"""The linear system of one step of the interior-point method, condensed to one n x n factorization.

.. math::

    \begin{pmatrix} P & A^T \\ A & -H \end{pmatrix} \begin{pmatrix} x \\ z \end{pmatrix}
    = \begin{pmatrix} r_1 \\ r_2 \end{pmatrix}, \qquad
    G = P + B^T B,\quad B = F A,\quad H^{-1} = F^T F,

where H is 0 for equations and the factorization takes :math:`\delta` for it. Refinement with the system itself removes
what that and the regularization of G do.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.linalg import cho_solve

from jaxsolve._compat import max_abs
from jaxsolve._loop import run_if_any
from jaxsolve._types import Array
from jaxsolve.solvers.conic._barriers import BarrierScaling, DualBarrierScaling, Exponential, Power
from jaxsolve.solvers.conic._program import Program
from jaxsolve.solvers.conic._scalings import NonnegScaling, SemidefiniteScaling, SocScaling, ZeroScaling
from jaxsolve.solvers.conic.cones import Block, Cones
from jaxsolve.tree_util import tree_all_finite, tree_where

__all__ = ["BlockScaling", "NewtonSystem", "cone_center", "factorize", "scaling_at"]

_MAX_REFINEMENTS, _REFINEMENTS = 8, 2
_SYMMETRIC = {"zero": ZeroScaling, "nonneg": NonnegScaling, "soc": SocScaling, "psd": SemidefiniteScaling}


def _small(dtype) -> tuple[float, float, float]:
    """``delta`` of the equations, the regularization of G, and that after a breakdown, for entries around 1."""
    return (1e-9, 1e-13, 1e-8) if jnp.finfo(dtype).bits == 64 else (1e-4, 1e-6, 1e-4)


def _barriers(block: Block, dtype) -> Any:
    return Exponential() if block.exponents is None else Power(jnp.asarray(block.exponents, dtype))


def cone_center(cones: Cones, dtype) -> Array:
    """The point of each cone that is its own shadow: slack and multiplier of a cold start."""

    def of(block: Block, like: Array) -> Array:
        if block.kind in _SYMMETRIC:
            return _SYMMETRIC[block.kind].center(like.shape, dtype)
        barriers = _barriers(block, dtype)
        if isinstance(barriers, Exponential):
            return jnp.broadcast_to(jnp.asarray(barriers.center(), dtype), like.shape)
        return jax.vmap(lambda barrier: barrier.center())(barriers)

    return cones.map_blocks(of, jnp.zeros(cones.num_rows, dtype))


class BlockScaling(NamedTuple):
    """The scalings of all blocks."""

    cones: Cones
    parts: tuple

    def map(self, name: str, *vectors: Array) -> Array:
        """A method of the scalings on vectors."""
        parts = iter(self.parts)
        return self.cones.map_blocks(lambda block, *rows: getattr(next(parts), name)(*rows), *vectors)

    def correction(self, s: Array, z: Array, ds: Array, dz: Array, target: Array) -> Array:
        """What the slacks of a corrected step are sent to, for complementary products of ``target``."""
        parts = iter(self.parts)
        return self.cones.map_blocks(lambda block, *rows: next(parts).correction(*rows, target), s, z, ds, dz)

    def half_of(self, A: Array) -> Array:
        """``F A``."""
        parts = iter(self.parts)
        return self.cones.map_blocks(lambda block, rows: jax.vmap(next(parts).half, 2, 2)(rows), A)

    def paths(self, s: Array, z: Array, ds: Array, dz: Array) -> list:
        """Where slacks and multipliers go along a step."""
        parts = zip(self.cones.blocks, self.parts, strict=True)
        paths = [part.path(*(block.of(v) for v in (s, z, ds, dz))) for block, part in parts]
        return [path for path in paths if path is not None]


def scaling_at(cones: Cones, s: Array, z: Array) -> BlockScaling:
    """The scalings at a point inside of the cones."""

    def of(block: Block) -> Any:
        rows = block.of(s), block.of(z)
        if block.kind == "zero":
            return ZeroScaling(jnp.full(rows[0].shape, _small(s.dtype)[0], s.dtype))
        if block.kind in _SYMMETRIC:
            return _SYMMETRIC[block.kind].at(*rows)
        is_dual = block.kind.startswith("dual_")
        return (DualBarrierScaling if is_dual else BarrierScaling).at(*rows, _barriers(block, s.dtype))

    return BlockScaling(cones, tuple(map(of, cones.blocks)))


class NewtonSystem(NamedTuple):
    """A factorized system.

    Attributes:
        program: the program.
        scaling: the maps H of the cones.
        half: ``B = F A``.
        cholesky: of G with a diagonal of 1.
        units: what makes it so, shape ``(n,)``.
        unrolls: whether derivatives of the step are wanted, static: loops have a fixed number of turns.
    """

    program: Program
    scaling: BlockScaling
    half: Array
    cholesky: Array
    units: Array
    unrolls: bool

    def _once(self, r1: Array, r2: Array) -> tuple[Array, Array]:
        right = self.scaling.map("half", r2)
        x = self.units * cho_solve((self.cholesky, True), self.units * (r1 + right @ self.half))
        return x, self.scaling.map("half_transposed", self.half @ x - right)

    def solve(self, r1: Array, r2: Array) -> tuple[Array, Array]:
        """The solution for one right-hand side, refined as long as that helps."""
        P, _, A, _ = self.program

        def left_over(x, z):
            return r1 - P @ x - z @ A, r2 - A @ x + self.scaling.map("squared", z)

        eps = float(jnp.finfo(r1.dtype).eps)
        wanted = 10 * eps * jnp.maximum(max_abs(r1), max_abs(r2))

        def refine(carry):
            x, z, left, error, _, count = carry
            dx, dz = self._once(*left)
            new = (x + dx, z + dz)
            new_left = left_over(*new)
            new_error = jnp.maximum(*map(max_abs, new_left))
            better = new_error < error
            x, z, left, least = tree_where(better, (*new, new_left, new_error), (x, z, left, error))
            return x, z, left, least, better & (new_error < 0.5 * error) & (least > wanted), count + 1

        if self.unrolls:
            x, z = self._once(r1, r2)
            for _ in range(_REFINEMENTS):
                dx, dz = self._once(*left_over(x, z))
                x, z = x + dx, z + dz
            return x, z
        # The first turn finds the solution to be refined: what is in the loop is compiled once.
        nothing, far = (jnp.zeros_like(r1), jnp.zeros_like(r2)), jnp.full_like(r1[0], jnp.inf)
        carry = (*nothing, (r1, r2), far, jnp.asarray(True), jnp.zeros((), jnp.int32))
        x, z, *_ = lax.while_loop(lambda carry: carry[4] & (carry[5] <= _MAX_REFINEMENTS), refine, carry)
        return x, z


def factorize(program: Program, scaling: BlockScaling, *, unrolls: bool = False) -> NewtonSystem:
    """The system of a point."""
    half = scaling.half_of(program.A)
    G = program.P + half.T @ half
    diagonal = jnp.diagonal(G)
    units = 1 / jnp.sqrt(jnp.where(diagonal > 0, diagonal, 1))
    scaled = units[:, None] * G * units[None, :]
    eye = jnp.eye(G.shape[0], dtype=G.dtype)
    _, little, more = _small(G.dtype)
    cholesky = jnp.linalg.cholesky(scaled + little * eye, symmetrize_input=False)
    if unrolls:
        return NewtonSystem(program, scaling, half, cholesky, units, unrolls)
    again = ~tree_all_finite(cholesky) & tree_all_finite(scaled)
    cholesky = run_if_any(again, lambda _: jnp.linalg.cholesky(scaled + more * eye, symmetrize_input=False), cholesky)
    return NewtonSystem(program, scaling, half, cholesky, units, unrolls)
