"""What a device does: time of each solver beside the arithmetic and the memory traffic that its algorithm needs.

    python benchmarks/accelerator.py                 sizes for a GPU, in float32 and float64
    python benchmarks/accelerator.py --small         sizes for a CPU
    python benchmarks/accelerator.py --parts logreg  one of logreg, batches, projections, unrolled
    python benchmarks/accelerator.py --output FILE   the rows as lines of JSON too

The first rows are the two ceilings, measured here: a copy of a large array, bytes read plus bytes written, and a
product of two large matrices. Each further row counts the operations and bytes of its algorithm by hand, for the
iterations and evaluations that the states report, and divides them by the time. The bytes are those that must move if
every array is read once where it is used; the larger of the two shares of the ceilings says how far the row is from
what the device can do. Each result is checked, and the row is not printed if it is wrong.
"""

import argparse
import json
import platform
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from _timing import interleaved, seconds

import jaxsolve
from jaxsolve import projection
from jaxsolve.prox import prox_lasso

jax.config.update("jax_enable_x64", True)


class Row(NamedTuple):
    """One line of the table; ``flops`` and ``bytes`` are what the algorithm needs."""

    name: str
    seconds: float
    flops: float
    bytes: float
    note: str


class Sizes(NamedTuple):
    """How large the problems are."""

    copy: int
    product: int
    samples: int
    features: int
    batches: tuple
    rows: tuple
    horizon: tuple


LARGE = Sizes(2**28, 8192, 2**19, 512, ((4096, 10, 20), (1024, 50, 50), (64, 200, 200)), (2**16, 1024), (10, 100, 1000))
SMALL = Sizes(2**22, 512, 2**10, 16, ((16, 10, 20),), (64, 32), (10, 100))


def median(call, rounds):
    """Median seconds of a compiled call that ran once before."""
    seconds(call)
    return interleaved({"": call}, rounds)[""]


def ceilings(sizes, dtype, rounds):
    """Seconds, operations and bytes of a copy and of a matrix product."""
    x = jnp.ones(sizes.copy, dtype)
    copy = jax.jit(lambda x: x + 1)
    yield Row("copy", median(lambda: copy(x), rounds), sizes.copy, 2 * x.nbytes, f"{x.nbytes / 2**20:.0f} MiB")
    d = sizes.product
    a = jnp.asarray(np.random.default_rng(0).normal(size=(d, d)), dtype)
    product = jax.jit(lambda a: jnp.matmul(a, a, precision="highest"))
    yield Row("matrix product", median(lambda: product(a), rounds), 2 * d**3, 3 * a.nbytes, f"{d} x {d}")


def logistic(w, X, y):
    return jnp.mean(jax.nn.softplus(-y * (X @ w))) + 0.5e-3 * jnp.sum(w**2)


def logreg(sizes, dtype, rounds):
    """Logistic regression: an evaluation of value and gradient reads the data twice, with 4 n d operations."""
    rng = np.random.default_rng(0)
    n, d = sizes.samples, sizes.features
    X = rng.normal(size=(n, d)).astype(dtype)
    y = np.sign(X @ rng.normal(size=d) + rng.normal(size=n)).astype(dtype)
    X, y, w = jnp.asarray(X), jnp.asarray(y), jnp.zeros(d, dtype)
    tol = 1e-4 if dtype == np.float32 else 1e-8
    solvers = {
        "LBFGS": (jaxsolve.LBFGS(logistic, tol=tol), (w, X, y)),
        "ProximalGradient": (jaxsolve.ProximalGradient(logistic, prox_lasso, tol=tol), (w, 1e-3, X, y)),
    }
    for name, (solver, args) in solvers.items():
        run = jax.jit(solver.run)
        state = run(*args).state
        if int(state.status) != 1:
            print(f"{name}: {jaxsolve.Status(int(state.status)).name}, error {float(state.error):.1e}")
            continue
        passes = int(state.num_fun_eval) + int(state.num_grad_eval)
        note = f"{int(state.iter_num)} iterations, {passes} passes over the data"
        took = median(lambda run=run, args=args: run(*args), rounds)
        yield Row(f"{name}, {n} x {d}", took, 2.0 * n * d * passes, float(X.nbytes) * passes, note)


def random_programs(size, n, m, dtype):
    """Feasible strictly convex programs ``(Q, c, G, h)`` with a leading axis."""
    rng = np.random.default_rng(0)
    M, G = rng.normal(size=(size, n, n)), rng.normal(size=(size, m, n))
    Q = M @ M.transpose(0, 2, 1) / n + 0.1 * np.eye(n)
    h = np.einsum("bij,bj->bi", G, rng.normal(size=(size, n))) + rng.uniform(0, 1, (size, m))
    return tuple(jnp.asarray(part, dtype) for part in (Q, rng.normal(size=(size, n)), G, h))


def batches(sizes, dtype, rounds):
    """Batches of quadratic programs: an iteration of the interior point forms and factorizes an n x n matrix."""
    tol = 1e-3 if dtype == np.float32 else 1e-6
    item = np.dtype(dtype).itemsize
    for size, n, m in sizes.batches:
        data = random_programs(size, n, m, dtype)
        for method in ("interior_point", "osqp"):

            def solve(Q, c, G, h, method=method):
                result = jaxsolve.solve_qp(Q, c, G=G, h=h, method=method, tol=tol)
                return result.x, result.iter_num, result.status

            run = jax.jit(jax.vmap(solve))
            x, iterations, status = run(*data)
            violation = float(jnp.max(jnp.einsum("bij,bj->bi", data[2], x, precision="highest") - data[3]))
            solved = float(jnp.mean(status == 1))
            if violation > 100 * tol or solved < 0.99:
                print(f"{method}: violation {violation:.1e}, solved {solved:.3f}")
                continue
            # Every element does as many iterations as the slowest. A turn of the interior point: G'DG, a factor, two
            # pairs of solves and products. One of splitting: a pair of solves and of products.
            turns = int(jnp.max(iterations))
            one = n * n * (m + n / 3) + 8 * n * (n + m) if method == "interior_point" else 2 * n * n + 4 * m * n
            read = (n * n + m * n) * (3 if method == "interior_point" else 2) * item
            note = f"{turns} iterations, {100 * solved:.1f} % solved, violation {max(violation, 0):.0e}"
            took = median(lambda run=run, data=data: run(*data), rounds)
            yield Row(f"{method}, {size} of ({n}, {m})", took, size * turns * one, size * turns * read, note)


def projections(sizes, dtype, rounds):
    """Rows of a matrix: each is read and written once at least."""
    rows, columns = sizes.rows
    x = jnp.asarray(np.random.default_rng(0).normal(size=(rows, columns)), dtype)
    weights = jnp.arange(columns, 0, -1, dtype=dtype)
    calls = {
        "simplex": projection.projection_simplex,
        "l1 ball": projection.projection_l1_ball,
        "box": lambda row: projection.projection_box(row, (-1.0, 1.0)),
        "entmax": projection.entmax,
        "permutahedron": lambda row: projection.projection_permutahedron(row, weights),
    }
    sums = {"simplex": 1.0, "entmax": 1.0, "permutahedron": float(jnp.sum(weights))}
    for name, fun in calls.items():
        run = jax.jit(jax.vmap(fun))
        off = float(jnp.max(jnp.abs(jnp.sum(run(x), axis=1) / sums[name] - 1))) if name in sums else 0.0
        if off > 1e-3:
            print(f"{name}: sums are off by {off:.1e}")
            continue
        took = median(lambda run=run: run(x), rounds)
        yield Row(
            f"{name}, {rows} x {columns}", took, 0.0, 2.0 * x.nbytes, f"sums to {off:.0e}" if name in sums else ""
        )


def ridge(w, l2reg, X, y):
    return 0.5 * jnp.mean((X @ w - y) ** 2) + 0.5 * l2reg * jnp.sum(w**2)


def unrolled(sizes, dtype, rounds):
    """The derivative of a norm of the solution of ridge regression: implicit, and through the iterations."""
    rng = np.random.default_rng(0)
    n, d = max(sizes.samples // 64, 64), sizes.features
    X, y = jnp.asarray(rng.normal(size=(n, d)), dtype), jnp.asarray(rng.normal(size=n), dtype)
    for implicit in (True, False):
        for steps in sizes.horizon:
            solver = jaxsolve.GradientDescent(
                ridge, maxiter=steps, tol=0.0, stepsize=0.5, acceleration=False, implicit_diff=implicit
            )

            def loss(l2reg, X, y, solver=solver):
                return jnp.sum(solver.run(jnp.zeros(d, dtype), l2reg, X, y).params ** 2)

            gradient = jax.jit(jax.value_and_grad(loss)).lower(jnp.asarray(0.1, dtype), X, y).compile()
            value = float(gradient(jnp.asarray(0.1, dtype), X, y)[1])
            memory = gradient.memory_analysis()
            kind = "implicit" if implicit else "unrolled"
            note = f"{memory.temp_size_in_bytes / 2**20:.1f} MiB of temporary memory, derivative {value:.4e}"
            took = median(lambda gradient=gradient: gradient(jnp.asarray(0.1, dtype), X, y), rounds)
            passes = steps * (2 if implicit else 4)
            yield Row(f"{kind}, {steps} steps, {n} x {d}", took, 2.0 * n * d * passes, float(X.nbytes) * passes, note)


PARTS = {"logreg": logreg, "batches": batches, "projections": projections, "unrolled": unrolled}


def measure(sizes, dtypes, rounds, parts=tuple(PARTS)):
    """Print the table, and return its rows as dictionaries."""
    device = jax.devices()[0]
    print(f"{device.device_kind}, jax {jax.__version__}, Python {platform.python_version()}, medians of {rounds} runs")
    found = []
    for dtype in dtypes:
        print(f"\n{np.dtype(dtype)}\n{'':44}{'ms':>10}{'GFLOP/s':>10}{'GB/s':>8}{'share':>7}")
        rates = bandwidth = np.inf
        for part in (ceilings, *(PARTS[name] for name in parts)):
            for row in part(sizes, dtype, rounds):
                flops, moved = row.flops / row.seconds, row.bytes / row.seconds
                if part is ceilings:
                    bandwidth, rates = (moved, rates) if row.name == "copy" else (bandwidth, flops)
                share = max(flops / rates, moved / bandwidth)
                numbers = f"{1e3 * row.seconds:10.3f}{flops / 1e9:10.1f}{moved / 1e9:8.1f}{share:7.2f}"
                print(f"{row.name:44}{numbers}  {row.note}", flush=True)
                found.append({"dtype": str(np.dtype(dtype)), **row._asdict(), "share": share})
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--parts", nargs="*", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--dtypes", nargs="*", default=["float32", "float64"])
    parser.add_argument("--output")
    options = parser.parse_args()
    sizes = SMALL if options.small else LARGE
    found = measure(sizes, [np.dtype(name) for name in options.dtypes], options.rounds, options.parts)
    if options.output:
        with open(options.output, "w") as file:
            file.writelines(json.dumps(row) + "\n" for row in found)


if __name__ == "__main__":
    main()
