"""What the mechanism between ``run`` and the compiled program costs: warm, cold, and in loops that change captures.

    python benchmarks/mechanism.py                  everything; a few minutes
    python benchmarks/mechanism.py /other/checkout  also compares cold starts with another checkout of the package

Warm times are medians, of an eager call and of the same call under ``jax.jit``. Cold times are CPU seconds of a fresh
process each, the two checkouts in turn, so that other work on the machine matters little.
"""

import os
import pathlib
import statistics
import subprocess
import sys
import time

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

COLD = """
import sys, time, jax, jax.numpy as jnp, numpy as np
jax.config.update("jax_enable_x64", True)
import jaxsolve
rng = np.random.default_rng(0)
X, y = jnp.asarray(rng.normal(size=(1000, 10))), jnp.asarray(np.sign(rng.normal(size=1000)))
fun = lambda w, l, X, y: jnp.mean(jnp.logaddexp(0.0, -y * (X @ w))) + l * jnp.sum(w**2)
solver, w = jaxsolve.LBFGS(fun, tol=1e-6), jnp.zeros(10)
jax.jit(jnp.linalg.cholesky)(jnp.eye(3))
start = time.process_time()
if sys.argv[1] == "run":
    jax.block_until_ready(solver.run(w, 0.1, X, y))
else:
    jax.block_until_ready(jax.grad(lambda l: solver.run(w, l, X, y).params.sum())(0.1))
print(time.process_time() - start)
"""


def cold(what, checkout):
    """CPU seconds of a first call in a fresh process."""
    env = {**os.environ, "PYTHONPATH": str(checkout)}
    command = [sys.executable, "-c", COLD, what]
    out = subprocess.run(command, cwd=checkout, env=env, check=True, capture_output=True, text=True)
    return float(out.stdout)


def median(call, repeat=50):
    """Milliseconds of a call."""
    call()
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        call()
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times)


def warm(name, fun, bar):
    """An eager run beside the same run under jit."""
    solver, x = jaxsolve.LBFGS(fun), jnp.zeros(3)
    jitted = jax.jit(lambda x: solver.run(x))
    eager, inside = (
        median(lambda: jax.block_until_ready(solver.run(x))),
        median(lambda: jax.block_until_ready(jitted(x))),
    )
    print(f"{name:38s} eager {eager:8.3f} ms   jit {inside:8.3f} ms   more {eager - inside:8.3f} ms   bar {bar}")


def replaced_arrays():
    """A module in training: every turn replaces what the objective captures."""

    class Model:
        value = jnp.ones(3)

        def loss(self, x):
            return jnp.sum(jnp.logaddexp(0.0, jax.nn.relu(x) - self.value) + (x - self.value) ** 2)

    model, traces = Model(), []
    compiled = jaxsolve._compile._Program
    programs = []
    jaxsolve._compile._Program = lambda *args: (programs.append(1), compiled(*args))[1]
    for i in range(12):
        model.value = jnp.full(3, float(i))
        start = time.perf_counter()
        jax.block_until_ready(jaxsolve.LBFGS(model.loss).run(jnp.zeros(3)))
        traces.append(1e3 * (time.perf_counter() - start))
    jaxsolve._compile._Program = compiled
    solver = jaxsolve.LBFGS(model.loss)

    def trace():
        model.value = model.value + 1.0
        return jax.make_jaxpr(lambda x: solver.run(x).params)(jnp.zeros(3))

    turn = statistics.median(traces[1:])
    print(
        f"arrays replaced each turn: {len(programs)} program; a turn {turn:.1f} ms, a trace {median(trace, 7):.1f} ms"
    )


def fresh_lambdas():
    """A new function and a new solver each turn, over the same data."""
    c = jnp.arange(3.0)
    turn = median(lambda: jax.block_until_ready(jaxsolve.LBFGS(lambda x: jnp.sum((x - c) ** 2)).run(jnp.zeros(3))), 20)
    print(f"fresh lambda and solver each turn, same data: a turn {turn:.2f} ms")


def eager_update():
    """One step of L-BFGS outside of jit."""
    solver, x = jaxsolve.LBFGS(lambda x: jnp.sum((x - 1) ** 4)), jnp.zeros(3)
    state = solver.init_state(x)
    print(f"eager update of L-BFGS, d = 3: {median(lambda: jax.block_until_ready(solver.update(x, state))):.3f} ms")


def many_solvers(count=300):
    """Fresh lambdas that capture fresh arrays: memory at the end against that after a tenth."""
    import resource

    def solve(i):
        c = jnp.full(1000, float(i))
        jaxsolve.GradientDescent(lambda x: jnp.sum((x - c) ** 2), maxiter=2).run(jnp.zeros(1000))
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    sizes = [solve(i) for i in range(count)]
    print(
        f"{count} solvers over fresh lambdas with fresh arrays: {sizes[count // 10]:.0f} MiB, then {sizes[-1]:.0f} MiB"
    )


if __name__ == "__main__":
    here = pathlib.Path(__file__).resolve().parent.parent
    for what in ("run", "grad"):
        mine, other = [], []
        for _ in range(5):
            mine.append(cold(what, here))
            other.extend(cold(what, path) for path in sys.argv[1:2])
        line = f"cold first {what} of L-BFGS, d = 10: {statistics.median(mine):.2f} CPU s"
        if other:
            theirs = statistics.median(other)
            line += f"; other checkout {theirs:.2f}, ratio {statistics.median(mine) / theirs:.2f}"
        print(line, flush=True)

    import jax
    import jax.numpy as jnp

    import jaxsolve

    few, many = ([jnp.full(3, 0.1 * i) for i in range(n)] for n in (10, 300))
    words = [str(i) for i in range(1_000_000)]
    warm("closure over 10 arrays", lambda x: sum(jnp.sum((x - c) ** 2) for c in few), "1.5 x jit or + 0.3 ms")
    warm("closure over 300 arrays", lambda x: jnp.sum((x - sum(many)) ** 2), "+ 1 ms")
    try:
        from flax import nnx
    except ImportError:
        print("flax is not installed: no model of nnx")
    else:

        class Net(nnx.Module):
            """150 layers, 300 arrays."""

            def __init__(self):
                self.layers = nnx.List([nnx.Linear(3, 3, rngs=nnx.Rngs(i)) for i in range(150)])

            def __call__(self, x):
                """The sum of all layers."""
                return sum(layer(x) for layer in self.layers)

        net = Net()
        warm("nnx model of 300 arrays", lambda x: jnp.sum((x - net(jnp.ones(3))) ** 2), "+ 15 ms")
    warm("list of a million strings", lambda x: jnp.sum((x - 1.0) ** 2) + len(words), "+ 50 ms")
    eager_update()
    fresh_lambdas()
    replaced_arrays()
    many_solvers()
