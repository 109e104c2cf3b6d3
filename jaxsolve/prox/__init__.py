"""Proximity operators: on pytrees, with exact derivatives in ``x`` and in the weights of the penalty."""

from jaxsolve.prox._from_projection import make_prox_from_projection
from jaxsolve.prox._penalties import (
    prox_elastic_net,
    prox_group_lasso,
    prox_lasso,
    prox_non_negative_lasso,
    prox_non_negative_ridge,
    prox_ridge,
)
from jaxsolve.solvers._proximal import prox_none

__all__ = [
    "make_prox_from_projection",
    "prox_elastic_net",
    "prox_group_lasso",
    "prox_lasso",
    "prox_non_negative_lasso",
    "prox_non_negative_ridge",
    "prox_none",
    "prox_ridge",
]
