r"""Curve fitting with standard errors
==================================

Curve fitting with standard errors, outliers and derivatives, on a reference data set of NIST.

Fourteen readings (Misra1a of the Statistical Reference Datasets, a dental study): the volume y adsorbed at pressure x,

::

    y = limit (1 - exp(-rate x)) + noise,

two parameters whose sizes differ by a factor of 400,000. NIST publishes the fit and its standard errors to many digits.

Part 1 fits by ``LevenbergMarquardt``, and finds the standard errors in three ways: from the Jacobian J of the residuals
at the solution, s^2 (J'J)^-1, as SciPy's ``curve_fit`` and NIST do; from the derivative S of the fit with respect to
the readings, s^2 S S', which accounts for the curvature of the model; and from a thousand fits to simulated readings,
in one ``jax.vmap``.

Part 2 makes two readings wrong. A fit by least squares follows them; a fit with a robust loss does not, and is the same
as SciPy's.

Part 3 gives every reading a weight. The derivative of the fit with respect to the weight of a reading (the
infinitesimal jackknife, Jaeckel 1972), divided by one minus the leverage of the reading, estimates how the fit changes
if this reading is left out, without a second fit. The leverage is a derivative too: that of the fitted curve at a
reading with respect to this reading.

The figure shows the curve with its standard error, and both fits to the wrong readings.

References: Misra (1978), NIST StRD data set Misra1a; Jaeckel (1972), "The infinitesimal jackknife".

::

    python examples/curve_fitting.py
"""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from scipy.optimize import curve_fit

import jaxsolve

jax.config.update("jax_enable_x64", True)

OUTPUT = Path(__file__).parent / "output"
X = np.array([77.6, 114.9, 141.1, 190.8, 239.9, 289.0, 332.8, 378.4, 434.8, 477.3, 536.8, 593.1, 689.1, 760.0])
Y = np.array([10.07, 14.73, 17.94, 23.93, 29.61, 35.18, 40.02, 44.82, 50.76, 55.05, 61.01, 66.40, 75.47, 81.78])
NAMES = ("limit", "rate")
START = {"limit": 500.0, "rate": 1e-4}
CERTIFIED = np.array([2.3894212918e02, 5.5015643181e-04])
CERTIFIED_ERRORS = np.array([2.7070075241e00, 7.2668688436e-06])
SPOILED = {4: 45.0, 11: 45.0}


def curve(params, x):
    """The model."""
    return params["limit"] * (1 - jnp.exp(-params["rate"] * x))


def residuals(params, y, weights):
    """Readings that count ``weights`` times each."""
    return jnp.sqrt(weights) * (curve(params, X) - y)


def fit(y, weights, start=START, **options):
    """The parameters, differentiable in readings and weights, and the state of the solver."""
    # The gradient has a unit of its own for each parameter: it must fall by a factor.
    solver = jaxsolve.LevenbergMarquardt(residuals, tol=0.0, rtol=1e-10, maxiter=100, **options)
    return solver.run(start, y, weights)


def as_vector(params):
    """Parameters in the order of ``NAMES``."""
    return jnp.stack([params[name] for name in NAMES])


def scipy_fit(y, **options):
    """The parameters and their standard errors by SciPy."""
    plain = lambda x, limit, rate: limit * (1 - np.exp(-rate * x))  # noqa: E731
    params, covariance = curve_fit(plain, X, y, [START[name] for name in NAMES], ftol=1e-14, xtol=1e-14, **options)
    return params, np.sqrt(np.diag(covariance))


# ---- Standard errors ----------------------------------------------------------------------------------------------


@jax.jit
def standard_errors(y, weights):
    """The fit, the variance of a reading, and the standard errors from the Jacobian and from the derivative."""
    params, state = fit(y, weights)
    variance = 2 * state.value / (y.size - len(NAMES))
    of_jacobian = jnp.sqrt(variance * jnp.diag(jnp.linalg.inv(state.jac.T @ state.jac)))
    sensitivity = jax.jacobian(lambda y: as_vector(fit(y, weights)[0]))(y)
    of_derivative = jnp.sqrt(variance * jnp.sum(sensitivity**2, axis=1))
    return params, variance, of_jacobian, of_derivative


@jax.jit
def simulated_errors(params, variance, noise):
    """Standard deviations of fits to readings that are simulated; one row of ``noise`` for each fit."""
    samples = curve(params, X) + jnp.sqrt(variance) * noise
    return jnp.std(jax.vmap(lambda y: as_vector(fit(y, jnp.ones(len(X)))[0]))(samples), axis=0)


@jax.jit
def band(params, y, variance, x):
    """The curve at x, and its standard error: the derivative of the fitted curve with respect to the readings."""
    fitted = lambda y: curve(fit(y, jnp.ones(len(X)))[0], x)  # noqa: E731
    return curve(params, x), jnp.sqrt(variance * jnp.sum(jax.jacobian(fitted)(y) ** 2, axis=1))


# ---- Leaving readings out -----------------------------------------------------------------------------------------


@jax.jit
def jackknife(y):
    """The change of the fit when a reading is left out: predicted by the derivative, and by fits without it."""
    ones = jnp.ones(len(X))
    all_readings = as_vector(fit(y, ones)[0])
    by_weight = jax.jacobian(lambda weights: as_vector(fit(y, weights)[0]))(ones).T
    leverage = jnp.diag(jax.jacobian(lambda y: curve(fit(y, ones)[0], X))(y))
    predicted = -by_weight / (1 - leverage)[:, None]
    without = jax.vmap(lambda weights: as_vector(fit(y, weights)[0]))(ones - jnp.eye(len(X)))
    return predicted, without - all_readings


def plot(params, variance, spoiled, fits, path):
    """Left: the curve with twice its standard error, magnified tenfold. Right: the fits to the spoiled readings."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    x = np.linspace(0, 1000, 200)
    middle, error = band(params, jnp.asarray(Y), variance, x)
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
    left.plot(X, Y, "ko", markersize=4)
    left.plot(x, middle)
    left.fill_between(x, middle - 20 * error, middle + 20 * error, alpha=0.3, label="2 standard errors, times 10")
    right.plot(X, spoiled, "ko", markersize=4)
    for name, fitted in fits.items():
        right.plot(x, curve(fitted, x), label=name)
    for axes in (left, right):
        axes.set_xlabel("pressure")
        axes.legend()
    left.set_ylabel("volume adsorbed")
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main(num_samples=1000, path=OUTPUT / "curve_fitting.png"):
    """Print the tables; returns whether fits and standard errors agree with NIST and SciPy."""
    y, ones = jnp.asarray(Y), jnp.ones(len(X))
    params, variance, of_jacobian, of_derivative = standard_errors(y, ones)
    noise = jax.random.normal(jax.random.key(0), (num_samples, len(X)))
    simulated = simulated_errors(params, variance, noise)
    theirs, their_errors = scipy_fit(Y)
    print(f"{'':24}{'limit':>14}{'rate':>14}")
    rows = {
        "NIST": CERTIFIED,
        "LevenbergMarquardt": as_vector(params),
        "curve_fit": theirs,
        "standard errors: NIST": CERTIFIED_ERRORS,
        "  from the Jacobian": of_jacobian,
        "  curve_fit": their_errors,
        "  from the derivative": of_derivative,
        f"  {num_samples} simulations": simulated,
    }
    for name, (limit, rate) in rows.items():
        print(f"{name:24}{float(limit):14.6g}{float(rate):14.6g}")
    right = np.allclose(as_vector(params), CERTIFIED, rtol=1e-8)
    right &= np.allclose(of_jacobian, CERTIFIED_ERRORS, rtol=1e-6)
    right &= np.allclose(of_derivative, CERTIFIED_ERRORS, rtol=1e-2)

    spoiled = jnp.asarray(Y).at[np.array(list(SPOILED))].set(np.array(list(SPOILED.values())))
    follows = fit(spoiled, ones)[0]
    fits = {"least squares": follows, "cauchy": fit(spoiled, ones, follows, loss="cauchy", f_scale=0.1)[0]}
    robust, _ = scipy_fit(spoiled, method="trf", loss="cauchy", f_scale=0.1, x_scale="jac", gtol=1e-14)
    print("two readings spoiled:")
    for name, fitted in fits.items():
        print(f"  {name:22}{fitted['limit']:14.6g}{fitted['rate']:14.6g}")
    print(f"  {'cauchy, curve_fit':22}{robust[0]:14.6g}{robust[1]:14.6g}")
    right &= np.allclose(as_vector(fits["cauchy"]), robust, rtol=1e-5)
    right &= np.all(np.abs(robust - CERTIFIED) < 2 * CERTIFIED_ERRORS)

    predicted, actual = jackknife(y)
    print("change of the limit when a reading is left out: predicted, and by a fit without it")
    for i in np.argsort(-np.abs(actual[:, 0]))[:3]:
        print(f"  reading {i:2d} {predicted[i, 0]:8.3f}{actual[i, 0]:8.3f}")
    right &= np.allclose(predicted, actual, rtol=0, atol=0.1 * np.max(np.abs(actual), axis=0))
    print(f"agreement with NIST and SciPy: {'yes' if right else 'NO'}")
    plot(params, variance, spoiled, fits, path)
    return bool(right)


if __name__ == "__main__":
    sys.exit(not main())
