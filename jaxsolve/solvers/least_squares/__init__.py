"""Nonlinear least squares."""

from jaxsolve.solvers.least_squares.levenberg_marquardt import LevenbergMarquardt

__all__ = ["LevenbergMarquardt"]
