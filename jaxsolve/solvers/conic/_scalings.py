r"""Scalings of the symmetric cones: the linear maps of one step of the interior-point method.

The step asks for a positive definite map :math:`H` on the rows of each cone with :math:`H z = s`. For the symmetric
cones it is :math:`H = W^2` of Nesterov and Todd, which also maps the scaled variables onto each other,
:math:`\lambda = W z = W^{-1} s`. The condensed system needs :math:`H^{-1} = F^T F`.

Cones of one kind and size are stacked: all vectors here have the shape ``(count, size)``, and all methods act on each
row of them. A block of the cone of semidefinite matrices is given by its lower triangle, column by column, with entries
off the diagonal times :math:`\sqrt 2`.

Reference:
    Nesterov and Todd (1997), "Self-scaled barriers and interior-point methods for convex programming"; Vandenberghe
    (2010), "The CVXOPT linear and quadratic cone program solvers".
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxsolve._types import Array
from jaxsolve.solvers.conic import cones

__all__ = ["NonnegScaling", "SemidefiniteScaling", "SocScaling", "Spin", "ZeroScaling", "spin"]


def _first_exit(linear: Array, quadratic: Array) -> Array:
    """The least positive root of ``1 + 2 linear t + quadratic t**2``; infinite without one."""
    discriminant = linear**2 - quadratic
    slope = jnp.sqrt(jnp.maximum(discriminant, 0)) - linear
    leaves = (slope > 0) & (discriminant >= 0)
    return jnp.where(leaves, 1 / jnp.where(leaves, slope, 1), jnp.inf)


# ---- Equalities ----------------------------------------------------------------------------------------------------


class ZeroScaling(NamedTuple):
    """Rows that are 0: no slack, and a free multiplier. ``H`` is 0, and the condensed system takes ``delta`` for it."""

    delta: Array

    @staticmethod
    def center(shape: tuple[int, int], dtype) -> Array:
        return jnp.zeros(shape, dtype)

    def squared(self, v: Array) -> Array:
        return jnp.zeros_like(v)

    def half(self, v: Array) -> Array:
        return v / jnp.sqrt(self.delta)

    half_transposed = half

    def correction(self, s: Array, z: Array, ds: Array, dz: Array, target: Array) -> Array:
        del z, ds, dz, target
        return jnp.zeros_like(s)

    def path(self, s: Array, z: Array, ds: Array, dz: Array) -> None:
        del s, z, ds, dz


# ---- Inequalities --------------------------------------------------------------------------------------------------


class RatesOfChange(NamedTuple):
    """A path on which a product of factors ``1 + rate * t`` tells how near the boundary is.

    Attributes:
        rates: any shape.
        start: the barrier of slacks and multipliers at ``t = 0``.
    """

    rates: Array
    start: Array

    @property
    def longest(self) -> Array:
        steepest = -jnp.min(self.rates, initial=0)
        return jnp.where(steepest > 0, 1 / jnp.where(steepest > 0, steepest, 1), jnp.inf)

    def barrier(self, t: Array) -> Array:
        return self.start - jnp.sum(jnp.log(1 + t * self.rates))


class NonnegScaling(NamedTuple):
    """Slacks and multipliers that are not negative: ``H = s / z``."""

    s: Array
    z: Array

    @staticmethod
    def center(shape: tuple[int, int], dtype) -> Array:
        return jnp.ones(shape, dtype)

    @classmethod
    def at(cls, s: Array, z: Array) -> NonnegScaling:
        return cls(s, z)

    def squared(self, v: Array) -> Array:
        return self.s / self.z * v

    def half(self, v: Array) -> Array:
        return jnp.sqrt(self.z / self.s) * v

    half_transposed = half

    def correction(self, s: Array, z: Array, ds: Array, dz: Array, target: Array) -> Array:
        return s + (ds * dz - target) / z

    def path(self, s: Array, z: Array, ds: Array, dz: Array) -> RatesOfChange:
        return RatesOfChange(jnp.stack([ds / s, dz / z]), -jnp.sum(jnp.log(s) + jnp.log(z)))


# ---- Second-order cones ---------------------------------------------------------------------------------------------


class Spin(NamedTuple):
    r"""Maps with the eigenvectors :math:`(1, u)/\sqrt2,\ (1, -u)/\sqrt2` and all that is orthogonal to both.

    Attributes:
        direction: the unit vector ``u``, shape ``(count, size - 1)``; 0 where all directions are alike.
    """

    direction: Array

    def apply(self, v: Array, along: Array, against: Array, across: Array) -> Array:
        """The product with the map of these eigenvalues, each of shape ``(count, 1)``."""
        head, tail, u = v[:, :1], v[:, 1:], self.direction
        inner = jnp.sum(u * tail, axis=1, keepdims=True)
        p, m = along * (head + inner) / 2, against * (head - inner) / 2
        return jnp.concatenate([p + m, (p - m) * u + across * (tail - inner * u)], axis=1)


def _length(v: Array) -> Array:
    """Euclidean norms, shape ``(count, 1)``, without overflow."""
    size = jnp.max(jnp.abs(v), axis=1, keepdims=True, initial=0)
    scale = jnp.where(size > 0, size, 1)
    return scale * jnp.sqrt(jnp.sum((v / scale) ** 2, axis=1, keepdims=True))


def spin(tail: Array) -> tuple[Spin, Array]:
    """The direction of the tails of vectors, and their lengths, shape ``(count, 1)``."""
    length = _length(tail)
    return Spin(tail / jnp.where(length > 0, length, 1)), length


class SocScaling(NamedTuple):
    """Second-order cones, first entry at least the norm of the others.

    Attributes:
        spin: the eigenvectors of ``W``.
        size: the eigenvalue of ``W`` across, shape ``(count, 1)``.
        stretch: the eigenvalue along, over ``size``; that against is its reciprocal.
        scaled: ``lambda``.
    """

    spin: Spin
    size: Array
    stretch: Array
    scaled: Array

    @staticmethod
    def center(shape: tuple[int, int], dtype) -> Array:
        return jnp.zeros(shape, dtype).at[:, 0].set(1)

    @classmethod
    def at(cls, s: Array, z: Array) -> SocScaling:
        s_root, z_root = _root(s), _root(z)
        s_unit, z_unit = s / s_root, z / z_root
        double = jnp.sqrt(2 * (1 + jnp.sum(s_unit * z_unit, axis=1, keepdims=True)))
        rotation, length = spin((s_unit[:, 1:] - z_unit[:, 1:]) / double)
        head = (s_unit[:, :1] + z_unit[:, :1]) / double
        scaling = cls(rotation, jnp.sqrt(s_root / z_root), head + length, s)
        return scaling._replace(scaled=scaling._power(z, 1))

    def _power(self, v: Array, power: int) -> Array:
        size, stretch = self.size**power, self.stretch**power
        return self.spin.apply(v, size * stretch, size / stretch, size)

    def squared(self, v: Array) -> Array:
        return self._power(v, 2)

    def half(self, v: Array) -> Array:
        return self._power(v, -1)

    half_transposed = half

    def correction(self, s: Array, z: Array, ds: Array, dz: Array, target: Array) -> Array:
        scaled, a, b = self.scaled, self._power(ds, -1), self._power(dz, 1)
        head = jnp.sum(a * b, axis=1, keepdims=True) - target
        tail = a[:, :1] * b[:, 1:] + b[:, :1] * a[:, 1:]
        # The Jordan quotient: scaled o quotient = (head, tail).
        inner = jnp.sum(scaled[:, 1:] * tail, axis=1, keepdims=True)
        first = (scaled[:, :1] * head - inner) / _root(scaled) ** 2
        quotient = jnp.concatenate([first, (tail - first * scaled[:, 1:]) / scaled[:, :1]], axis=1)
        return s + self._power(quotient, 1)

    def path(self, s: Array, z: Array, ds: Array, dz: Array) -> QuadraticPath:
        points, steps = jnp.stack([s, z]), jnp.stack([ds, dz])
        determinant = jnp.stack([_root(s)[:, 0] ** 2, _root(z)[:, 0] ** 2])
        linear = points[..., 0] * steps[..., 0] - jnp.sum(points[..., 1:] * steps[..., 1:], axis=-1)
        quadratic = steps[..., 0] ** 2 - jnp.sum(steps[..., 1:] ** 2, axis=-1)
        start = -0.5 * jnp.sum(jnp.log(determinant))
        return QuadraticPath(linear / determinant, quadratic / determinant, start)


def _root(v: Array) -> Array:
    """The root of the determinant ``v_0^2 - |v_1|^2``, shape ``(count, 1)``."""
    length = _length(v[:, 1:])
    return jnp.sqrt((v[:, :1] - length) * (v[:, :1] + length))


class QuadraticPath(NamedTuple):
    """A path on which determinants ``1 + 2 linear t + quadratic t**2`` tell how near the boundary is."""

    linear: Array
    quadratic: Array
    start: Array

    @property
    def longest(self) -> Array:
        return jnp.min(_first_exit(self.linear, self.quadratic), initial=jnp.inf)

    def barrier(self, t: Array) -> Array:
        return self.start - 0.5 * jnp.sum(jnp.log(1 + t * (2 * self.linear + t * self.quadratic)))


# ---- Semidefinite matrices ------------------------------------------------------------------------------------------


class SemidefiniteScaling(NamedTuple):
    r"""Positive semidefinite matrices: :math:`R^T Z R = R^{-1} S R^{-T} = \Lambda`, diagonal.

    Attributes:
        R: shape ``(count, k, k)``.
        inverse: of R.
        scaled: the diagonals, shape ``(count, k)``.
    """

    R: Array
    inverse: Array
    scaled: Array

    @staticmethod
    def center(shape: tuple[int, int], dtype) -> Array:
        k = int((8 * shape[1] + 1) ** 0.5 - 1) // 2
        return jnp.broadcast_to(cones.svec(jnp.eye(k, dtype=dtype)), shape)

    @classmethod
    def at(cls, s: Array, z: Array) -> SemidefiniteScaling:
        factors = jnp.linalg.cholesky(jnp.stack([smat(s), smat(z)]))
        L_s, L_z = factors[0], factors[1]
        U, scaled, Vt = jnp.linalg.svd(_t(L_z) @ L_s)
        root = jnp.sqrt(scaled)
        return cls(L_s @ (_t(Vt) / root[:, None, :]), (_t(U) / root[:, :, None]) @ _t(L_z), scaled)

    def squared(self, v: Array) -> Array:
        gram = self.R @ _t(self.R)
        return svec(gram @ smat(v) @ gram)

    def half(self, v: Array) -> Array:
        return svec(self.inverse @ smat(v) @ _t(self.inverse))

    def half_transposed(self, v: Array) -> Array:
        return svec(_t(self.inverse) @ smat(v) @ self.inverse)

    def correction(self, s: Array, z: Array, ds: Array, dz: Array, target: Array) -> Array:
        a, b = self._scaled_steps(ds, dz)
        product, size = a @ b, self.scaled
        right = (product + _t(product)) / 2 - target * jnp.eye(size.shape[1], dtype=size.dtype)[None]
        quotient = 2 * right / (size[:, :, None] + size[:, None, :])
        return s + svec(self.R @ quotient @ _t(self.R))

    def path(self, s: Array, z: Array, ds: Array, dz: Array) -> RatesOfChange:
        root = jnp.sqrt(self.scaled)
        steps = jnp.stack(self._scaled_steps(ds, dz)) / (root[:, :, None] * root[:, None, :])[None]
        # det S det Z is the square of that of their scaled matrix.
        return RatesOfChange(jnp.linalg.eigvalsh(steps), -2 * jnp.sum(jnp.log(self.scaled)))

    def _scaled_steps(self, ds: Array, dz: Array) -> tuple[Array, Array]:
        return self.inverse @ smat(ds) @ _t(self.inverse), _t(self.R) @ smat(dz) @ self.R


smat, svec = jax.vmap(cones.smat), jax.vmap(cones.svec)


def _t(matrices: Array) -> Array:
    return jnp.swapaxes(matrices, -1, -2)
