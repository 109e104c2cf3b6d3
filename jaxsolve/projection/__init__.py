"""Euclidean projections: on pytrees, with exact derivatives in ``x`` and in the parameters of the set.

Two rules pick the derivative where a projection has a kink. On the boundary of a ball or a halfspace it is the
identity, as inside. An entry on the bound of a box or of a simplex counts as cut, and so does a point on the boundary
of a cone.
"""

from jaxsolve.projection import _affine, _box, _curved_cones, _euclidean, _order, _simplex, _spectral, _transport
from jaxsolve.projection._affine import *
from jaxsolve.projection._box import *
from jaxsolve.projection._curved_cones import *
from jaxsolve.projection._euclidean import *
from jaxsolve.projection._order import *
from jaxsolve.projection._simplex import *
from jaxsolve.projection._spectral import *
from jaxsolve.projection._transport import *

# Each module says what it makes public.
__all__: list[str] = []
__all__ += _affine.__all__
__all__ += _box.__all__
__all__ += _curved_cones.__all__
__all__ += _euclidean.__all__
__all__ += _order.__all__
__all__ += _simplex.__all__
__all__ += _spectral.__all__
__all__ += _transport.__all__
