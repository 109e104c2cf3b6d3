"""Differentiable optimization in JAX: solutions of solvers can be differentiated like any other function."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import jax

# Not lazily: this module notes what it is like outside of every transformation.
from jaxsolve import _compat as _compat
from jaxsolve._missing import explain

__version__ = "0.1.0"

if TYPE_CHECKING:
    from jaxsolve import base as base
    from jaxsolve import cond as cond
    from jaxsolve import diagnostics as diagnostics
    from jaxsolve import implicit_diff as implicit_diff
    from jaxsolve import isotonic as isotonic
    from jaxsolve import linear_solve as linear_solve
    from jaxsolve import linesearch as linesearch
    from jaxsolve import loop as loop
    from jaxsolve import loss as loss
    from jaxsolve import objective as objective
    from jaxsolve import perturbations as perturbations
    from jaxsolve import projection as projection
    from jaxsolve import prox as prox
    from jaxsolve import tree_util as tree_util
    from jaxsolve.base import History as History
    from jaxsolve.base import IterativeSolver as IterativeSolver
    from jaxsolve.base import KKTSolution as KKTSolution
    from jaxsolve.base import OptStep as OptStep
    from jaxsolve.base import Solver as Solver
    from jaxsolve.base import SolverError as SolverError
    from jaxsolve.base import Status as Status
    from jaxsolve.base import StochasticSolver as StochasticSolver
    from jaxsolve.base import check as check
    from jaxsolve.linesearch import BacktrackingLineSearch as BacktrackingLineSearch
    from jaxsolve.linesearch import HagerZhangLineSearch as HagerZhangLineSearch
    from jaxsolve.linesearch import ZoomLineSearch as ZoomLineSearch
    from jaxsolve.solvers._batched import solve_batched as solve_batched
    from jaxsolve.solvers._minimize import minimize as minimize
    from jaxsolve.solvers._multistart import multistart as multistart
    from jaxsolve.solvers.composite import BlockCoordinateDescent as BlockCoordinateDescent
    from jaxsolve.solvers.composite import PrimalDual as PrimalDual
    from jaxsolve.solvers.composite import ProximalGradient as ProximalGradient
    from jaxsolve.solvers.conic import Cones as Cones
    from jaxsolve.solvers.conic import ConicADMM as ConicADMM
    from jaxsolve.solvers.conic import ConicInteriorPoint as ConicInteriorPoint
    from jaxsolve.solvers.conic import ConicResult as ConicResult
    from jaxsolve.solvers.conic import ConicSolution as ConicSolution
    from jaxsolve.solvers.conic import solve_conic as solve_conic
    from jaxsolve.solvers.constrained import LBFGSB as LBFGSB
    from jaxsolve.solvers.constrained import AugmentedLagrangian as AugmentedLagrangian
    from jaxsolve.solvers.constrained import InteriorPointNLP as InteriorPointNLP
    from jaxsolve.solvers.constrained import MirrorDescent as MirrorDescent
    from jaxsolve.solvers.constrained import ProjectedGradient as ProjectedGradient
    from jaxsolve.solvers.external import CvxpyQP as CvxpyQP
    from jaxsolve.solvers.external import ExternalOSQP as ExternalOSQP
    from jaxsolve.solvers.external import ScipyBoundedLeastSquares as ScipyBoundedLeastSquares
    from jaxsolve.solvers.external import ScipyBoundedMinimize as ScipyBoundedMinimize
    from jaxsolve.solvers.external import ScipyConstrainedMinimize as ScipyConstrainedMinimize
    from jaxsolve.solvers.external import ScipyLeastSquares as ScipyLeastSquares
    from jaxsolve.solvers.external import ScipyMinimize as ScipyMinimize
    from jaxsolve.solvers.external import ScipyRootFinding as ScipyRootFinding
    from jaxsolve.solvers.external import cvxpy_layer as cvxpy_layer
    from jaxsolve.solvers.fixed_point import AndersonAcceleration as AndersonAcceleration
    from jaxsolve.solvers.fixed_point import AndersonWrapper as AndersonWrapper
    from jaxsolve.solvers.fixed_point import FixedPointIteration as FixedPointIteration
    from jaxsolve.solvers.least_squares import Dogleg as Dogleg
    from jaxsolve.solvers.least_squares import GaussNewton as GaussNewton
    from jaxsolve.solvers.least_squares import LevenbergMarquardt as LevenbergMarquardt
    from jaxsolve.solvers.linear import IterativeRefinement as IterativeRefinement
    from jaxsolve.solvers.quadratic import OSQP as OSQP
    from jaxsolve.solvers.quadratic import BoundedLeastSquares as BoundedLeastSquares
    from jaxsolve.solvers.quadratic import BoxCDQP as BoxCDQP
    from jaxsolve.solvers.quadratic import BoxOSQP as BoxOSQP
    from jaxsolve.solvers.quadratic import EqualityConstrainedQP as EqualityConstrainedQP
    from jaxsolve.solvers.quadratic import InteriorPointQP as InteriorPointQP
    from jaxsolve.solvers.quadratic import linprog as linprog
    from jaxsolve.solvers.quadratic import lsq_linear as lsq_linear
    from jaxsolve.solvers.quadratic import nnls as nnls
    from jaxsolve.solvers.quadratic import solve_qp as solve_qp
    from jaxsolve.solvers.root import Bisection as Bisection
    from jaxsolve.solvers.root import Broyden as Broyden
    from jaxsolve.solvers.root import Chord as Chord
    from jaxsolve.solvers.root import Newton as Newton
    from jaxsolve.solvers.stochastic import ArmijoSGD as ArmijoSGD
    from jaxsolve.solvers.stochastic import OptaxSolver as OptaxSolver
    from jaxsolve.solvers.stochastic import PolyakSGD as PolyakSGD
    from jaxsolve.solvers.unconstrained import BFGS as BFGS
    from jaxsolve.solvers.unconstrained import LBFGS as LBFGS
    from jaxsolve.solvers.unconstrained import GradientDescent as GradientDescent
    from jaxsolve.solvers.unconstrained import NelderMead as NelderMead
    from jaxsolve.solvers.unconstrained import NewtonCG as NewtonCG
    from jaxsolve.solvers.unconstrained import NonlinearCG as NonlinearCG
    from jaxsolve.solvers.unconstrained import TrustNewton as TrustNewton

_SUBMODULES = (
    "base cond diagnostics implicit_diff isotonic linear_solve linesearch loop loss objective perturbations projection "
    "prox tree_util"
).split()

# The modules that define public names.
_HOMES = {
    "base": "History IterativeSolver KKTSolution OptStep Solver SolverError Status StochasticSolver check",
    "linesearch": "BacktrackingLineSearch HagerZhangLineSearch ZoomLineSearch",
    "solvers._batched": "solve_batched",
    "solvers._minimize": "minimize",
    "solvers._multistart": "multistart",
    "solvers.composite": "BlockCoordinateDescent PrimalDual ProximalGradient",
    "solvers.conic": "ConicADMM ConicInteriorPoint ConicResult ConicSolution Cones solve_conic",
    "solvers.constrained": "AugmentedLagrangian InteriorPointNLP LBFGSB MirrorDescent ProjectedGradient",
    "solvers.external": (
        "CvxpyQP ExternalOSQP ScipyBoundedLeastSquares ScipyBoundedMinimize ScipyConstrainedMinimize ScipyLeastSquares "
        "ScipyMinimize ScipyRootFinding cvxpy_layer"
    ),
    "solvers.fixed_point": "AndersonAcceleration AndersonWrapper FixedPointIteration",
    "solvers.least_squares": "Dogleg GaussNewton LevenbergMarquardt",
    "solvers.linear": "IterativeRefinement",
    "solvers.quadratic": (
        "BoundedLeastSquares BoxCDQP BoxOSQP EqualityConstrainedQP InteriorPointQP OSQP linprog lsq_linear nnls "
        "solve_qp"
    ),
    "solvers.root": "Bisection Broyden Chord Newton",
    "solvers.stochastic": "ArmijoSGD OptaxSolver PolyakSGD",
    "solvers.unconstrained": "BFGS GradientDescent LBFGS NelderMead NewtonCG NonlinearCG TrustNewton",
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names.split()}

__all__ = ["__version__", *_SUBMODULES, *_HOME_OF]  # pyright: ignore[reportUnsupportedDunderAll]  # resolved below


def __getattr__(name: str) -> Any:
    """Import a submodule, or the home of a name, when it is first asked for (PEP 562)."""
    if name not in _HOME_OF and name not in _SUBMODULES:
        raise AttributeError(explain(name, __all__))
    # The first use may stand inside a function under jit; no array made while importing may become part of its trace.
    with jax.ensure_compile_time_eval():
        module = importlib.import_module(f"{__name__}.{_HOME_OF.get(name, name)}")
    value = module if name in _SUBMODULES else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names, whether imported yet or not."""
    return sorted(__all__)
