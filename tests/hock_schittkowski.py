"""Nonlinear programs of Hock and Schittkowski (1981), "Test examples for nonlinear programming codes".

Objective, constraints ``h(x) = 0`` and ``g(x) >= 0`` as the book has them, starting point, bounds, and the value of the
best solution known.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

__all__ = ["PROBLEMS", "Program"]

INF = np.inf


@dataclasses.dataclass(frozen=True)
class Program:
    """A program; ``g(x) >= 0``, as in the book."""

    name: str
    f: Callable
    x0: Any
    best: float
    h: Callable | None = None
    g: Callable | None = None
    bounds: Any = None

    def functions(self):
        """Objective, equalities, and inequalities with the sign of this package."""
        g = self.g and (lambda x: -_stack(self.g(x)))
        return self.f, self.h and (lambda x: _stack(self.h(x))), g

    @property
    def start(self):
        return np.asarray(self.x0, float)


def _stack(parts):
    return jnp.stack([jnp.asarray(part) for part in parts]) if isinstance(parts, (tuple, list)) else parts


def _three(x):
    """The constraints of problems 78, 80 and 81."""
    return x @ x - 10, x[1] * x[2] - 5 * x[3] * x[4], x[0] ** 3 + x[1] ** 3 + 1


def _p43(x):
    a, b, c, d = x
    return (
        8 - x @ x - a + b - c + d,
        10 - a**2 - 2 * b**2 - c**2 - 2 * d**2 + a + d,
        5 - 2 * a**2 - b**2 - c**2 - 2 * a + b + d,
    )


def _f100(x):
    a, b, c, d, e, f, g = x
    value = (a - 10) ** 2 + 5 * (b - 12) ** 2 + c**4 + 3 * (d - 11) ** 2 + 10 * e**6 + 7 * f**2 + g**4
    return value - 4 * f * g - 10 * f - 8 * g


def _g100(x):
    a, b, c, d, e, f, g = x
    return (
        127 - 2 * a**2 - 3 * b**4 - c - 4 * d**2 - 5 * e,
        282 - 7 * a - 3 * b - 10 * c**2 - d + e,
        196 - 23 * a - b**2 - 6 * f**2 + 8 * g,
        -4 * a**2 - b**2 + 3 * a * b - 2 * c**2 - 5 * f + 11 * g,
    )


def _g106(x):
    return (
        1 - 0.0025 * (x[3] + x[5]),
        1 - 0.0025 * (x[4] + x[6] - x[3]),
        1 - 0.01 * (x[7] - x[4]),
        x[0] * x[5] - 833.33252 * x[3] - 100 * x[0] + 83333.333,
        x[1] * x[6] - 1250 * x[4] - x[1] * x[3] + 1250 * x[3],
        x[2] * x[7] - 1250000 - x[2] * x[4] + 2500 * x[4],
    )


def _f113(x):
    a, b, c, d, e, f, g, h, i, j = x
    value = a**2 + b**2 + a * b - 14 * a - 16 * b + (c - 10) ** 2 + 4 * (d - 5) ** 2 + (e - 3) ** 2
    value = value + 2 * (f - 1) ** 2 + 5 * g**2 + 7 * (h - 11) ** 2 + 2 * (i - 10) ** 2 + (j - 7) ** 2
    return value + 45


def _g113(x):
    a, b, c, d, e, f, g, h, i, j = x
    return (
        105 - 4 * a - 5 * b + 3 * g - 9 * h,
        -10 * a + 8 * b + 17 * g - 2 * h,
        8 * a - 2 * b - 5 * i + 2 * j + 12,
        -3 * (a - 2) ** 2 - 4 * (b - 3) ** 2 - 2 * c**2 + 7 * d + 120,
        -5 * a**2 - 8 * b - (c - 6) ** 2 + 2 * d + 40,
        -0.5 * (a - 8) ** 2 - 2 * (b - 4) ** 2 - 3 * e**2 + f + 30,
        -(a**2) - 2 * (b - 2) ** 2 + 2 * a * b - 14 * e + 6 * f,
        3 * a - 6 * b - 12 * (i - 8) ** 2 + 7 * j,
    )


_r2, _r3 = np.sqrt(2.0), np.sqrt(3.0)
_box80 = (np.array([-2.3, -2.3, -3.2, -3.2, -3.2]), np.array([2.3, 2.3, 3.2, 3.2, 3.2]))

PROBLEMS = {
    p.name: p
    for p in (
        Program("HS6", lambda x: (1 - x[0]) ** 2, (-1.2, 1), 0.0, h=lambda x: 10 * (x[1] - x[0] ** 2)),
        Program(
            "HS7", lambda x: jnp.log1p(x[0] ** 2) - x[1], (2, 2), -_r3, h=lambda x: (1 + x[0] ** 2) ** 2 + x[1] ** 2 - 4
        ),
        Program(
            "HS10", lambda x: x[0] - x[1], (-10, 10), -1.0, g=lambda x: -3 * x[0] ** 2 + 2 * x[0] * x[1] - x[1] ** 2 + 1
        ),
        Program(
            "HS11",
            lambda x: (x[0] - 5) ** 2 + x[1] ** 2 - 25,
            (4.9, 0.1),
            -8.498464223,
            g=lambda x: -(x[0] ** 2) + x[1],
        ),
        Program(
            "HS12",
            lambda x: 0.5 * x[0] ** 2 + x[1] ** 2 - x[0] * x[1] - 7 * x[0] - 7 * x[1],
            (0, 0),
            -30.0,
            g=lambda x: 25 - 4 * x[0] ** 2 - x[1] ** 2,
        ),
        Program(
            "HS13",
            lambda x: (x[0] - 2) ** 2 + x[1] ** 2,
            (-2, -2),
            1.0,
            g=lambda x: (1 - x[0]) ** 3 - x[1],
            bounds=(0.0, INF),
        ),
        Program(
            "HS14",
            lambda x: (x[0] - 2) ** 2 + (x[1] - 1) ** 2,
            (2, 2),
            9 - 2.875 * np.sqrt(7),
            h=lambda x: x[0] - 2 * x[1] + 1,
            g=lambda x: 1 - 0.25 * x[0] ** 2 - x[1] ** 2,
        ),
        Program(
            "HS18",
            lambda x: 0.01 * x[0] ** 2 + x[1] ** 2,
            (2, 2),
            5.0,
            g=lambda x: (x[0] * x[1] - 25, x @ x - 25),
            bounds=(np.array([2.0, 0]), 50.0),
        ),
        Program(
            "HS21",
            lambda x: 0.01 * x[0] ** 2 + x[1] ** 2 - 100,
            (-1, -1),
            -99.96,
            g=lambda x: 10 * x[0] - x[1] - 10,
            bounds=(np.array([2.0, -50]), 50.0),
        ),
        Program(
            "HS22",
            lambda x: (x[0] - 2) ** 2 + (x[1] - 1) ** 2,
            (2, 2),
            1.0,
            g=lambda x: (2 - x[0] - x[1], x[1] - x[0] ** 2),
        ),
        Program(
            "HS23",
            lambda x: x @ x,
            (3, 1),
            2.0,
            g=lambda x: (
                x[0] + x[1] - 1,
                x @ x - 1,
                9 * x[0] ** 2 + x[1] ** 2 - 9,
                x[0] ** 2 - x[1],
                x[1] ** 2 - x[0],
            ),
            bounds=(-50.0, 50.0),
        ),
        Program(
            "HS24",
            lambda x: ((x[0] - 3) ** 2 - 9) * x[1] ** 3 / (27 * _r3),
            (1, 0.5),
            -1.0,
            g=lambda x: (x[0] / _r3 - x[1], x[0] + _r3 * x[1], 6 - x[0] - _r3 * x[1]),
            bounds=(0.0, INF),
        ),
        Program(
            "HS26",
            lambda x: (x[0] - x[1]) ** 2 + (x[1] - x[2]) ** 4,
            (-2.6, 2, 2),
            0.0,
            h=lambda x: (1 + x[1] ** 2) * x[0] + x[2] ** 4 - 3,
        ),
        Program(
            "HS27",
            lambda x: 0.01 * (x[0] - 1) ** 2 + (x[1] - x[0] ** 2) ** 2,
            (2, 2, 2),
            0.04,
            h=lambda x: x[0] + x[2] ** 2 + 1,
        ),
        Program(
            "HS28",
            lambda x: (x[0] + x[1]) ** 2 + (x[1] + x[2]) ** 2,
            (-4, 1, 1),
            0.0,
            h=lambda x: x[0] + 2 * x[1] + 3 * x[2] - 1,
        ),
        Program(
            "HS29",
            lambda x: -jnp.prod(x),
            (1, 1, 1),
            -16 * _r2,
            g=lambda x: 48 - x[0] ** 2 - 2 * x[1] ** 2 - 4 * x[2] ** 2,
        ),
        Program(
            "HS30",
            lambda x: x @ x,
            (1, 1, 1),
            1.0,
            g=lambda x: x[0] ** 2 + x[1] ** 2 - 1,
            bounds=(np.array([1.0, -10, -10]), 10.0),
        ),
        Program(
            "HS31",
            lambda x: 9 * x[0] ** 2 + x[1] ** 2 + 9 * x[2] ** 2,
            (1, 1, 1),
            6.0,
            g=lambda x: x[0] * x[1] - 1,
            bounds=(np.array([-10.0, 1, -10]), np.array([10.0, 10, 1])),
        ),
        Program(
            "HS35",
            lambda x: (
                9
                - 8 * x[0]
                - 6 * x[1]
                - 4 * x[2]
                + 2 * x[0] ** 2
                + 2 * x[1] ** 2
                + x[2] ** 2
                + 2 * x[0] * (x[1] + x[2])
            ),
            (0.5, 0.5, 0.5),
            1 / 9,
            g=lambda x: 3 - x[0] - x[1] - 2 * x[2],
            bounds=(0.0, INF),
        ),
        Program(
            "HS39",
            lambda x: -x[0],
            (2, 2, 2, 2),
            -1.0,
            h=lambda x: (x[1] - x[0] ** 3 - x[2] ** 2, x[0] ** 2 - x[1] - x[3] ** 2),
        ),
        Program(
            "HS40",
            lambda x: -jnp.prod(x),
            (0.8,) * 4,
            -0.25,
            h=lambda x: (x[0] ** 3 + x[1] ** 2 - 1, x[0] ** 2 * x[3] - x[2], x[3] ** 2 - x[1]),
        ),
        Program(
            "HS43",
            lambda x: x @ (jnp.array([1.0, 1, 2, 1]) * x) + jnp.array([-5.0, -5, -21, 7]) @ x,
            (0,) * 4,
            -44.0,
            g=_p43,
        ),
        Program(
            "HS48",
            lambda x: (x[0] - 1) ** 2 + (x[1] - x[2]) ** 2 + (x[3] - x[4]) ** 2,
            (3, 5, -3, 2, -2),
            0.0,
            h=lambda x: (jnp.sum(x) - 5, x[2] - 2 * (x[3] + x[4]) + 3),
        ),
        Program(
            "HS49",
            lambda x: (x[0] - x[1]) ** 2 + (x[2] - 1) ** 2 + (x[3] - 1) ** 4 + (x[4] - 1) ** 6,
            (10, 7, 2, -3, 0.8),
            0.0,
            h=lambda x: (x[0] + x[1] + x[2] + 4 * x[3] - 7, x[2] + 5 * x[4] - 6),
        ),
        Program(
            "HS50",
            lambda x: (x[0] - x[1]) ** 2 + (x[1] - x[2]) ** 2 + (x[2] - x[3]) ** 4 + (x[3] - x[4]) ** 2,
            (35, -31, 11, 5, -5),
            0.0,
            h=lambda x: x[:3] + 2 * x[1:4] + 3 * x[2:] - 6,
        ),
        Program(
            "HS51",
            lambda x: (x[0] - x[1]) ** 2 + (x[1] + x[2] - 2) ** 2 + (x[3] - 1) ** 2 + (x[4] - 1) ** 2,
            (2.5, 0.5, 2, -1, 0.5),
            0.0,
            h=lambda x: (x[0] + 3 * x[1] - 4, x[2] + x[3] - 2 * x[4], x[1] - x[4]),
        ),
        Program(
            "HS52",
            lambda x: (4 * x[0] - x[1]) ** 2 + (x[1] + x[2] - 2) ** 2 + (x[3] - 1) ** 2 + (x[4] - 1) ** 2,
            (2,) * 5,
            1859 / 349,
            h=lambda x: (x[0] + 3 * x[1], x[2] + x[3] - 2 * x[4], x[1] - x[4]),
        ),
        Program(
            "HS60",
            lambda x: (x[0] - 1) ** 2 + (x[0] - x[1]) ** 2 + (x[1] - x[2]) ** 4,
            (2, 2, 2),
            0.03256820025,
            h=lambda x: x[0] * (1 + x[1] ** 2) + x[2] ** 4 - 4 - 3 * _r2,
            bounds=(-10.0, 10.0),
        ),
        Program(
            "HS63",
            lambda x: 1000 - x[0] ** 2 - 2 * x[1] ** 2 - x[2] ** 2 - x[0] * x[1] - x[0] * x[2],
            (2, 2, 2),
            961.7151721,
            h=lambda x: (8 * x[0] + 14 * x[1] + 7 * x[2] - 56, x @ x - 25),
            bounds=(0.0, INF),
        ),
        Program(
            "HS64",
            lambda x: 5 * x[0] + 50000 / x[0] + 20 * x[1] + 72000 / x[1] + 10 * x[2] + 144000 / x[2],
            (1, 1, 1),
            6299.842428,
            g=lambda x: 1 - 4 / x[0] - 32 / x[1] - 120 / x[2],
            bounds=(1e-5, INF),
        ),
        Program(
            "HS65",
            lambda x: (x[0] - x[1]) ** 2 + (x[0] + x[1] - 10) ** 2 / 9 + (x[2] - 5) ** 2,
            (-5, 5, 0),
            0.9535288567,
            g=lambda x: 48 - x @ x,
            bounds=(np.array([-4.5, -4.5, -5]), np.array([4.5, 4.5, 5])),
        ),
        Program(
            "HS66",
            lambda x: 0.2 * x[2] - 0.8 * x[0],
            (0, 1.05, 2.9),
            0.5181632741,
            g=lambda x: (x[1] - jnp.exp(x[0]), x[2] - jnp.exp(x[1])),
            bounds=(0.0, np.array([100.0, 100, 10])),
        ),
        Program(
            "HS71",
            lambda x: x[0] * x[3] * (x[0] + x[1] + x[2]) + x[2],
            (1, 5, 5, 1),
            17.0140173,
            h=lambda x: x @ x - 40,
            g=lambda x: jnp.prod(x) - 25,
            bounds=(1.0, 5.0),
        ),
        Program(
            "HS72",
            lambda x: 1 + jnp.sum(x),
            (1,) * 4,
            727.67937,
            g=lambda x: (
                0.0401 - 4 / x[0] - 2.25 / x[1] - 1 / x[2] - 0.25 / x[3],
                0.010085 - 0.16 / x[0] - 0.36 / x[1] - 0.64 * (1 / x[2] + 1 / x[3]),
            ),
            bounds=(1e-3, np.array([4e5, 3e5, 2e5, 1e5])),
        ),
        Program(
            "HS76",
            lambda x: (
                x @ (jnp.array([1, 0.5, 1, 0.5]) * x) - x[0] * x[2] + x[2] * x[3] + jnp.array([-1.0, -3, 1, -1]) @ x
            ),
            (0.5,) * 4,
            -4.681818181,
            g=lambda x: (
                5 - x[0] - 2 * x[1] - x[2] - x[3],
                4 - 3 * x[0] - x[1] - 2 * x[2] + x[3],
                x[1] + 4 * x[2] - 1.5,
            ),
            bounds=(0.0, INF),
        ),
        Program(
            "HS77",
            lambda x: (x[0] - 1) ** 2 + (x[0] - x[1]) ** 2 + (x[2] - 1) ** 2 + (x[3] - 1) ** 4 + (x[4] - 1) ** 6,
            (2,) * 5,
            0.24150513,
            h=lambda x: (x[0] ** 2 * x[3] + jnp.sin(x[3] - x[4]) - 2 * _r2, x[1] + x[2] ** 4 * x[3] ** 2 - 8 - _r2),
        ),
        Program("HS78", jnp.prod, (-2, 1.5, 2, -1, -1), -2.91970041, h=_three),
        Program(
            "HS79",
            lambda x: (
                (x[0] - 1) ** 2 + (x[0] - x[1]) ** 2 + (x[1] - x[2]) ** 2 + (x[2] - x[3]) ** 4 + (x[3] - x[4]) ** 4
            ),
            (2,) * 5,
            0.0787768209,
            h=lambda x: (
                x[0] + x[1] ** 2 + x[2] ** 3 - 2 - 3 * _r2,
                x[1] - x[2] ** 2 + x[3] + 2 - 2 * _r2,
                x[0] * x[4] - 2,
            ),
        ),
        Program("HS80", lambda x: jnp.exp(jnp.prod(x)), (-2, 2, 2, -1, -1), 0.0539498478, h=_three, bounds=_box80),
        Program(
            "HS81",
            lambda x: jnp.exp(jnp.prod(x)) - 0.5 * (x[0] ** 3 + x[1] ** 3 + 1) ** 2,
            (-2, 2, 2, -1, -1),
            0.0539498478,
            h=_three,
            bounds=_box80,
        ),
        Program("HS100", _f100, (1, 2, 0, 4, 0, 1, 1), 680.6300573, g=_g100),
        Program(
            "HS106",
            lambda x: jnp.sum(x[:3]),
            (5000, 5000, 5000, 200, 350, 150, 225, 425),
            7049.2480,
            g=_g106,
            bounds=(
                np.array([100.0, 1000, 1000, 10, 10, 10, 10, 10]),
                np.array([1e4, 1e4, 1e4, 1e3, 1e3, 1e3, 1e3, 1e3]),
            ),
        ),
        Program("HS113", _f113, (2, 3, 5, 5, 1, 2, 7, 3, 6, 10), 24.3062091, g=_g113),
    )
}
