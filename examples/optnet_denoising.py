r"""An OptNet layer for denoising
=============================

An OptNet layer that denoises signals: total variation with learned differences.

A signal z of n values is piecewise constant; y is z with noise. Total variation denoising is the quadratic program

::

    z(y) = argmin_z  1/2 |y - z|^2 + lambda |D z|_1                                                (primal)
         = y - D' u,    u = argmin_u  1/2 |y - D' u|^2   subject to   |u_i| <= lambda              (dual)

where the n - 1 rows of D take the differences of neighbors. The dual program is over a box, and its matrix D D' is the
same for all signals of a batch. As a layer of a network its parameter is D, with lambda absorbed: the bound is 1. The
layer starts as total variation with the lambda that is best on the training signals, and Adam changes all entries of D
by the gradient of the mean squared error, through the solution of the program.

The signals here jump only near a few places. Total variation cannot use this, but the layer can learn it: where jumps
occur, the penalty should be smaller. (If jumps are equally likely everywhere, there is little to learn, and total
variation is hard to improve on.) The table shows the errors on new signals, with the best linear filter for comparison.
Amos and Kolter also report that a layer that starts as total variation improves on it; they use other signals, so their
figures cannot be compared with those of this script.

``Denoiser`` is a module of Equinox. It makes its solver in the method that runs it, so that the solver uses the current
D.

Reference: Amos and Kolter (2017), "OptNet: Differentiable Optimization as a Layer in Neural Networks", section 4.2;
Rudin, Osher and Fatemi (1992) for total variation.

::

    python examples/optnet_denoising.py           signals of 40 values
    python examples/optnet_denoising.py --full    signals of 100 values, the length in the paper
"""

import argparse
import sys
import time
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import optax

import jaxsolve

jax.config.update("jax_enable_x64", True)

OUTPUT = Path(__file__).parent / "output"


# ---- The signals --------------------------------------------------------------------------------------------------


def make_signals(rng, count, size, noise=0.4, places=8, num_jumps=4):
    """Noisy and clean piecewise constant signals, each of shape (count, size).

    There are ``places`` where the source may jump, evenly spaced. A signal jumps at ``num_jumps`` of them, up to one
    value earlier or later, to levels that are standard normal.
    """
    spacing = size / (places + 1)
    clean = np.empty((count, size))
    for signal in clean:
        jumps = spacing * (1 + np.sort(rng.choice(places, num_jumps, replace=False)))
        ends = np.rint(jumps).astype(int) + rng.integers(-1, 2, size=num_jumps)
        for part in np.split(np.arange(size), ends):
            signal[part] = rng.normal()
    return jnp.asarray(clean + noise * rng.normal(size=clean.shape)), jnp.asarray(clean)


# ---- The layer ----------------------------------------------------------------------------------------------------


def differences(size):
    """The matrix (size - 1 x size) that takes differences of neighbors."""
    return jnp.asarray(np.diff(np.eye(size), axis=0))


class Denoiser(eqx.Module):
    """The quadratic program as a layer.

    Attributes:
        D: the differences that are to be small in sum, shape (rows, size); they include the weight lambda.
    """

    D: jax.Array

    def solve(self, y):
        """The dual program of one signal: ``OptStep(u, state)``."""
        P, c = self.D @ self.D.T, -(self.D @ y)
        return jaxsolve.BoxCDQP(tol=1e-6, maxiter=5000).run(None, (P, c), (-1.0, 1.0))

    def __call__(self, y):
        """The denoised signal, shape (size,)."""
        return y - self.D.T @ self.solve(y).params


def mean_squared_error(model, noisy, clean):
    """Of a batch of signals of shape (count, size)."""
    return jnp.mean((jax.vmap(model)(noisy) - clean) ** 2)


# ---- Learning -----------------------------------------------------------------------------------------------------


def best_total_variation(noisy, clean, weights=None):
    """The layer that is total variation with the best of some weights lambda, and that lambda."""
    weights = np.geomspace(0.1, 2.0, 13) if weights is None else weights
    error, D = jax.jit(mean_squared_error), differences(noisy.shape[1])
    best = min(weights, key=lambda weight: float(error(Denoiser(weight * D), noisy, clean)))
    return Denoiser(best * D), float(best)


def best_linear_filter(noisy, clean):
    """The matrix W that minimizes the squared error of ``noisy @ W``."""
    return jnp.linalg.lstsq(noisy, clean)[0]


def learn(model, noisy, clean, num_steps, batch_size=32, learning_rate=0.004, every=100, seed=0):
    """Improve a model by Adam; returns it and the mean loss over each ``every`` steps."""
    optimizer = optax.adam(optax.cosine_decay_schedule(learning_rate, num_steps))
    opt_state = optimizer.init(eqx.filter(model, eqx.is_array))
    rng = np.random.default_rng(seed)

    @eqx.filter_jit
    def step(model, opt_state, noisy, clean):
        loss, gradient = eqx.filter_value_and_grad(mean_squared_error)(model, noisy, clean)
        updates, opt_state = optimizer.update(gradient, opt_state)
        return eqx.apply_updates(model, updates), opt_state, loss

    losses, means = [], []
    for i in range(1, num_steps + 1):
        batch = rng.choice(len(noisy), batch_size, replace=False)
        model, opt_state, loss = step(model, opt_state, noisy[batch], clean[batch])
        losses.append(float(loss))
        if i % every == 0:
            means.append(float(np.mean(losses[-every:])))
            print(f"steps {i - every + 1:4d} to {i:4d}   training loss {means[-1]:.4f}", flush=True)
    return model, means


def plot(total_variation, learned, noisy, clean, path):
    """Draw one signal with both estimates, and how much the differences of neighbors weigh in both layers."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(12, 3.8), layout="constrained")
    at = np.arange(clean.size)
    axes[0].plot(at, noisy, ".", color="gray", label="noisy")
    axes[0].step(at, clean, where="mid", color="black", lw=3, alpha=0.3, label="clean")
    for name, model, color in (("total variation", total_variation, "tab:red"), ("learned", learned, "tab:blue")):
        axes[0].step(at, model(noisy), where="mid", color=color, label=name)
        axes[1].plot(at[1:] - 0.5, jnp.abs(jnp.diagonal(model.D, 1)), "o-", ms=3, color=color, label=name)
    axes[0].set(title="a signal not seen before", xlabel="place")
    axes[0].legend(fontsize="small")
    axes[1].set(title="weight of the difference of neighbors", xlabel="place", ylim=(0, None))
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)
    print(f"figure: {path.parent.name}/{path.name}")


def main(size=40, num_train=2000, num_test=500, num_steps=600, every=100, path=OUTPUT / "optnet_denoising.png"):
    """Learn and compare; returns the errors on signals not seen before, by method, and the training losses."""
    start = time.perf_counter()
    rng = np.random.default_rng(0)
    train, test = make_signals(rng, num_train, size), make_signals(rng, num_test, size)
    total_variation, weight = best_total_variation(train[0][:300], train[1][:300])
    learned, losses = learn(total_variation, *train, num_steps, every=every)

    status = jax.jit(jax.vmap(lambda y: learned.solve(y).state.status))(test[0])
    converged = bool(jnp.all(status == jaxsolve.Status.CONVERGED))
    error = jax.jit(mean_squared_error)
    errors = {
        "noisy signal": float(jnp.mean((test[0] - test[1]) ** 2)),
        "best linear filter": float(jnp.mean((test[0] @ best_linear_filter(*train) - test[1]) ** 2)),
        f"total variation, lambda {weight:.2f}": float(error(total_variation, *test)),
        "OptNet layer, D learned": float(error(learned, *test)),
    }
    print(f"\n{'mean squared error':32}{num_test} signals not seen before")
    for name, value in errors.items():
        print(f"{name:32}{value:.4f}")
    print(f"all quadratic programs converged: {'yes' if converged else 'NO'}")
    plot(total_variation, learned, test[0][0], test[1][0], path)
    print(f"{time.perf_counter() - start:.0f} s")
    return list(errors.values()), losses


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--full", action="store_true", help="signals of 100 values, more steps")
    sizes = {"size": 100, "num_steps": 1000} if parser.parse_args().full else {}
    (*_, total_variation, learned), _ = main(**sizes)
    sys.exit(not learned < 0.95 * total_variation)
