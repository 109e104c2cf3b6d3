"""Euclidean projections: on pytrees, with exact derivatives in ``x`` and in the parameters of the set.

Two rules give the derivative where a projection has a kink. On the boundary of a ball or a halfspace the derivative is
the identity, as inside. An entry on the bound of a box or of a simplex has the derivative of an entry outside, and so
does a point on the boundary of a cone.
"""

from jaxsolve.projection._affine import (
    projection_affine_set,
    projection_halfspace,
    projection_hyperplane,
)
from jaxsolve.projection._box import (
    projection_box,
    projection_box_section,
    projection_hypercube,
    projection_linf_ball,
    projection_non_negative,
)
from jaxsolve.projection._curved_cones import (
    projection_dual_exponential_cone,
    projection_dual_power_cone,
    projection_exponential_cone,
    projection_power_cone,
)
from jaxsolve.projection._entmax import entmax
from jaxsolve.projection._euclidean import (
    projection_l2_ball,
    projection_l2_sphere,
    projection_l12_ball,
    projection_second_order_cone,
)
from jaxsolve.projection._order import (
    projection_capped_simplex,
    projection_monotone_cone,
    projection_ordered_simplex,
    projection_permutahedron,
)
from jaxsolve.projection._polyhedron import projection_polyhedron
from jaxsolve.projection._relaxed_transport import kl_partial_transport, kl_unbalanced_transport
from jaxsolve.projection._simplex import (
    kl_projection_simplex,
    projection_l1_ball,
    projection_l1_sphere,
    projection_simplex,
    projection_sparse_simplex,
)
from jaxsolve.projection._spectral import projection_nuclear_norm_ball, projection_psd_cone, projection_spectrahedron
from jaxsolve.projection._transport import (
    kl_projection_birkhoff,
    kl_projection_transport,
    projection_birkhoff,
    projection_transport,
)

__all__ = [
    "entmax",
    "kl_partial_transport",
    "kl_projection_birkhoff",
    "kl_projection_transport",
    "kl_unbalanced_transport",
    "projection_affine_set",
    "projection_birkhoff",
    "kl_projection_simplex",
    "projection_box",
    "projection_box_section",
    "projection_dual_exponential_cone",
    "projection_dual_power_cone",
    "projection_exponential_cone",
    "projection_halfspace",
    "projection_hypercube",
    "projection_hyperplane",
    "projection_l12_ball",
    "projection_l1_ball",
    "projection_l1_sphere",
    "projection_l2_ball",
    "projection_l2_sphere",
    "projection_linf_ball",
    "projection_non_negative",
    "projection_nuclear_norm_ball",
    "projection_polyhedron",
    "projection_power_cone",
    "projection_psd_cone",
    "projection_second_order_cone",
    "projection_simplex",
    # The orders
    "projection_capped_simplex",
    "projection_monotone_cone",
    "projection_ordered_simplex",
    "projection_permutahedron",
    "projection_sparse_simplex",
    "projection_spectrahedron",
    "projection_transport",
]
