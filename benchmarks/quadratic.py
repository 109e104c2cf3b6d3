"""Quadratic programs: batches against qpax, JAXopt and OSQP in C, and the problems of Maros and Meszaros and of Netlib.

    python benchmarks/quadratic.py --rounds 9                      first calls, batches, and one large problem
    python benchmarks/quadratic.py --parts first                   one of these
    python benchmarks/quadratic.py --problems folder/*.npz         one line a problem
    python benchmarks/quadratic.py --solver BoxOSQP --problems ... the same by operator splitting
    python benchmarks/quadratic.py --sparse --problems ...         by operator splitting without a factorization

A problem file holds P (optional), A in compressed columns, q, l, u, the constant r and a reference optimum.
"""

import argparse
import functools
import os
import pathlib
import statistics
import subprocess
import sys
import time
import warnings

# On a busy machine threads of OpenBLAS wait for each other: a factorization of size 1000 took 1300 ms, with one 11 ms.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

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


def osqp_in_c(Q, c, G, h):
    """One problem by the C library, to the same tolerance: ``(x, z)``."""
    import osqp

    solver = osqp.OSQP()
    Q, c, G, h = (np.asarray(part) for part in (Q, c, G, h))
    lower = np.full(h.size, -np.inf)
    options = {"eps_abs": 1e-6, "eps_rel": 1e-6, "max_iter": 100_000, "polishing": True, "verbose": False}
    solver.setup(scipy.sparse.csc_matrix(Q), c, scipy.sparse.csc_matrix(G), lower, h, **options)
    found = solver.solve()
    return found.x, found.y


def peers(data):
    """The batch by other libraries, as far as they are installed: ``{name: () -> (x, z)}``."""
    calls = {}
    n = data[1].shape[1]
    try:
        import qpax
    except ImportError:
        print("qpax is not installed")
    else:
        A, b = jnp.zeros((0, n)), jnp.zeros(0)
        solve = jax.jit(jax.vmap(lambda Q, c, G, h: qpax.solve_qp(Q, c, A, b, G, h, solver_tol=1e-6)))
        calls["qpax"] = lambda: [solve(*data)[i] for i in (0, 2)]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import jaxopt
    except ImportError:
        print("JAXopt is not installed")
    else:
        peer = jaxopt.OSQP(tol=1e-6, maxiter=20_000, eq_qp_solve="lu")
        run = jax.jit(jax.vmap(lambda Q, c, G, h: peer.run(params_obj=(Q, c), params_ineq=(G, h)).params))
        calls["JAXopt OSQP"] = lambda: [getattr(run(*data), name) for name in ("primal", "dual_ineq")]
    try:
        import osqp  # noqa: F401  # it is called one problem at a time
    except ImportError:
        print("OSQP is not installed")
    else:
        calls["OSQP in C"] = lambda: [
            np.stack(part) for part in zip(*(osqp_in_c(*problem) for problem in zip(*data, strict=True)), strict=True)
        ]
    return calls


def batches(rounds, sizes=BATCHES):
    """Time of a batch, and of its gradient over that of the batch alone."""
    splitting = jaxsolve.OSQP(tol=1e-6, termination_check_frequency=20, stepsize_updates_frequency=40)

    def ours(Q, c, G, h):
        result = jaxsolve.solve_qp(Q, c, G=G, h=h, method="interior_point", tol=1e-6)
        return result.x, result.dual_ineq

    def by_splitting(Q, c, G, h):
        params = splitting.run(None, (Q, c), None, (G, h)).params
        return params.primal, params.dual_ineq

    def loss(*data):
        return sum(jnp.sum(part) for part in jax.vmap(ours)(*data))

    for size, n, m in sizes:
        data = random_batch(size, n, m)
        forward, gradient = jax.jit(jax.vmap(ours)), jax.jit(jax.grad(loss, argnums=(0, 1, 2, 3)))
        calls = {
            "jaxsolve": functools.partial(forward, *data),
            "jaxsolve OSQP": functools.partial(jax.jit(jax.vmap(by_splitting)), *data),
            **peers(data),
        }
        residuals = {name: largest_residual(*data, *call()) for name, call in calls.items()}
        calls["with gradient"] = functools.partial(gradient, *data)
        for call in calls.values():
            seconds(call)
        report(f"{size} problems, n = {n}, m = {m}", interleaved(calls, rounds))
        print("    residuals:", ", ".join(f"{name} {value:.1e}" for name, value in residuals.items()))


def shared(rounds):
    """Batch elements with the same matrices: one eigendecomposition, or one factorization each."""
    solver = jaxsolve.OSQP(tol=1e-6, polish=False, termination_check_frequency=20, stepsize_updates_frequency=40)
    for size, n in ((128, 50), (32, 200)):
        (Q, _, G, _), (_, c, _, _) = (random_batch(k, n, n) for k in (1, size))
        Q, G, h = Q[0], G[0], jnp.ones(n)
        run = jax.vmap(lambda Q, c, G, h=h: solver.run(None, (Q, c), None, (G, h)).params, in_axes=(None, 0, None))
        own = jax.vmap(lambda Q, c, G, h=h: solver.run(None, (Q, c), None, (G, h)).params)
        copies = [jnp.broadcast_to(part, (size, *part.shape)) for part in (Q, G)]
        calls = {
            "jaxsolve": functools.partial(jax.jit(run), Q, c, G),
            "own matrices": functools.partial(jax.jit(own), copies[0], c, copies[1]),
        }
        for call in calls.values():
            seconds(call)
        report(f"{size} problems with the same matrices, n = m = {n}", interleaved(calls, rounds))


def large(rounds):
    """One problem with n = m = 1000, dense."""
    data = random_batch(1, 1000, 1000)
    Q, c, G, h = (part[0] for part in data)
    run = jax.jit(lambda *data: jaxsolve.OSQP(tol=1e-6).run(None, data[:2], None, data[2:]).params)
    interior = jax.jit(lambda Q, c, G, h: jaxsolve.InteriorPointQP(tol=1e-6).run(None, (Q, c), G, (-jnp.inf, h)).params)
    calls = {
        "jaxsolve": lambda: run(Q, c, G, h),
        "interior point": lambda: interior(Q, c, G, h),
        "OSQP in C": lambda: osqp_in_c(Q, c, G, h),
    }
    for call in calls.values():
        seconds(call)
    report("one problem, n = m = 1000", interleaved(calls, max(3, rounds // 3)))
    params, inside, (x, z) = (call() for call in calls.values())
    found = ((params.primal, params.dual_ineq), (inside.primal[0], inside.dual_eq), (jnp.asarray(x), jnp.asarray(z)))
    residuals = [largest_residual(*data, x[None], z[None]) for x, z in found]
    print("    residuals:", ", ".join(f"{value:.1e}" for value in residuals))


_FIRST = {
    "jaxsolve": "lambda c: jaxsolve.OSQP().run(None, (Q, c), None, (G, h)).params.primal",
    "interior point": "lambda c: jaxsolve.solve_qp(Q, c, G=G, h=h, method='interior_point').x",
    "JAXopt": "lambda c: jaxopt.OSQP().run(None, (Q, c), None, (G, h)).params.primal",
}


def first_calls(rounds):
    """CPU seconds of the first call in a process, compilation included, of a problem with 10 variables."""
    for what, wrapped in (("run", "(solve)(c)"), ("gradient", "jax.grad(lambda c: jnp.sum((solve)(c)))(c)")):
        times = {name: [] for name in _FIRST}
        for _ in range(rounds):
            for name, solve in _FIRST.items():
                library = "jaxopt" if name == "JAXopt" else "jaxsolve"
                program = (
                    f"import sys, time; sys.path.insert(0, {str(pathlib.Path(__file__).parent)!r})\n"
                    f"from quadratic import *; import {library}\n"
                    "Q, c, G, h = (part[0] for part in random_batch(1, 10, 20))\n"
                    f"start = time.process_time(); jax.block_until_ready({wrapped.replace('(solve)', f'({solve})')})\n"
                    "print(time.process_time() - start)"
                )
                done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True)
                times[name].append(float(done.stdout) if done.returncode == 0 else float("nan"))
        report(f"first {what} of a process, CPU time", {name: statistics.median(t) for name, t in times.items()})


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


def problems(paths, name, sparse):
    """Status, iterations, and relative error of the objective, of each problem."""
    from jax.experimental.sparse import BCOO

    tol = 1e-4 if sparse else 1e-6
    options = {"tol": tol} if name == "InteriorPointQP" else {"tol": tol, "maxiter": 4000 if sparse else 20_000}
    if sparse:
        name, options["eq_qp_solve"] = "BoxOSQP", "cg"
    solver, missed = getattr(jaxsolve, name)(**options), []
    for path in map(pathlib.Path, paths):
        P, q, A, lower, upper, constant, optimum = load(path)
        matrices = [BCOO.from_scipy_sparse(part) if sparse else part.toarray() for part in (P, A)]
        start = time.perf_counter()
        params, state = jax.block_until_ready(solver.run(None, (matrices[0], q), matrices[1], (lower, upper)))
        taken = time.perf_counter() - start
        error = abs(float(state.value) + constant - optimum) / max(1, abs(optimum), abs(constant))
        good = int(state.status) == 1 and error <= (tol if not sparse else np.inf)
        missed += [] if good else [path.stem]
        print(f"{path.stem:10} n {q.size:5} rows {lower.size:5} {jaxsolve.Status(int(state.status)).name:18}", end="")
        print(f" iterations {int(state.iter_num):5} error {float(state.error):.1e} objective {error:.1e}", end="")
        print(f" {taken:6.1f} s {'' if good else 'MISSED'}", flush=True)
    print(f"missed: {missed}")


PARTS = {"first": first_calls, "batches": batches, "shared": shared, "large": large}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=PARTS)
    parser.add_argument("--problems", nargs="*")
    parser.add_argument("--solver", default="InteriorPointQP", choices=("InteriorPointQP", "BoxOSQP"))
    parser.add_argument("--sparse", action="store_true")
    arguments = parser.parse_args()
    if arguments.problems:
        problems(arguments.problems, arguments.solver, arguments.sparse)
    else:
        for part in arguments.parts:
            PARTS[part](arguments.rounds)
