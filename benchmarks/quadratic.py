"""Quadratic programs: batches against qpax, and the problems of Maros and Meszaros and of Netlib.

    python benchmarks/quadratic.py --rounds 9                      batches, forward and gradient
    python benchmarks/quadratic.py --problems folder/*.npz         one line a problem

A problem file holds P (optional), A in compressed columns, q, l, u, the constant r and a reference optimum.
"""

import argparse
import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse
from _timing import interleaved, report, seconds

import jaxsolve

jax.config.update("jax_enable_x64", True)
BATCHES = ((128, 10, 20), (64, 50, 50), (8, 200, 200))


def random_batch(size, n, m, seed=0):
    """Feasible problems with a well-conditioned Q: ``(Q, c, G, h)``, each with a leading axis."""
    rng = np.random.default_rng(seed)
    M, G = rng.normal(size=(size, n, n)), rng.normal(size=(size, m, n))
    Q = M @ M.transpose(0, 2, 1) / n + 0.1 * np.eye(n)
    h = np.einsum("bij,bj->bi", G, rng.normal(size=(size, n))) + rng.uniform(0, 1, (size, m))
    return tuple(jnp.asarray(part) for part in (Q, rng.normal(size=(size, n)), G, h))


def largest_residual(Q, c, G, h, x, z):
    """Largest violation, residual of stationarity, and complementary product of the batch."""
    stationarity = jnp.einsum("bij,bj->bi", Q, x) + c + jnp.einsum("bji,bj->bi", G, z)
    slack = h - jnp.einsum("bij,bj->bi", G, x)
    return float(max(jnp.max(jnp.abs(stationarity)), jnp.max(-slack), jnp.max(jnp.abs(slack * z))))


def batches(rounds):
    """Time of a batch, and of its gradient over that of the batch alone."""
    solver = jaxsolve.InteriorPointQP(tol=1e-6)

    def ours(Q, c, G, h):
        return solver.run(None, (Q, c), G, (-jnp.inf, h)).params

    def loss(*data):
        params = jax.vmap(ours)(*data)
        return jnp.sum(params.primal[0]) + jnp.sum(params.dual_eq)

    for size, n, m in BATCHES:
        data = random_batch(size, n, m)
        forward, gradient = jax.jit(jax.vmap(ours)), jax.jit(jax.grad(loss, argnums=(0, 1, 2, 3)))
        calls = {"jaxsolve": functools.partial(forward, *data), "with gradient": functools.partial(gradient, *data)}
        params = forward(*data)
        residuals = {"jaxsolve": largest_residual(*data, params.primal[0], params.dual_eq)}
        try:
            import qpax
        except ImportError:
            print("qpax is not installed: no peer")
        else:
            A, b = jnp.zeros((0, n)), jnp.zeros(0)
            peer = jax.jit(jax.vmap(lambda Q, c, G, h, A=A, b=b: qpax.solve_qp(Q, c, A, b, G, h, solver_tol=1e-6)))
            calls["qpax"] = functools.partial(peer, *data)
            found = peer(*data)
            residuals["qpax"] = largest_residual(*data, found[0], found[2])
        for call in calls.values():
            seconds(call)
        report(f"{size} problems, n = {n}, m = {m}", interleaved(calls, rounds))
        print("    residuals:", ", ".join(f"{name} {value:.1e}" for name, value in residuals.items()))


def load(path):
    """``(P, q, A, l, u, r, optimum)`` of a problem file, the matrices sparse."""
    data = np.load(path)
    n, m = len(data["q"]), len(data["l"])

    def matrix(name, shape):
        if f"{name}_data" not in data:
            return scipy.sparse.csc_matrix(shape)
        return scipy.sparse.csc_matrix(tuple(data[f"{name}_{part}"] for part in ("data", "indices", "indptr")), shape)

    optimum = data["obj_ref"] if "obj_ref" in data else data["obj_opt"]
    constant = float(data["r"]) if "r" in data else 0.0
    return matrix("P", (n, n)), data["q"], matrix("A", (m, n)), data["l"], data["u"], constant, float(optimum)


def problems(paths):
    """Status, iterations, and relative error of the objective, of each problem to 1e-6."""
    solver, missed = jaxsolve.InteriorPointQP(tol=1e-6), []
    for path in map(pathlib.Path, paths):
        P, q, A, lower, upper, constant, optimum = load(path)
        params, state = solver.run(None, (P.toarray(), q), A.toarray(), (lower, upper))
        error = abs(float(state.value) + constant - optimum) / max(1, abs(optimum), abs(constant))
        good = int(state.status) == 1 and error <= 1e-6
        missed += [] if good else [path.stem]
        print(f"{path.stem:10} n {q.size:5} rows {lower.size:5} {jaxsolve.Status(int(state.status)).name:18}", end="")
        print(f" iterations {int(state.iter_num):3} objective {error:.1e} {'' if good else 'MISSED'}", flush=True)
    print(f"missed: {missed}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--problems", nargs="*")
    arguments = parser.parse_args()
    problems(arguments.problems) if arguments.problems else batches(arguments.rounds)
