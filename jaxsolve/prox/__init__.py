"""Proximity operators: on pytrees, with exact derivatives in ``x`` and in the weights of the penalty."""

from jaxsolve.prox._combinators import (
    make_prox_boxed,
    make_prox_conjugate,
    make_prox_from_projection,
    make_prox_scaled,
    make_prox_separable,
    make_prox_translated,
)
from jaxsolve.prox._elementwise import (
    prox_hinge,
    prox_huber,
    prox_kl,
    prox_log_barrier,
    prox_quantile,
    prox_reverse_kl,
    prox_squared_hinge,
)
from jaxsolve.prox._groups import (
    prox_group_lasso,
    prox_l1inf,
    prox_l12,
    prox_linf,
    prox_non_negative_group_lasso,
    prox_nuclear_norm,
    prox_slope,
    prox_sparse_group_lasso,
    prox_spectral_norm,
)
from jaxsolve.prox._nonconvex import prox_l0, prox_mcp, prox_scad
from jaxsolve.prox._penalties import (
    prox_elastic_net,
    prox_lasso,
    prox_non_negative_lasso,
    prox_non_negative_ridge,
    prox_ridge,
)
from jaxsolve.prox._splitting import (
    make_prox_composed,
    make_prox_graph_total_variation,
    make_prox_groups,
    make_prox_sum,
)
from jaxsolve.prox._total_variation import prox_total_variation
from jaxsolve.solvers._proximal import prox_none

__all__ = [
    "make_prox_boxed",
    "make_prox_composed",
    "make_prox_conjugate",
    "make_prox_from_projection",
    "make_prox_graph_total_variation",
    "make_prox_groups",
    "make_prox_scaled",
    "make_prox_separable",
    "make_prox_sum",
    "make_prox_translated",
    "prox_elastic_net",
    "prox_group_lasso",
    "prox_hinge",
    "prox_huber",
    "prox_kl",
    "prox_l0",
    "prox_l12",
    "prox_l1inf",
    "prox_lasso",
    "prox_linf",
    "prox_log_barrier",
    "prox_mcp",
    "prox_non_negative_group_lasso",
    "prox_non_negative_lasso",
    "prox_non_negative_ridge",
    "prox_none",
    "prox_nuclear_norm",
    "prox_quantile",
    "prox_reverse_kl",
    "prox_ridge",
    "prox_scad",
    "prox_slope",
    "prox_sparse_group_lasso",
    "prox_spectral_norm",
    "prox_squared_hinge",
    "prox_total_variation",
]
