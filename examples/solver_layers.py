r"""Solver layers in four libraries
===============================

The same solver layer in Flax linen, Flax nnx, Haiku and Equinox, each written in two ways.

The layer removes noise from images x by a learned convex regularizer,

::

    z*(x; W, b) = argmin_z  1/2 ||z - x||^2  +  sum_j log cosh(w_j' z + b_j).

The term in the sum is a smooth absolute value, so the problem is strongly convex and smooth, and L-BFGS solves it for a
whole batch at once. The weights W and b are those of an ordinary affine layer of each library. They are learned by Adam
such that z* is close to the clean image; the gradient goes through the solution by implicit differentiation.

The two ways differ in how the function that is minimized gets the weights::

    arguments   solver.run(init, params, x): they are data of the solver's function fun(z, params, x);
    closure     solver.run(init, x): fun calls the module, a variable of the enclosing function.

Both are differentiated in the same way. All eight start from the same weights, so they must have the same losses, under
the transformations of each library (nnx.jit, nnx.value_and_grad, eqx.filter_jit, hk.transform, ...) and without jit.
Without jit nothing is compiled again either. But for a gradient with respect to captured weights the function is traced
in each call, which takes a few milliseconds or more; for a gradient with respect to arguments it is not.

The solver is always made in the method that runs it. This costs nothing, because equal solvers share one compiled
program, and the solver then uses the module of the current call. The data are scikit-learn's digits with Gaussian
noise. The table has the losses of all variants at some steps, how much they differ from the first one, and how many
programs were compiled after the first step: none.

References: Amos, Xu and Kolter (2017), "Input convex neural networks"; Mukherjee et al. (2020), "Learned convex
regularizers for inverse problems".

::

    python examples/solver_layers.py
"""

import functools
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from sklearn.datasets import load_digits

import jaxsolve

jax.config.update("jax_enable_x64", True)

NOISE = 0.25  # standard deviation; pixels are between 0 and 1
TOL = 1e-7  # of the solver: norm of the gradient


# ---- The problem, without any library -----------------------------------------------------------------------------


def load_data(num_images=1000, seed=0):
    """Noisy and clean images, shape (images, 64)."""
    rng = np.random.default_rng(seed)
    clean = rng.permutation(load_digits().data)[:num_images] / 16
    return jnp.asarray(clean + NOISE * rng.normal(size=clean.shape)), jnp.asarray(clean)


def energy(z, affine, x):
    """What a batch of images z minimizes; ``affine`` maps it to shape (images, filters)."""
    a = affine(z)
    return 0.5 * jnp.sum((z - x) ** 2) + jnp.sum(jnp.logaddexp(a, -a) - jnp.log(2.0))


def minimize(fun, init, *args):
    """The solver of all layers."""
    return jaxsolve.LBFGS(fun, tol=TOL, maxiter=200).run(init, *args).params


def mean_squared_error(denoised, clean):
    """Per pixel."""
    return jnp.mean((denoised - clean) ** 2)


def initial_weights(num_pixels, num_filters, seed=1):
    """The matrix W, shape (pixels, filters), and b."""
    rng = np.random.default_rng(seed)
    return jnp.asarray(0.3 * rng.normal(size=(num_pixels, num_filters)) / np.sqrt(num_filters)), jnp.zeros(num_filters)


# ---- Eight layers -------------------------------------------------------------------------------------------------
#
# Each function returns (model, denoise): the parameters or the module of a library with given weights, and the layer
# as a function denoise(model, x).


def linen_arguments(W, b):
    """Flax linen; the variables of ``Dense`` are an argument."""
    dense = nn.Dense(b.size)

    def fun(z, variables, x):
        return energy(z, lambda z: dense.apply(variables, z), x)

    return {"params": {"kernel": W, "bias": b}}, lambda variables, x: minimize(fun, x, variables, x)


class LinenDenoiser(nn.Module):
    """Flax linen; the module is called in the closure."""

    num_filters: int

    @nn.compact
    def __call__(self, x):
        """Denoise."""
        dense = nn.Dense(self.num_filters)
        # Pitfall: `init` makes parameters at the first call of a module. Inside of the solver they would be tracers
        # ("Call the module once before the solver runs", says the error), so call it once outside.
        dense(x)
        # Pitfall: BatchNorm and Dropout change counts in each call, which no solver can allow: evaluation mode here
        # (use_running_average=True, deterministic=True).
        return minimize(lambda z: energy(z, dense, x), x)


def linen_closure(W, b):
    """Flax linen; the variables are those of ``apply``."""
    return {"params": {"Dense_0": {"kernel": W, "bias": b}}}, LinenDenoiser(b.size).apply


def haiku_arguments(W, b):
    """Haiku; the parameters of a transformed function are an argument."""
    affine = hk.without_apply_rng(hk.transform(lambda z: hk.Linear(b.size)(z)))

    def fun(z, params, x):
        return energy(z, lambda z: affine.apply(params, z), x)

    return {"linear": {"w": W, "b": b}}, lambda params, x: minimize(fun, x, params, x)


def haiku_closure(W, b):
    """Haiku; the solver is inside of what ``hk.transform`` transforms."""

    def denoise(x):
        linear = hk.Linear(b.size)
        # Pitfall: as in linen, `init` must have made the parameters before the solver runs.
        linear(x)
        # Pitfall: nobody can see from outside which parameters Haiku holds: without jax.jit every call is traced.
        return minimize(lambda z: energy(z, linear, x), x)

    return {"linear": {"w": W, "b": b}}, hk.without_apply_rng(hk.transform(denoise)).apply


def nnx_linear(W, b):
    """A layer of Flax nnx with given weights."""
    linear = nnx.Linear(*W.shape, rngs=nnx.Rngs(0), param_dtype=W.dtype)
    linear.kernel[...], linear.bias[...] = W, b
    return linear


def nnx_arguments(W, b):
    """Flax nnx; the state of the module is an argument, and the module is merged in the function."""
    # Where modules are pytrees (Flax 0.12), the module itself may be the argument, as with Equinox.

    def denoise(linear, x):
        definition, state = nnx.split(linear)

        def fun(z, state, x):
            return energy(z, nnx.merge(definition, state), x)

        return minimize(fun, x, state, x)

    return nnx_linear(W, b), denoise


class NnxDenoiser(nnx.Module):
    """Flax nnx; the function of the solver is a method."""

    def __init__(self, linear):
        self.linear = linear
        # Pitfall: a solver made here would keep the method of this very object, and `nnx.grad` gives its function a
        # copy: gradients would be zero (the solver warns). Make it where it runs.

    def energy(self, z, x):
        """What the solver minimizes."""
        # Pitfall: BatchNorm and Dropout must be in evaluation mode (`model.eval()`), or Flax raises "Cannot mutate
        # ... from a different trace level".
        return energy(z, self.linear, x)

    def __call__(self, x):
        """Denoise."""
        return minimize(self.energy, x, x)


def nnx_closure(W, b):
    """Flax nnx; the module is called in the closure."""
    return NnxDenoiser(nnx_linear(W, b)), lambda model, x: model(x)


def equinox_linear(W, b):
    """A layer of Equinox with given weights; it maps one image."""
    linear = eqx.nn.Linear(*W.shape, key=jax.random.key(0))
    return eqx.tree_at(lambda m: (m.weight, m.bias), linear, (W.T, b))


def equinox_arguments(W, b):
    """Equinox; the module is a pytree, and as such an argument."""

    def fun(z, linear, x):
        return energy(z, jax.vmap(linear), x)

    return equinox_linear(W, b), lambda linear, x: minimize(fun, x, linear, x)


class EquinoxDenoiser(eqx.Module):
    """Equinox; the function of the solver is a method."""

    linear: eqx.nn.Linear
    # Pitfall: a solver as a field, made in __init__ of a method, has the same fault as in nnx.

    def energy(self, z, x):
        """What the solver minimizes."""
        return energy(z, jax.vmap(self.linear), x)

    def __call__(self, x):
        """Denoise."""
        return minimize(self.energy, x, x)


def equinox_closure(W, b):
    """Equinox; the module is called in the closure."""
    return EquinoxDenoiser(equinox_linear(W, b)), lambda model, x: model(x)


# ---- Training, with the transformations of each library -----------------------------------------------------------


class Variant(NamedTuple):
    """A layer that can be trained.

    Attributes:
        carry: the model, and the state of the optimizer.
        value_and_grad: ``value_and_grad(model, noisy, clean)`` without jit.
        step: ``step(carry, noisy, clean)`` is one step of training, compiled; returns ``(carry, loss)``.
    """

    carry: Any
    value_and_grad: Callable
    step: Callable


def loss_of(denoise):
    """The loss of a layer, ``loss(model, noisy, clean)``."""
    return lambda model, noisy, clean: mean_squared_error(denoise(model, noisy), clean)


def train_functional(params, denoise, optimizer):
    """Parameters that are a pytree of arrays (linen, Haiku): the transformations of JAX."""
    value_and_grad = jax.value_and_grad(loss_of(denoise))

    @jax.jit
    def step(carry, noisy, clean):
        params, opt_state = carry
        value, gradient = value_and_grad(params, noisy, clean)
        updates, opt_state = optimizer.update(gradient, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), value

    return Variant((params, optimizer.init(params)), value_and_grad, step)


def train_nnx(model, denoise, optimizer):
    """Flax nnx: the module and its optimizer are changed in place."""
    value_and_grad = nnx.value_and_grad(loss_of(denoise))

    @nnx.jit
    def update(model, optimizer, noisy, clean):
        value, gradient = value_and_grad(model, noisy, clean)
        optimizer.update(model, gradient)
        return value

    def step(carry, noisy, clean):
        return carry, update(*carry, noisy, clean)

    return Variant((model, nnx.Optimizer(model, optimizer, wrt=nnx.Param)), value_and_grad, step)


def train_equinox(model, denoise, optimizer):
    """Equinox: the module is a pytree of arrays and other things."""
    value_and_grad = eqx.filter_value_and_grad(loss_of(denoise))

    # Pitfall: a module in the closure of jax.jit would be a constant of the program; as an argument it is none.
    @eqx.filter_jit
    def step(carry, noisy, clean):
        model, opt_state = carry
        value, gradient = value_and_grad(model, noisy, clean)
        updates, opt_state = optimizer.update(gradient, opt_state, model)
        return (eqx.apply_updates(model, updates), opt_state), value

    return Variant((model, optimizer.init(eqx.filter(model, eqx.is_array))), value_and_grad, step)


LAYERS = {
    ("Flax linen", "arguments"): (linen_arguments, train_functional),
    ("Flax linen", "closure"): (linen_closure, train_functional),
    ("Flax nnx", "arguments"): (nnx_arguments, train_nnx),
    ("Flax nnx", "closure"): (nnx_closure, train_nnx),
    ("Haiku", "arguments"): (haiku_arguments, train_functional),
    ("Haiku", "closure"): (haiku_closure, train_functional),
    ("Equinox", "arguments"): (equinox_arguments, train_equinox),
    ("Equinox", "closure"): (equinox_closure, train_equinox),
}


def make_variant(name, W, b, optimizer):
    """One of ``LAYERS`` with given weights."""
    make, train = LAYERS[name]
    return train(*make(W, b), optimizer)


# ---- The comparison -----------------------------------------------------------------------------------------------


@functools.cache
def compilations():
    """A list that grows with every program that JAX compiles."""
    names = []

    def listen(name, seconds, **_):
        if name.endswith("backend_compile_duration"):
            names.append(name)

    jax.monitoring.register_event_duration_secs_listener(listen)
    return names


def train(variant, batches):
    """Train on the batches; returns the model, the losses, and the number of programs compiled after the first step."""
    carry, losses, compiled = variant.carry, [], []
    for noisy, clean in batches:
        carry, value = variant.step(carry, noisy, clean)
        losses.append(float(value))
        compiled.append(len(compilations()))
    return carry[0], np.array(losses), compiled[-1] - compiled[0]


def norm(tree):
    """Euclidean norm of all arrays in a pytree; the same for all libraries, whatever they call their weights."""
    return float(jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(eqx.filter(tree, eqx.is_array)))))


def main(num_filters=48, num_steps=30, batch_size=50, num_images=1000, learning_rate=0.05):
    """Print the table; returns whether all losses agree, have fallen by 40 %, and nothing was compiled twice."""
    start = time.perf_counter()
    noisy, clean = load_data(num_images)
    rows = [i * batch_size % (num_images - batch_size + 1) for i in range(num_steps)]
    batches = [(noisy[i : i + batch_size], clean[i : i + batch_size]) for i in rows]
    W, b = initial_weights(noisy.shape[1], num_filters)
    shown = sorted({0, num_steps // 8, num_steps // 4, num_steps // 2, num_steps - 1})

    print(f"mean squared error of a pixel before denoising: {mean_squared_error(noisy, clean):.4f}")
    print(f"{'loss after':>30}" + "".join(f"{i:8d}" for i in shown) + "  difference     eager  compiled later")
    expected, fine = None, True
    for name in LAYERS:
        variant = make_variant(name, W, b, optax.adam(learning_rate))
        value, gradient = variant.value_and_grad(variant.carry[0], *batches[0])
        eager = np.array([value, norm(gradient)])
        _, losses, compiled = train(variant, batches)
        expected = expected or (losses, eager)
        difference = np.max(np.abs(losses / expected[0] - 1))
        eager_difference = max(abs(value / losses[0] - 1), np.max(np.abs(eager / expected[1] - 1)))
        print(
            f"{name[0]:16}{name[1]:14}"
            + "".join(f"{losses[i]:8.4f}" for i in shown)
            + f"{difference:12.0e}{eager_difference:10.0e}{compiled:16d}",
            flush=True,
        )
        fine &= difference < 1e-5 and eager_difference < 1e-5 and compiled == 0 and losses[-1] < 0.6 * losses[0]
    print("difference: largest relative difference of a loss from the first row")
    print("eager: the same of the first loss without jit, and of the norm of its gradient")
    print(f"losses agree, fell by 40 %, nothing was compiled after the first step: {'yes' if fine else 'NO'}")
    print(f"{time.perf_counter() - start:.0f} s")
    return bool(fine)


if __name__ == "__main__":
    sys.exit(not main())
