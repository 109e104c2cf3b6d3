"""Nonlinear least squares."""

from jaxsolve.solvers.least_squares.dogleg import Dogleg
from jaxsolve.solvers.least_squares.gauss_newton import GaussNewton
from jaxsolve.solvers.least_squares.levenberg_marquardt import LevenbergMarquardt

__all__ = ["Dogleg", "GaussNewton", "LevenbergMarquardt"]
