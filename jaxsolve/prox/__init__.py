"""Proximity operators: on pytrees, with exact derivatives in ``x`` and in the weights of the penalty."""

from jaxsolve.prox import _combinators, _elementwise, _groups, _penalties, _total_variation
from jaxsolve.prox._combinators import *
from jaxsolve.prox._elementwise import *
from jaxsolve.prox._groups import *
from jaxsolve.prox._penalties import *
from jaxsolve.prox._total_variation import *
from jaxsolve.solvers._proximal import prox_none

# Each module says what it makes public.
__all__ = ["prox_none"]
__all__ += _combinators.__all__
__all__ += _elementwise.__all__
__all__ += _groups.__all__
__all__ += _penalties.__all__
__all__ += _total_variation.__all__
