"""Isotonic regression: compiled for the whole program in JAX, against scikit-learn's compiled function.

One sequence of 100,000 entries (bar: at most 3 times scikit-learn), and a batch of 1000 sequences of 100 entries
against a Python loop over scikit-learn (bar: 1). How long a sequential walk takes depends on what there is to pool,
hence several kinds of sequences. Every result is checked.
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np
from _timing import interleaved, report, seconds
from sklearn.isotonic import isotonic_regression

from jaxsolve.isotonic import isotonic_l2_pav

jax.config.update("jax_enable_x64", True)


def sequences(n):
    """Kinds of data by name."""
    rng = np.random.default_rng(0)
    return {
        "noise": rng.normal(size=n),
        "line + noise": np.linspace(0, 5, n) + rng.normal(size=n),
        "log + integer noise": 50 * np.log1p(np.arange(n)) + rng.integers(-50, 50, n),
        "random walk": np.cumsum(rng.normal(size=n)),
        "sorted": np.sort(rng.normal(size=n)),
        "reversed": -np.sort(rng.normal(size=n)),
    }


def compare(title, ours, theirs, y, rounds):
    """Check one case, measure it, and print the ratio."""
    error = np.max(np.abs(np.asarray(ours(y)) - theirs(y))) / np.max(np.abs(y))
    on_device = jnp.asarray(y)
    times = interleaved({"jaxsolve": lambda: ours(on_device), "scikit-learn": lambda: theirs(y)}, rounds)
    report(f"{title}   (largest difference {error:.0e})", times)
    return times["jaxsolve"] / times["scikit-learn"]


def main(n, batch, length, rounds):
    """Print everything."""
    for dtype in (np.float64, np.float32):
        ours = jax.jit(isotonic_l2_pav)
        print(f"one sequence, n = {n}, {dtype.__name__}")
        first = seconds(lambda ours=ours, dtype=dtype: ours(jnp.zeros(n, dtype)))
        print(f"  compiling and first run {first:.2f} s")
        ratios = [compare(name, ours, isotonic_regression, y.astype(dtype), rounds) for name, y in sequences(n).items()]
        print(f"  median ratio {np.median(ratios):.2f}, largest {max(ratios):.2f} (bar: 3)\n", flush=True)

    print(f"a batch of {batch} sequences, n = {length}, float64")
    y = np.random.default_rng(0).normal(size=(batch, length))
    vmapped = jax.jit(jax.vmap(isotonic_l2_pav))
    loop = lambda y: np.stack([isotonic_regression(row) for row in y])  # noqa: E731
    print(f"  ratio {compare('noise', vmapped, loop, y, max(rounds // 3, 3)):.3f} (bar: 1)")
    gradient = jax.jit(jax.vmap(jax.grad(lambda y: jnp.sum(jnp.sin(isotonic_l2_pav(y))))))
    times = interleaved({"jaxsolve": lambda: vmapped(y), "gradient": lambda: gradient(y)}, rounds)
    report("the gradient through the batch", times)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=100_000)
    parser.add_argument("--batch", type=int, default=1000)
    parser.add_argument("--length", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=21)
    options = parser.parse_args()
    main(options.n, options.batch, options.length, options.rounds)
