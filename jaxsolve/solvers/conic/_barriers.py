r"""Scalings of exponential and power cones, which are not symmetric: barriers take the place of Nesterov and Todd's.

Each cone here has a barrier :math:`f_*` of its dual cone in closed form, and the gradient of the conjugate barrier
:math:`f` takes one equation in one unknown. With the *shadows* :math:`\tilde z = -\nabla f(s)` and
:math:`\tilde s = -\nabla f_*(z)` the scaling has :math:`H z = s` and :math:`H \tilde z = \tilde s`, and is near
:math:`\mu \nabla^2 f_*(z)`, which it is on the central path. Where the two conditions are nearly dependent, it is that
matrix. The corrector is the third derivative of :math:`f_*`. All these barriers are :math:`-\log \psi(z)` and
logarithms of single entries; their derivatives are written in those of :math:`\psi`.

The dual of such a cone is the same with slacks and multipliers exchanged.

Reference:
    Tuncel (2001), "Generalization of primal-dual interior-point methods to convex optimization problems in conic form";
    Dahl and Andersen (2022), "A primal-dual interior-point algorithm for nonsymmetric exponential-cone optimization".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxsolve._types import Array

__all__ = ["BarrierPath", "BarrierScaling", "DualBarrierScaling", "Exponential", "Power"]


class Curve(NamedTuple):
    r"""A function :math:`\psi` of three entries at a point, and the multiples of the logarithms beside it.

    Attributes:
        value: :math:`\psi`.
        gradient: shape ``(3,)``.
        product: the product of its second derivative with a vector.
        third: the product of its third derivative with two vectors.
        entries: the barrier is ``-log(psi) - entries @ log|z|``, shape ``(3,)``.
    """

    value: Array
    gradient: Array
    product: Callable[[Array], Array]
    third: Callable[[Array, Array], Array]
    entries: Array


def _nonzero(z: Array) -> Array:
    """Entries to divide by; the last one of a power cone may be 0, and is divided into 0 alone."""
    return jnp.where(z == 0, 1, z)


def _gradient(curve: Curve, z: Array) -> Array:
    """The gradient of the barrier."""
    return -curve.gradient / curve.value - curve.entries / _nonzero(z)


def _hessian(curve: Curve, z: Array) -> Array:
    """Its second derivative, shape ``(3, 3)``."""
    g, eye = curve.gradient / curve.value, jnp.eye(3, dtype=z.dtype)
    bent = jax.vmap(curve.product)(eye) / curve.value
    return jnp.outer(g, g) - bent + eye * (curve.entries / _nonzero(z) ** 2)[None, :]


def _third(curve: Curve, z: Array, a: Array, b: Array) -> Array:
    """The product of its third derivative with two vectors."""
    g, value = curve.gradient / curve.value, curve.value
    ga, gb, Qa, Qb = jnp.sum(g * a), jnp.sum(g * b), curve.product(a) / value, curve.product(b) / value
    along = gb * Qa + ga * Qb + (jnp.sum(a * Qb) - 2 * ga * gb) * g
    return along - curve.third(a, b) / value - 2 * curve.entries * a * b / _nonzero(z) ** 3


class Exponential(NamedTuple):
    r""":math:`y e^{x / y} \le z`; all functions take one vector of shape ``(3,)``."""

    @staticmethod
    def center() -> np.ndarray:
        """The point at which slack and multiplier on the central path are the same."""
        return np.array([-1.051383945322714, 0.556409619469370, 1.258967884768947])

    @staticmethod
    def dual_barrier(z: Array) -> Array:
        u, v, w = z
        return -jnp.log(v - u - u * jnp.log(-w / u)) - jnp.log(-u) - jnp.log(w)

    @staticmethod
    def curve(z: Array) -> Curve:
        r""":math:`\psi = v - u - u \log(-w / u)`, whose second derivative is :math:`q q^T / u`."""
        u, v, w = z
        logarithm, one, zero = jnp.log(-w / u), jnp.ones_like(u), jnp.zeros_like(u)
        q = jnp.stack([one, zero, -u / w])

        def product(a):
            return jnp.sum(q * a) / u * q

        def third(a, b):
            qa, qb = jnp.sum(q * a), jnp.sum(q * b)
            turned = -(qa * b[2] + qb * a[2]) / w - qa * qb / u
            return (turned * q - jnp.stack([zero, zero, qa * qb / w])) / u

        gradient = jnp.stack([-logarithm, one, -u / w])
        return Curve(v - u - u * logarithm, gradient, product, third, jnp.stack([one, zero, one]))

    @staticmethod
    def is_inside(s: Array) -> Array:
        a, b, c = s
        return (b > 0) & (c > 0) & (a < b * jnp.log(c / b))

    @staticmethod
    def is_dual_inside(z: Array) -> Array:
        u, v, w = z
        return (u < 0) & (w > 0) & (v > u + u * jnp.log(-w / u))

    @staticmethod
    def shadow(s: Array) -> Array:
        """The dual point with the gradient ``-s``: one root of ``q + log(1 + q) = rho``, by Halley's method."""
        a, b, c = s
        ratio = a / b
        rho = jnp.log(c / b) - ratio
        q = rho - jnp.log1p(rho / 2)  # to 0.1 of the root; a step leaves 1e-5, two of them rounding, whatever rho
        for _ in range(2):
            q = q + _halley(rho - q - jnp.log1p(q), (2 + q) / (1 + q), -1 / (1 + q) ** 2)
        u = -1 / (q * b)
        return jnp.stack([u, 2 / b + u * (1 - ratio), (1 + 1 / q) / c])


class Power(NamedTuple):
    r""":math:`x^\alpha y^{1 - \alpha} \ge |z|`; all functions take one vector of shape ``(3,)``."""

    alpha: Array

    def center(self) -> Array:
        """The point at which slack and multiplier on the central path are the same."""
        return jnp.stack([jnp.sqrt(1 + self.alpha), jnp.sqrt(2 - self.alpha), jnp.zeros_like(self.alpha)])

    def dual_barrier(self, z: Array) -> Array:
        (u, v, w), alpha = z, self.alpha
        product = jnp.exp(2 * alpha * jnp.log(u / alpha) + 2 * (1 - alpha) * jnp.log(v / (1 - alpha)))
        return -jnp.log(product - w**2) - (1 - alpha) * jnp.log(u) - alpha * jnp.log(v)

    def curve(self, z: Array) -> Curve:
        r""":math:`\psi = p - w^2` with :math:`p = (u / \alpha)^{2 \alpha} (v / (1 - \alpha))^{2 - 2 \alpha}`.

        With the gradient :math:`h` of :math:`\log p` and :math:`-d` the diagonal of its second derivative, that of
        :math:`p` is :math:`p (h h^T - d)`.
        """
        (u, v, w), alpha = z, self.alpha
        zero = jnp.zeros_like(u)
        powers = jnp.stack([2 * alpha, 2 * (1 - alpha), zero])
        z = _nonzero(z)
        h, d, axis = powers / z, powers / z**2, jnp.stack([zero, zero, jnp.ones_like(u)])
        p = jnp.exp(2 * alpha * jnp.log(u / alpha) + 2 * (1 - alpha) * jnp.log(v / (1 - alpha)))

        def product(a):
            return p * (jnp.sum(h * a) * h - d * a) - 2 * axis * a

        def third(a, b):
            ha, hb = jnp.sum(h * a), jnp.sum(h * b)
            return p * ((ha * hb - jnp.sum(d * a * b)) * h - d * (ha * b + hb * a) + 2 * d * a * b / z)

        entries = jnp.stack([1 - alpha, alpha, zero])
        return Curve(p - w**2, p * h - 2 * axis * w, product, third, entries)

    def is_inside(self, s: Array) -> Array:
        (a, b, c), alpha = s, self.alpha
        return (a > 0) & (b > 0) & (alpha * jnp.log(a) + (1 - alpha) * jnp.log(b) > jnp.log(jnp.abs(c)))

    def is_dual_inside(self, z: Array) -> Array:
        alpha = self.alpha
        return self.is_inside(z / jnp.stack([alpha, 1 - alpha, jnp.ones_like(alpha)]))

    def shadow(self, s: Array) -> Array:
        r"""The dual point with the gradient ``-s``.

        With :math:`t = -s_3 z_3` the conditions leave
        :math:`2 \alpha \log(t + 1 + 1/\alpha) + 2 (1 - \alpha) \log(t + (2 - \alpha) / (1 - \alpha)) - \log(t^2 + 2 t)
        = \log(a^{2 \alpha} b^{2 - 2 \alpha} / c^2)`, convex and decreasing in :math:`\log t`.
        """
        (a, b, c), alpha = s, self.alpha
        tiny = jnp.finfo(s.dtype).tiny
        flat = jnp.abs(c) <= jnp.finfo(s.dtype).eps ** 2 * jnp.minimum(a, b)
        size = jnp.where(flat, 1, c)
        rho = 2 * (alpha * jnp.log(a) + (1 - alpha) * jnp.log(b) - jnp.log(jnp.abs(size)))
        rho = jnp.maximum(jnp.where(flat, 1, rho), tiny)
        first, second = 1 + 1 / alpha, (2 - alpha) / (1 - alpha)
        log_t = jnp.log(2.0) - rho - jnp.log(-jnp.expm1(-rho))
        for _ in range(3):  # to 0.03 of the root after one step, 1e-6 after two, and rounding after three
            t = jnp.exp(log_t)
            value = 2 * alpha * jnp.log(t + first) + 2 * (1 - alpha) * jnp.log(t + second) - log_t - jnp.log(t + 2)
            parts = jnp.stack([2 * alpha * t / (t + first), 2 * (1 - alpha) * t / (t + second), -t / (t + 2)])
            shares = jnp.stack([first / (t + first), second / (t + second), 2 / (t + 2)])
            log_t = log_t + _halley(rho - value, jnp.sum(parts) - 1, jnp.sum(parts * shares))
        t = jnp.where(flat, 0, jnp.exp(log_t))
        return jnp.stack([(1 + alpha + alpha * t) / a, (2 - alpha + (1 - alpha) * t) / b, -t / size])


class BarrierScaling(NamedTuple):
    """Exponential or power cones, or, with slacks and multipliers exchanged, their duals.

    Attributes:
        barriers: the cones.
        primal: rows of a factor of ``H``: ``H = primal^T primal``, shape ``(count, 3, 3)``.
        dual: rows of a factor of its inverse.
    """

    barriers: Any
    primal: Array
    dual: Array

    @classmethod
    def at(cls, s: Array, z: Array, barriers: Any) -> BarrierScaling:
        primal, dual = jax.vmap(_factors, in_axes=(_axis(barriers), 0, 0))(barriers, s, z)
        return cls(barriers, primal, dual)

    def squared(self, v: Array) -> Array:
        return _times(self.primal, _times(self.primal, v), transposed=True)

    def half(self, v: Array) -> Array:
        return _times(self.dual, v)

    def half_transposed(self, v: Array) -> Array:
        return _times(self.dual, v, transposed=True)

    def correction(self, s: Array, z: Array, ds: Array, dz: Array, target: Array) -> Array:
        def of_one(barrier, s, z, ds, dz):
            curve = barrier.curve(z)
            third = _third(curve, z, _solve(_hessian(curve, z), ds), dz)
            third = jnp.where(jnp.all(jnp.isfinite(third)), third, 0)
            return s + target * _gradient(curve, z) - third / 2

        return jax.vmap(of_one, in_axes=(_axis(self.barriers), 0, 0, 0, 0))(self.barriers, s, z, ds, dz)

    def path(self, s: Array, z: Array, ds: Array, dz: Array) -> BarrierPath:
        return BarrierPath(self.barriers, s, z, ds, dz)


class DualBarrierScaling(NamedTuple):
    """The duals of exponential or power cones: slacks and multipliers are exchanged."""

    exchanged: BarrierScaling

    @classmethod
    def at(cls, s: Array, z: Array, barriers: Any) -> DualBarrierScaling:
        return cls(BarrierScaling.at(z, s, barriers))

    def squared(self, v: Array) -> Array:
        return self.exchanged.half_transposed(self.exchanged.half(v))

    def half(self, v: Array) -> Array:
        return _times(self.exchanged.primal, v)

    def half_transposed(self, v: Array) -> Array:
        return _times(self.exchanged.primal, v, transposed=True)

    def correction(self, s: Array, z: Array, ds: Array, dz: Array, target: Array) -> Array:
        # H dz + ds = -d is H^{-1} times what the exchanged cone wants.
        return self.squared(self.exchanged.correction(z, s, dz, ds, target))

    def path(self, s: Array, z: Array, ds: Array, dz: Array) -> BarrierPath:
        return self.exchanged.path(z, s, dz, ds)


class BarrierPath(NamedTuple):
    """A path on which points have to be tried."""

    barriers: Any
    s: Array
    z: Array
    ds: Array
    dz: Array

    longest = None

    def barrier(self, t: Array) -> Array:
        """The barriers of slacks and multipliers, infinite outside of the cones."""

        def of_one(barrier, s, z):
            inside = barrier.is_inside(s) & barrier.is_dual_inside(z)
            # Conjugate barriers of degree 3: f(s) = -3 - f*(shadow).
            value = barrier.dual_barrier(z) - barrier.dual_barrier(barrier.shadow(s)) - 3
            return jnp.where(inside & jnp.isfinite(value), value, jnp.inf)

        points = (self.s + t * self.ds, self.z + t * self.dz)
        return jnp.sum(jax.vmap(of_one, in_axes=(_axis(self.barriers), 0, 0))(self.barriers, *points))


def _halley(left: Array, slope: Array, bend: Array) -> Array:
    """A step of Halley's method to where a function with these two derivatives has grown by ``left``."""
    step = left / slope
    return step / (1 + step * bend / (2 * slope))


def _axis(barriers: Any) -> Any:
    return None if isinstance(barriers, Exponential) else 0


def _times(matrices: Array, v: Array, *, transposed: bool = False) -> Array:
    # Sums of products of three: these compile together with what surrounds them, unlike a batched product.
    return jnp.sum(matrices * v[:, :, None], axis=1) if transposed else jnp.sum(matrices * v[:, None, :], axis=2)


def _factors(barrier: Any, s: Array, z: Array) -> tuple[Array, Array]:
    """Factors of the scaling of one cone, and of its inverse."""
    curve = barrier.curve(z)
    hessian, s_shadow, z_shadow = _hessian(curve, z), -_gradient(curve, z), barrier.shadow(s)
    mu, mu_shadow = jnp.sum(s * z) / 3, jnp.sum(s_shadow * z_shadow) / 3
    s_off, z_off = s - mu * s_shadow, z - mu * z_shadow
    off = jnp.sum(s_off * z_off)
    Hz = hessian @ z_shadow - mu_shadow * s_shadow
    curvature = jnp.sum(z_shadow * (hessian @ z_shadow)) - 3 * mu_shadow**2
    rest = hessian - jnp.outer(s_shadow, s_shadow) / 3 - jnp.outer(Hz, Hz) / curvature
    stretch = mu * jnp.sqrt(jnp.sum(rest**2))
    across, along = _unit(jnp.cross(z, z_shadow)), _unit(jnp.cross(s, s_shadow))
    small = 1e2 * jnp.finfo(s.dtype).eps
    safe = (jnp.abs(mu * mu_shadow - 1) > small) & (jnp.abs(curvature) > small) & (off > 0) & (stretch > 0)
    primal = jnp.stack([s / jnp.sqrt(3 * mu), s_off / jnp.sqrt(off), jnp.sqrt(stretch) * across])
    inner = jnp.abs(jnp.sum(across * along))
    dual = jnp.stack([z / jnp.sqrt(3 * mu), z_off / jnp.sqrt(off), along / (jnp.sqrt(stretch) * inner)])
    safe &= jnp.all(jnp.isfinite(primal)) & jnp.all(jnp.isfinite(dual))
    L = _cholesky(mu * hessian)
    return jnp.where(safe, primal, L.T), jnp.where(safe, dual, _inverse_lower(L))


def _unit(v: Array) -> Array:
    size = jnp.max(jnp.abs(v))
    v = v / jnp.where(size > 0, size, 1)
    return v / jnp.sqrt(jnp.sum(v**2))


def _cholesky(M: Array) -> Array:
    """The Cholesky factor of a 3 x 3 matrix, by entries, which compile into one piece."""
    zero = jnp.zeros((), M.dtype)
    a = jnp.sqrt(M[0, 0])
    b, c = M[1, 0] / a, M[2, 0] / a
    d = jnp.sqrt(M[1, 1] - b * b)
    e = (M[2, 1] - b * c) / d
    f = jnp.sqrt(M[2, 2] - c * c - e * e)
    return jnp.stack([jnp.stack([a, zero, zero]), jnp.stack([b, d, zero]), jnp.stack([c, e, f])])


def _inverse_lower(L: Array) -> Array:
    (a, zero, _), (b, d, _), (c, e, f) = L
    first = jnp.stack([1 / a, zero, zero])
    second = jnp.stack([-b / (a * d), 1 / d, zero])
    third = jnp.stack([(b * e - c * d) / (a * d * f), -e / (d * f), 1 / f])
    return jnp.stack([first, second, third])


def _solve(M: Array, v: Array) -> Array:
    inverse = _inverse_lower(_cholesky(M))
    return inverse.T @ (inverse @ v)
