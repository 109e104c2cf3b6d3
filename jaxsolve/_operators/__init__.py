"""Linear maps between vectors: matrices given by all their entries, the non-zero ones, a diagonal, or products.

The solvers of quadratic programs, linear systems and linear models work with :class:`Matrix` and do not ask what it was
given as. What stays sparse and what is computed by products alone is decided here. All matrices are pytrees.
"""

from jaxsolve._operators._entries import DiagonalMatrix, SparseMatrix
from jaxsolve._operators._functions import FunctionMatrix
from jaxsolve._operators._make import as_bcoo, as_sparse, from_entries, stack
from jaxsolve._operators._matrix import DenseMatrix, Matrix, weighted_gram

__all__ = [
    "DenseMatrix",
    "DiagonalMatrix",
    "FunctionMatrix",
    "Matrix",
    "SparseMatrix",
    "as_bcoo",
    "as_sparse",
    "from_entries",
    "stack",
    "weighted_gram",
]
