"""Nonnegative matrix factorization
================================

Nonnegative matrix factorization of handwritten digits by alternating minimization.

::

    min  1/2 ||X - U V||^2      over nonnegative U (images x parts) and V (parts x pixels).

With V fixed the problem in U is convex, and so is that in V with U fixed. Each is improved by block coordinate descent:
the blocks are the parts, rows of U' and of V, and the proximity operator is the projection on the nonnegative numbers.
``least_squares`` is a function of the predictions, so a visit to a part costs one column of the factor. The result is
compared with scikit-learn's NMF, which alternates over the same blocks from the same start.
"""

import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_digits
from sklearn.decomposition import NMF

import jaxsolve
from jaxsolve.objective import least_squares
from jaxsolve.projection import projection_non_negative
from jaxsolve.prox import make_prox_from_projection

jax.config.update("jax_enable_x64", True)

solver = jaxsolve.BlockCoordinateDescent(
    least_squares, make_prox_from_projection(projection_non_negative), selection="cyclic", maxiter=1, tol=0.0
)


@jax.jit
def alternate(U, V, X):
    """A sweep over the rows of V, then one over the columns of U: more would be wasted on factors that will change."""
    V = solver.run(V, None, (U, X)).params
    U = solver.run(U.T, None, (V.T, X.T)).params.T
    return U, V


def relative_error(X, U, V):
    """||X - U V|| / ||X||."""
    return float(jnp.linalg.norm(X - U @ V) / jnp.linalg.norm(X))


def main(num_parts=16, num_rounds=300, num_images=500):
    """Factorize; returns whether the error is that of scikit-learn, to 2 %."""
    X = jnp.asarray(load_digits().data[:num_images] / 16)
    rng = np.random.default_rng(0)
    scale = np.sqrt(X.mean() / num_parts)
    U, V = (jnp.asarray(scale * np.abs(rng.normal(size=s))) for s in ((num_images, num_parts), (num_parts, X.shape[1])))
    start = np.array(U), np.array(V)
    for step in range(num_rounds + 1):
        if step % 50 == 0:
            zeros = float(jnp.mean(V == 0))
            print(f"round {step:3d}   relative error {relative_error(X, U, V):.4f}   zeros in V {zeros:.0%}")
        U, V = alternate(U, V, X)
    model = NMF(num_parts, init="custom", max_iter=num_rounds, tol=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it stopped at max_iter
        theirs = model.fit_transform(np.asarray(X), W=start[0], H=start[1])
    reference = relative_error(X, theirs, model.components_)
    error = relative_error(X, U, V)
    print(f"relative error {error:.4f}, scikit-learn {reference:.4f}")
    return bool(jnp.all(U >= 0) & jnp.all(V >= 0)) and error <= 1.02 * reference


if __name__ == "__main__":
    sys.exit(not main())
