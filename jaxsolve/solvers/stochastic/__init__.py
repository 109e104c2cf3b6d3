"""Stochastic gradient methods, which may get different data at every iteration."""

from jaxsolve.solvers.stochastic.armijo_sgd import ArmijoSGD
from jaxsolve.solvers.stochastic.optax_solver import OptaxSolver
from jaxsolve.solvers.stochastic.polyak_sgd import PolyakSGD

__all__ = ["ArmijoSGD", "OptaxSolver", "PolyakSGD"]
