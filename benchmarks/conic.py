"""Conic programs: problems of CBLIB and SDPLIB from files, random ones against Clarabel, and batches.

    python benchmarks/conic.py --problems folder/*.npz     one line a problem
    python benchmarks/conic.py --fuzz 500                  random programs, solvable and not, against Clarabel
    python benchmarks/conic.py --batches                   batches of 64 against a Python loop over Clarabel
    python benchmarks/conic.py --dtype float32 --fuzz 100  how accurate float32 is

A problem file holds c, A in compressed columns, b, the cones in the order of SCS, a status and a reference optimum.
"""

import argparse
import collections
import functools
import os
import pathlib
import statistics
import time

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import clarabel
import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse
from _timing import interleaved, report

import jaxsolve
from jaxsolve import Cones, Status

jax.config.update("jax_enable_x64", True)

KINDS = {
    "soc": Cones(zero=1, nonneg=2, soc=(3, 4)),
    "psd": Cones(zero=1, nonneg=1, psd=(3, 3)),
    "exp": Cones(zero=1, nonneg=1, exp=3),
    "power": Cones(zero=1, nonneg=1, power=(0.2, 0.5)),
    "all": Cones(zero=1, nonneg=2, soc=(3,), psd=(2,), exp=1, power=(0.3,)),
}


def by_clarabel(data, cones, tol=1e-8):
    """Clarabel's solution object."""
    P, c, A, b = data
    theirs, rows = cones.to_clarabel()
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = tol
    triangle = scipy.sparse.triu(np.asarray(P)).tocsc()
    return clarabel.DefaultSolver(
        triangle, np.asarray(c), scipy.sparse.csc_matrix(np.asarray(A)[rows]), np.asarray(b)[rows], theirs, settings
    ).solve()


def by_clarabel_in_turn(programs, cones):
    return [by_clarabel(data, cones).x for data in programs]


@functools.cache
def solver_of(cones, batched=False):
    def solve(*data):
        return jaxsolve.solve_conic(*data, cones, method="interior_point")

    return jax.jit(jax.vmap(solve) if batched else solve)


# ---- Problems from files --------------------------------------------------------------------------------------------


def read(path):
    """The cones, the data, the known status and the reference optimum of a file."""
    file = np.load(path)
    c, b = file["c"], file["b"]
    A = scipy.sparse.csc_matrix((file["A_data"], file["A_indices"], file["A_indptr"]), shape=(b.size, c.size))
    tuples = {
        name: tuple(np.atleast_1d(file[name]).tolist()) if name in file else () for name in ("soc", "psd", "power")
    }
    counts = {name: int(file[name]) if name in file else 0 for name in ("zero", "nonneg", "exp")}
    return Cones(**tuples, **counts), (None, c, A.toarray(), b), str(file["status"]), float(file["obj_ref"])


def problems(paths):
    """One line a problem; how many are right."""
    right, iterations = 0, []
    for path in sorted(paths):
        cones, data, known, reference = read(path)
        solve, start = solver_of(cones), time.perf_counter()
        result = jax.block_until_ready(solve(*data))
        first, start = time.perf_counter() - start, time.perf_counter()
        jax.block_until_ready(solve(*data))
        again = time.perf_counter() - start
        status, value = Status(int(result.status)).name, float(result.value)
        off = abs(value - reference) / max(1, abs(reference))
        good = off <= 1e-6 if known == "solved" else known.replace(" ", "_").upper() == status
        right += good
        iterations.append(int(result.iter_num))
        print(
            f"{path.stem:10} n {data[1].size:4} m {cones.num_rows:5} {status:17} {iterations[-1]:3} iterations, "
            f"value {value:.9g}, off {off:.0e}, error {float(result.error):.0e}, "
            f"first {first:.1f} s, again {again:.2f} s" + ("" if good else "   WRONG"),
            flush=True,
        )
    print(f"{right} of {len(iterations)} right, median of iterations {statistics.median(iterations)}")


# ---- Random programs ------------------------------------------------------------------------------------------------


def random_program(cones, n, rng):
    """A program that has a solution, or contradicts itself, or is unbounded; in units that differ."""
    m, kind = cones.num_rows, rng.choice(["solved", "solved", "solved", "infeasible", "unbounded"])
    A, x, v = rng.normal(size=(m, n)), rng.normal(size=n), rng.normal(size=m)
    y = np.asarray(cones.project_dual(v))
    B = rng.normal(size=(n, rng.integers(0, n + 1)))
    P = B @ B.T
    c, b = -P @ x - A.T @ y, A @ x + y - v
    inside = np.asarray(cones.project(rng.normal(size=m))) + 0.1
    if kind == "infeasible":  # A^T y = 0 and b^T y < 0
        A = A - np.outer(y, y @ A) / (y @ y)
        b = b - (1 + b @ y) * y / (y @ y)
    if kind == "unbounded":  # a direction x with P x = 0, -A x in the cones and c^T x < 0
        P = P - np.outer(P @ x, x) / (x @ x)
        P = P - np.outer(x, x @ P) / (x @ x)
        s = np.asarray(cones.project(inside))
        A = A - np.outer(A @ x + s, x) / (x @ x)
        c = c - (1 + c @ x) * x / (x @ x)
        b = A @ rng.normal(size=n) + s  # feasible
    d, cost = 2.0 ** rng.integers(-8, 9, n), 2.0 ** rng.integers(-15, 16)
    return kind, (cost * P * d * d[:, None], cost * c * d, A * d, b)


def fuzz(count, seed, dtype):
    """Statuses, certificates and values of random programs against Clarabel."""
    rng, seen, wrong, off, iterations = np.random.default_rng(seed), collections.Counter(), 0, [], []
    for number in range(count):
        name = list(KINDS)[number % len(KINDS)]
        cones = KINDS[name]
        kind, data = random_program(cones, 5, rng)
        result = solver_of(cones)(*(part.astype(dtype) for part in data))
        status = Status(int(result.status))
        theirs = by_clarabel(data, cones, 1e-9)
        iterations.append(int(result.iter_num))
        seen[kind, status.name] += 1
        good = {"solved": 1, "infeasible": 3, "unbounded": 2}[kind] == status
        if kind == "solved" and good:
            scale = max(abs(theirs.obj_val), abs(float(data[1] @ np.asarray(result.x, float))))
            # Its tolerance is absolute too, which small objectives feel.
            off.append(max(abs(float(result.value) - theirs.obj_val) - 1e-9, 0) / scale)
            good = off[-1] < (1e-6 if dtype == np.float64 else 1e-3) or str(theirs.status) != "Solved"
        if not good:
            wrong += 1
            print(f"{number}: {name}, {kind}: {result}; Clarabel {theirs.status}, {theirs.obj_val:.9g}", flush=True)
    for (kind, status), times in sorted(seen.items()):
        print(f"  {kind:10} {status:17} {times}")
    print(
        f"{wrong} of {count} differ; values off by {np.median(off):.0e} in the median, {max(off):.0e} at most; "
        f"iterations {np.median(iterations)} in the median, {max(iterations)} at most"
    )


# ---- Batches --------------------------------------------------------------------------------------------------------


def batches(rounds, size=64):
    """A batch by one compiled call, and by a loop over Clarabel."""
    for name, cones, n in (
        ("second-order cones, n 20", Cones(nonneg=20, soc=(6, 6, 6)), 20),
        ("semidefinite, k 6", Cones(zero=3, psd=(6,)), 15),
        ("exponential cones, n 20", Cones(nonneg=10, exp=8), 20),
    ):
        rng, programs = np.random.default_rng(0), []
        for _ in range(size):
            A, x, v = rng.normal(size=(cones.num_rows, n)), rng.normal(size=n), rng.normal(size=cones.num_rows)
            y, P = np.asarray(cones.project_dual(v)), np.eye(n)
            programs.append((P, -P @ x - A.T @ y, A, A @ x + y - v))
        stacked = tuple(jnp.asarray(np.stack(parts)) for parts in zip(*programs, strict=True))
        solve = solver_of(cones, batched=True)
        result = solve(*stacked)
        codes = [Status(int(code)).name for code in result.status]
        calls = {
            "jaxsolve": functools.partial(solve, *stacked),
            "Clarabel": functools.partial(by_clarabel_in_turn, programs, cones),
        }
        counts = f"{collections.Counter(codes).most_common()}, up to {int(result.iter_num.max())} iterations"
        report(f"{name}, batch of {size}: {counts}", interleaved(calls, rounds))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--problems", nargs="*", type=pathlib.Path)
    parser.add_argument("--fuzz", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtype", default="float64")
    parser.add_argument("--batches", action="store_true")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    if options.problems:
        problems(options.problems)
    if options.fuzz:
        fuzz(options.fuzz, options.seed, np.dtype(options.dtype))
    if options.batches:
        batches(options.rounds)
