"""Linear solvers for pytrees: differentiable, safe for singular systems, with the residual on request."""

from jaxsolve.linear_solve._differentiable import SolveInfo
from jaxsolve.linear_solve._direct import solve_cholesky, solve_inv, solve_lstsq, solve_lu, solve_qr
from jaxsolve.linear_solve._krylov import KrylovOptions
from jaxsolve.linear_solve._krylov_general import solve_bicgstab, solve_gmres, solve_lsqr
from jaxsolve.linear_solve._krylov_symmetric import solve_cg, solve_minres, solve_normal_cg
from jaxsolve.linear_solve._operators import diagonal, jacobi_preconditioner, materialize, residual, transpose
from jaxsolve.linear_solve._solve import DIRECT_MAX_SIZE, check_method, solve
from jaxsolve.linear_solve._stationary import solve_iterative_refinement, solve_neumann

__all__ = [
    "DIRECT_MAX_SIZE",
    "KrylovOptions",
    "SolveInfo",
    "check_method",
    "diagonal",
    "jacobi_preconditioner",
    "materialize",
    "residual",
    "solve",
    "solve_bicgstab",
    "solve_cg",
    "solve_cholesky",
    "solve_gmres",
    "solve_inv",
    "solve_iterative_refinement",
    "solve_lsqr",
    "solve_lstsq",
    "solve_lu",
    "solve_minres",
    "solve_neumann",
    "solve_normal_cg",
    "solve_qr",
    "transpose",
]
