r"""Maximum entropy
===============

Maximum entropy, and logistic regression, as programs over exponential cones.

The loaded die of Jaynes (1962): the mean of many throws is m = 4.5, not 3.5. What are the probabilities p of the faces
z? Of all distributions with this mean, take the one with the largest entropy,

::

    S(m) = max  -sum_i p_i log p_i    subject to  sum_i p_i = 1,  sum_i z_i p_i = m.

With the cone K = cl {(a, b, c): b exp(a / b) <= c, b > 0}, the inequality t_i <= -p_i log p_i is (t_i, p_i, 1) in K. In
theory p_i is proportional to exp(lambda z_i), and the derivatives of S in m are S' = -lambda and S'' = -1 / var(z)
under p. Here all of them are computed by the solver and JAX, S'' by differentiating the solution twice.

Logistic regression is a program over the same cones: log(1 + exp(u)) <= t means exp(-t) + exp(u - t) <= 1. Its weights,
and their derivative in the penalty, are compared with those of L-BFGS without cones. A conic program may also have
constraints; here, that the scores of one group are on average not higher than those of another.

Reference: Jaynes (1963), "Information theory and statistical mechanics", Brandeis lectures.
"""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import scipy.optimize

import jaxsolve

jax.config.update("jax_enable_x64", True)
OUTPUT = Path(__file__).parent / "output"
FACES = np.arange(1.0, 7.0)


# ---- The die ------------------------------------------------------------------------------------------------------


def maximum_entropy(mean, values=FACES):
    """Solve for the distribution on ``values`` with this mean; the variables are (p, t), interleaved rows in cones."""
    k = len(values)
    cones = jaxsolve.Cones(zero=2, exp=k)
    A = np.zeros((cones.num_rows, 2 * k))
    A[0, :k], A[1, :k] = 1.0, values
    A[2::3, k:], A[3::3, :k] = -np.eye(k), -np.eye(k)  # (t_i, p_i, 1)
    b = jnp.zeros(cones.num_rows).at[0].set(1.0).at[1].set(mean).at[4::3].set(1.0)
    return jaxsolve.solve_conic(None, jnp.concatenate([jnp.zeros(k), -jnp.ones(k)]), A, b, cones)


def by_theory(mean):
    """The probabilities, S, S' and S'' of theory; lambda is the root of an equation in one variable."""

    def probabilities(rate):
        weights = np.exp(rate * (FACES - mean))
        return weights / weights.sum()

    rate = scipy.optimize.brentq(lambda rate: probabilities(rate) @ FACES - mean, -20, 20, xtol=1e-15, rtol=1e-14)
    p = probabilities(rate)
    return p, -np.sum(p * np.log(p)), -rate, -1 / (p @ (FACES - mean) ** 2)


def die(means):
    """Compare solver and theory, all means in one batch; returns the largest error of p, S, S' and S''."""

    def value(mean):
        result = maximum_entropy(mean)
        return -result.value, result.x[: len(FACES)]

    def slope(mean):
        (value_here, probabilities), slope_here = jax.value_and_grad(value, has_aux=True)(mean)
        return slope_here, (probabilities, value_here, slope_here)

    def one(mean):
        curvature, found = jax.grad(slope, has_aux=True)(mean)  # the program is solved once
        return *found, curvature

    found, theory = jax.jit(jax.vmap(one))(means), [by_theory(float(mean)) for mean in means]
    wanted = [np.stack(part) for part in zip(*theory, strict=True)]
    errors = [float(np.max(np.abs(have - want))) for have, want in zip(found, wanted, strict=True)]
    return found, errors


# ---- Logistic regression ------------------------------------------------------------------------------------------


def make_data(num_samples=40, num_features=3, seed=0):
    """Features, labels of -1 and 1, and the group of each sample, 0 or 1."""
    rng = np.random.default_rng(seed)
    groups = rng.integers(2, size=num_samples)
    X = rng.normal(size=(num_samples, num_features)) + 0.8 * np.outer(groups, np.arange(num_features) == 0)
    labels = np.sign(X @ rng.normal(size=num_features) + rng.logistic(size=num_samples))
    return X, labels, groups


def logistic_by_cones(l2reg, X, labels, gap, limit):
    """The weights that minimize sum_i log(1 + exp(-labels_i x_i w)) + l2reg |w|^2 / 2 subject to gap w <= limit.

    The variables are (w, t, r, s): (-t_i, 1, r_i) and (-labels_i x_i w - t_i, 1, s_i) are in K, and r_i + s_i <= 1.
    """
    m, d = X.shape
    cones = jaxsolve.Cones(nonneg=1 + m, exp=2 * m)
    A, b = np.zeros((cones.num_rows, d + 3 * m)), np.zeros(cones.num_rows)
    w, t, r, s = np.split(np.arange(d + 3 * m), [d, d + m, d + 2 * m])
    samples = np.arange(m)
    A[0, w] = gap
    A[1 + samples, r], A[1 + samples, s], b[1 + samples] = 1.0, 1.0, 1.0
    for number, part in enumerate((r, s)):
        rows = 1 + m + 3 * (number * m + samples)
        A[rows, t], A[rows + 2, part], b[rows + 1] = 1.0, -1.0, 1.0
    A[np.ix_(rows, w)] = labels[:, None] * X
    P = jnp.diag(jnp.where(np.arange(d + 3 * m) < d, l2reg, 0.0))
    c = np.concatenate([np.zeros(d), np.ones(m), np.zeros(2 * m)])
    return jaxsolve.solve_conic(P, c, A, jnp.asarray(b).at[0].set(limit), cones).x[:d]


def logistic_by_lbfgs(l2reg, X, labels):
    """The same by L-BFGS."""

    def loss(w, l2reg):
        return jnp.sum(jnp.logaddexp(0.0, -labels * (X @ w))) + l2reg * jnp.sum(w**2) / 2

    return jaxsolve.LBFGS(loss, tol=1e-10, maxiter=200).run(jnp.zeros(X.shape[1]), l2reg).params


def logistic(l2reg=1.0, num_samples=40):
    """Compare cones and L-BFGS; returns the errors of weights and slopes, and the gap of the groups (free, limited)."""
    X, labels, groups = make_data(num_samples)
    gap = X[groups == 1].mean(axis=0) - X[groups == 0].mean(axis=0)

    @jax.jit
    def by_cones(limit):
        return jax.jvp(lambda l2reg: logistic_by_cones(l2reg, X, labels, gap, limit), (l2reg,), (1.0,))

    free, limited = by_cones(1e3), by_cones(0.0)
    smooth = jax.jit(lambda l2reg: jax.jvp(lambda l2reg: logistic_by_lbfgs(l2reg, X, labels), (l2reg,), (1.0,)))(l2reg)
    errors = [float(jnp.max(jnp.abs(have - want))) for have, want in zip(free, smooth, strict=True)]
    return errors, [float(gap @ w) for w in (free[0], limited[0])]


def plot(means, found, path):
    """Draw the distributions, and the entropy with its tangents."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    probabilities, values, slopes, _ = map(np.asarray, found)
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    for mean, p in zip(means, probabilities, strict=True):
        axes[0].plot(FACES, p, "o-", label=f"mean {mean:g}")
    axes[0].set(xlabel="face", ylabel="probability", title="maximum entropy")
    axes[0].legend()
    axes[1].plot(means, values, "ko")
    for mean, value, slope in zip(means, values, slopes, strict=True):
        around = mean + np.array([-0.3, 0.3])
        axes[1].plot(around, value + slope * (around - mean))
    axes[1].set(xlabel="mean", title="entropy, with its derivative")
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)
    print(f"figure: {path.parent.name}/{path.name}")


def main(num_samples=40, path=OUTPUT / "maximum_entropy.png"):
    """Print both comparisons; returns whether solver and theory, and cones and L-BFGS, agree."""
    means = np.array([1.5, 2.5, 3.5, 4.5, 5.5])
    found, errors = die(means)
    print("probabilities of the faces for a mean of 4.5:", " ".join(f"{p:.5f}" for p in found[0][3]))
    names = ("p", "S", "S'", "S''")
    print("largest error:", ", ".join(f"{name} {error:.0e}" for name, error in zip(names, errors, strict=True)))

    (of_weights, of_slopes), (free, limited) = logistic(num_samples=num_samples)
    print(f"logistic regression by cones and by L-BFGS: weights differ by {of_weights:.0e}, slopes by {of_slopes:.0e}")
    print(f"difference of the mean scores of two groups: {free:.3f}, limited {abs(limited):.3f}")
    plot(means, found, path)
    return max(errors) < 1e-8 and max(of_weights, of_slopes) < 1e-7 and abs(limited) < 1e-8 < free


if __name__ == "__main__":
    sys.exit(not main())
