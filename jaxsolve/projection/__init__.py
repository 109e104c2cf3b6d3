"""Euclidean projections: on pytrees, with exact derivatives in ``x`` and in the parameters of the set.

Where a projection has a kink, one rule picks the derivative: *a constraint that holds with equality is active*. A point
on the boundary of a ball or halfspace, or on the bound of a box, is differentiated like one beyond it.
"""

from jaxsolve.projection._affine import projection_halfspace, projection_hyperplane
from jaxsolve.projection._box import (
    projection_box,
    projection_hypercube,
    projection_linf_ball,
    projection_non_negative,
)
from jaxsolve.projection._box_section import projection_box_section
from jaxsolve.projection._euclidean import projection_l2_ball, projection_l2_sphere
from jaxsolve.projection._kl import kl_projection_simplex
from jaxsolve.projection._simplex import projection_l1_ball, projection_l1_sphere, projection_simplex

__all__ = [
    "kl_projection_simplex",
    "projection_box",
    "projection_box_section",
    "projection_halfspace",
    "projection_hypercube",
    "projection_hyperplane",
    "projection_l1_ball",
    "projection_l1_sphere",
    "projection_l2_ball",
    "projection_l2_sphere",
    "projection_linf_ball",
    "projection_non_negative",
    "projection_simplex",
]
