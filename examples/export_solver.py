r"""Exporting a solver and its gradient
===================================

Export a compiled solver with its gradient, for any batch size, and run it in a process without jaxsolve.

Two layers take a batch of b inputs, one row each, and return the solutions of b problems, and how each run ended::

    logistic   x*(a) = argmin_x  sum_i log(1 + exp(-y_i z_i' x)) + 1/2 |x - a|^2        L-BFGS under ``jax.vmap``
    portfolio  x*(r) = argmin_x  gamma/2 x' S x - r' x    s. t.  sum(x) = 1, x >= 0      an interior-point method

``jax.export`` turns each into a file. The size b is symbolic, so one file works for every batch size. With
``vjp_order=1`` the file also contains the gradient, which comes from the optimality conditions: no iteration is
differentiated. A second Python process reads the files with only jax and numpy. Its solutions and gradients are
compared with those of this process.

The layers return dictionaries of arrays. A named tuple, such as a state of a solver, would have to be registered with
``jax.export.register_namedtuple_serialization`` in both processes. All solvers of jaxsolve can be exported with a
symbolic batch size, except ``CvxpyQP`` and ``ExternalOSQP``, which call programs outside of JAX.

The files are for the platform "cpu" and, as jax promises, for versions of jax of the next six months. Writing them
takes the package flatbuffers (``pip install flatbuffers``, or the extra ``export`` of jaxsolve).

Reference: the page "Exporting and serializing staged-out computations" of the documentation of JAX.

::

    python examples/export_solver.py
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

import jaxsolve

jax.config.update("jax_enable_x64", True)

NUM_FEATURES, NUM_ASSETS = 5, 6

# The whole program of the second process. Its arguments are the folder of the files and the names of the layers.
LOADER = """
import sys

import jax
import numpy as np
from jax import export

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_platforms", "cpu")
folder, *names = sys.argv[1:]
for name in names:
    with open(f"{folder}/{name}.jaxexport", "rb") as file:
        layer = export.deserialize(bytearray(file.read()))

    def loss(inputs):
        outputs = layer.call(inputs)
        return (outputs["x"] ** 2).sum(), outputs

    run = jax.jit(jax.grad(loss, has_aux=True))
    results = {}
    for key, inputs in np.load(f"{folder}/{name}_inputs.npz").items():
        gradient, outputs = run(inputs)
        results |= {f"gradient_{key}": gradient, f"x_{key}": outputs["x"], f"status_{key}": outputs["status"]}
    np.savez(f"{folder}/{name}_results.npz", **results)
print("the process that loads has imported jaxsolve:", "jaxsolve" in sys.modules)
"""


# ---- The layers ---------------------------------------------------------------------------------------------------


def logistic_layer(num_samples=20, seed=0):
    """The regularized logistic regressions with centers ``a``, a function of an array of shape (b, NUM_FEATURES)."""
    rng = np.random.default_rng(seed)
    Z = jnp.asarray(rng.normal(size=(num_samples, NUM_FEATURES)))
    y = jnp.sign(Z[:, 0] + 0.5 * rng.normal(size=num_samples))

    def fun(x, a):
        return jnp.sum(jnp.logaddexp(0.0, -y * (Z @ x))) + 0.5 * jnp.sum((x - a) ** 2)

    solver = jaxsolve.LBFGS(fun, tol=1e-8)

    def regression(a):
        x, state = solver.run(jnp.zeros(NUM_FEATURES), a)
        return {"x": x, "status": state.status}

    return jax.vmap(regression)


def portfolio_layer(risk_aversion=8.0, seed=0):
    """The portfolios for predicted returns ``r``, a function of an array of shape (b, NUM_ASSETS)."""
    rng = np.random.default_rng(seed)
    factors = rng.normal(size=(NUM_ASSETS, 3))
    S = jnp.asarray(factors @ factors.T + 0.5 * np.eye(NUM_ASSETS))
    ones = jnp.ones((1, NUM_ASSETS))

    def portfolio(r):
        result = jaxsolve.solve_qp(risk_aversion * S, -r, A=ones, b=jnp.ones(1), l=0.0)
        return {"x": result.x, "status": result.status}

    return jax.vmap(portfolio)


LAYERS = {"logistic": (logistic_layer, NUM_FEATURES), "portfolio": (portfolio_layer, NUM_ASSETS)}


# ---- Export and load ----------------------------------------------------------------------------------------------


def export_layer(layer, num_inputs):
    """The layer and its gradient for any batch size, as bytes."""
    (b,) = export.symbolic_shape("b")
    exported = export.export(jax.jit(layer), platforms=["cpu"])(jax.ShapeDtypeStruct((b, num_inputs), jnp.float64))
    return exported.serialize(vjp_order=1)


def run_elsewhere(folder, names):
    """Run the loader in a process of its own; returns what it prints."""
    command = [sys.executable, "-c", LOADER, str(folder), *names]
    return subprocess.run(command, check=True, capture_output=True, text=True, cwd=folder).stdout


def gradient_and_outputs(layer):
    """The gradient of the sum of squares of the solutions, and the outputs of the layer, as a compiled function."""

    def loss(inputs):
        outputs = layer(inputs)
        return jnp.sum(outputs["x"] ** 2), outputs

    return jax.jit(jax.grad(loss, has_aux=True))


def compare(found, key, run, inputs):
    """Largest differences of solutions and gradients, and whether all programs converged elsewhere."""
    gradient, outputs = run(inputs)
    solutions = float(jnp.max(jnp.abs(found[f"x_{key}"] - outputs["x"])))
    gradients = float(jnp.max(jnp.abs(found[f"gradient_{key}"] - gradient)))
    return solutions, gradients, bool(np.all(found[f"status_{key}"] == jaxsolve.Status.CONVERGED))


def main(names=tuple(LAYERS), batch_sizes=(1, 7)):
    """Export, load elsewhere, compare; returns rows of differences and convergence, and what the loader printed."""
    start = time.perf_counter()
    rng = np.random.default_rng(1)
    layers = {name: LAYERS[name][0]() for name in names}
    batches = {name: {str(size): rng.normal(size=(size, LAYERS[name][1])) for size in batch_sizes} for name in names}
    rows = []
    with tempfile.TemporaryDirectory() as name_of_folder:
        folder = Path(name_of_folder)
        for name, layer in layers.items():
            (folder / f"{name}.jaxexport").write_bytes(export_layer(layer, LAYERS[name][1]))
            np.savez(folder / f"{name}_inputs.npz", **batches[name])
        printed = run_elsewhere(folder, names)
        print(printed, end="")
        print(f"{'layer':12}{'file':>9}{'batch':>7}{'solutions differ':>18}{'gradients differ':>18}{'converged':>11}")
        for name, layer in layers.items():
            kilobytes = (folder / f"{name}.jaxexport").stat().st_size / 1e3
            found = np.load(folder / f"{name}_results.npz")
            run = gradient_and_outputs(layer)
            for key, inputs in batches[name].items():
                rows.append(compare(found, key, run, inputs))
                solutions, gradients, converged = rows[-1]
                print(f"{name:12}{kilobytes:6.0f} kB{key:>7}{solutions:18.1e}{gradients:18.1e}{converged!s:>11}")
    print(f"{time.perf_counter() - start:.0f} s")
    return rows, printed


if __name__ == "__main__":
    rows, _ = main()
    sys.exit(not all(converged and max(differences) < 1e-9 for *differences, converged in rows))
