"""Solvers with general constraints on the problems of Hock and Schittkowski, from the package sif2jax.

Standard start, default options, one program compiled a problem and solver, without optimization by XLA. Results are
appended to a file, and what stands there is not run again, so that a run can be interrupted.

"Best" counts problems of which the returned point is feasible to 1e-6 and within 1e-5 of the best objective that any of
the solvers found, or that the table of sif2jax has where it is right; "false" are those called converged with a larger
violation. With ``--derivatives`` a parameter t is put into the objective, t a^T x, and into all constraints, t b, and
the derivative of the solution is compared with a difference of solutions.

    python benchmarks/constrained.py --output results.jsonl --budget 1100
    python benchmarks/constrained.py --output results.jsonl --derivatives
    python benchmarks/constrained.py --batch
"""

import argparse
import importlib
import importlib.util
import json
import os
import pathlib
import re
import sys
import time
import types

if __name__ == "__main__" and "--batch" not in sys.argv:
    flags = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}"

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize

import jaxsolve
from jaxsolve import Status

jax.config.update("jax_enable_x64", True)
# These take minutes to compile.
SKIPPED = ("HS88", "HS89", "HS90", "HS91", "HS92", "HS105")
# The table of sif2jax has other values for them than their functions.
WRONG_IN_TABLE = (
    "HS20",
    "HS21MOD",
    "HS34",
    "HS35MOD",
    "HS55",
    "HS87",
    "HS93",
    "HS101",
    "HS102",
    "HS103",
    "HS104",
    "HS108",
)
FOLDERS = ("_constrained_minimisation", "_quadratic_problems")
OURS = ("InteriorPointNLP", "AugmentedLagrangian")
STEP = 1e-5  # of the parameter, for differences


class Problem:
    """Name, objective, equalities, inequalities (g <= 0), start, bounds and table value; functions of ``(x, t)``."""

    def __init__(self, problem):
        self.name = type(problem).__name__
        self.x0 = jnp.asarray(problem.y0, float)
        self.bounds = getattr(problem, "bounds", None)
        self.expected = problem.expected_objective_value
        eq, ineq = jax.eval_shape(problem.constraint, problem.y0)
        rng = np.random.default_rng(0)
        a = jnp.asarray(rng.standard_normal(self.x0.shape))
        b_eq, b_ineq = (jax.tree.map(lambda leaf: jnp.asarray(rng.standard_normal(leaf.shape)), c) for c in (eq, ineq))
        data = problem.args
        self.f = lambda x, t=0.0: problem.objective(x, data) + t * (a @ x)
        self.h = None if eq is None else lambda x, t=0.0: problem.constraint(x)[0] + t * b_eq
        self.g = None if ineq is None else lambda x, t=0.0: t * b_ineq - problem.constraint(x)[1]

    def constraints(self, x, t):
        """Return h and g as two vectors."""
        return tuple(jnp.zeros(0) if c is None else jnp.ravel(c(x, t)) for c in (self.h, self.g))


def problems():
    """The problems, by number."""
    package = pathlib.Path(*importlib.util.find_spec("sif2jax").submodule_search_locations)  # type: ignore[union-attr]
    # Importing the whole package makes some hundred problems more, which takes half a minute.
    for name in ("sif2jax", "sif2jax.cutest", *(f"sif2jax.cutest.{folder}" for folder in FOLDERS)):
        module = sys.modules.setdefault(name, types.ModuleType(name))
        module.__path__ = [str(package.joinpath(*name.split(".")[1:]))]
    found = {}
    for folder in FOLDERS:
        # Those that the package has, but does not list, are not right yet.
        listed = re.findall(r"^ +(HS\w+)\(\)", (package / "cutest" / folder / "__init__.py").read_text(), re.MULTILINE)
        for name in sorted(set(listed) - set(SKIPPED)):
            module = importlib.import_module(f"sif2jax.cutest.{folder}.{name.lower()}")
            found[name] = getattr(module, name)
    for name in sorted(found, key=lambda name: (int(re.findall(r"\d+", name)[0]), name)):
        yield Problem(found[name]())


# ---- One problem --------------------------------------------------------------------------------------------------


def run_ours(problem, label, derivatives):
    """What a solver of this package finds, as a dict."""
    solver = getattr(jaxsolve, label)(problem.f, problem.h, problem.g)

    def solution(t):
        params, state = solver.run(problem.x0, t, bounds=problem.bounds)
        duals = [jnp.zeros(0) if d is None else jnp.ravel(d) for d in (params.dual_ineq, state.dual_bounds)]
        return params.primal, (duals, *(getattr(state, name) for name in FIELDS))

    if derivatives:
        program = jax.jit(lambda t: jax.jvp(solution, (t,), (jnp.ones_like(t),), has_aux=True))
    else:
        program = jax.jit(lambda t: (lambda x, rest: (x, x, rest))(*solution(t)))
    x, slope, (duals, *fields) = program(jnp.asarray(0.0))
    row = dict(zip(FIELDS, map(float, fields), strict=True))
    row = {"value": row["value"], "violation": row["constr_violation"], "steps": int(row["iter_num"]), **row}
    row["status"] = Status(int(row["status"])).name
    if derivatives and converged(row):
        row |= difference(problem, program, x, slope, duals)
    return row


FIELDS = ("value", "constr_violation", "status", "iter_num", "error", "is_minimum")


def difference(problem, program, x, slope, duals):
    """How far the derivative is from a difference, whether one must exist, and the smallest of what must not vanish."""
    rows, jacobian = problem.constraints(x, 0.0), jax.jacrev(lambda x: problem.constraints(x, 0.0))(x)
    parts, margins = [jacobian[0]], []
    sides = [(rows[1], jacobian[1])]
    if problem.bounds is not None:
        lower, upper = (jnp.broadcast_to(side, x.shape) for side in problem.bounds)
        sides.append((jnp.maximum(lower - x, x - upper), jnp.eye(x.size)))
        margins += [jnp.ones(0)]
    for (row, slopes), dual in zip(sides, duals[: len(sides)], strict=True):
        size = jnp.maximum(jnp.max(jnp.abs(slopes), axis=1, initial=0), 1e-12)
        slack, dual = jnp.abs(row) / size, jnp.abs(dual) * size
        margins.append(jnp.maximum(slack, dual / (1 + jnp.max(dual, initial=0))))
        parts.append(slopes[(dual > 0) & (slack < 1e-6)])
    active = np.concatenate([np.asarray(part).reshape(-1, x.size) for part in parts])
    active = active / np.maximum(np.linalg.norm(active, axis=1, keepdims=True), 1e-12)
    independence = float(np.min(np.linalg.svd(active)[1], initial=1)) if len(active) <= x.size else 0.0
    margin = float(min(np.min(np.asarray(part), initial=1) for part in margins))
    # Richardson's extrapolation takes the curvature of the solution out.
    plus, minus, half_plus, half_minus = (program(jnp.asarray(s * STEP)) for s in (1, -1, 0.5, -0.5))
    ends = [int(end[2][1 + FIELDS.index("status")]) for end in (plus, minus, half_plus, half_minus)]
    wide, narrow = (plus[0] - minus[0]) / (2 * STEP), (half_plus[0] - half_minus[0]) / STEP
    best = (4 * narrow - wide) / 3
    error = float(jnp.max(jnp.abs(slope - best)) / (1 + jnp.max(jnp.abs(best))))
    trust = float(jnp.max(jnp.abs(wide - narrow)) / (1 + jnp.max(jnp.abs(best))))
    return {
        "derivative_error": error,
        "difference_error": trust,
        "margin": margin,
        "independence": independence,
        "all_converged": all(end == Status.CONVERGED for end in ends),
    }


def run_scipy(problem):
    """What SLSQP finds, as a dict."""
    value = jax.jit(jax.value_and_grad(problem.f))
    rows = jax.jit(lambda x: problem.constraints(x, 0.0))
    slopes = jax.jit(jax.jacrev(lambda x: problem.constraints(x, 0.0)))
    sign = (1, -1)
    constraints = [
        {
            "type": kind,
            "fun": lambda x, i=i: sign[i] * np.asarray(rows(x)[i]),
            "jac": lambda x, i=i: sign[i] * np.asarray(slopes(x)[i]),
        }
        for i, kind in enumerate(("eq", "ineq"))
        if rows(problem.x0)[i].size
    ]
    sides = (-np.inf, np.inf) if problem.bounds is None else tuple(map(np.asarray, problem.bounds))
    x0 = np.asarray(problem.x0)

    def fun(x):
        v, g = value(x)
        return float(v), np.asarray(g)

    result = scipy.optimize.minimize(
        fun,
        x0,
        jac=True,
        method="SLSQP",
        bounds=scipy.optimize.Bounds(*sides),  # type: ignore[arg-type]  # per variable
        constraints=constraints,
        options={"ftol": 1e-10, "maxiter": 500},
    )
    h, g = (np.asarray(part) for part in rows(result.x))
    violation = max(np.max(np.abs(h), initial=0), np.max(g, initial=0))
    violation = max(violation, float(np.max(np.maximum(sides[0] - result.x, result.x - sides[1]))))
    status = "CONVERGED" if result.success else "STALLED"
    return {"value": float(result.fun), "violation": float(violation), "steps": int(result.nit), "status": status}


def converged(row):
    """Whether a solver says so."""
    return row.get("status") == "CONVERGED"


# ---- A batch ------------------------------------------------------------------------------------------------------


def batch(num=64, n=20, rounds=3):
    """A batch of programs, of which one is infeasible, against a loop over SLSQP: CPU and wall time, medians."""
    rng = np.random.default_rng(0)
    Q, A, B = rng.standard_normal((n, n)) / n**0.5, rng.standard_normal((2, n)), rng.standard_normal((4, n))

    def f(x, theta):
        return jnp.sum((x - theta[:n]) ** 2) + 0.25 * jnp.sum((Q @ x) ** 4) + jnp.sum(jnp.cos(x))

    def h(x, theta):
        return A @ jnp.sin(x) - theta[n : n + 2]

    def g(x, theta):
        return jnp.concatenate([(B @ x) ** 2 - 4.0, (x @ x - theta[-1])[None]])

    theta = np.concatenate(
        [rng.standard_normal((num, n)), 0.3 * rng.standard_normal((num, 2)), np.full((num, 1), n / 2)], 1
    )
    infeasible = theta.copy()
    infeasible[num // 2, -1] = -1.0
    start, box = jnp.zeros(n), (-1.5, 2.0)
    solver = jaxsolve.InteriorPointNLP(f, h, g)

    @jax.jit
    def ours(theta):
        params, state = jax.vmap(lambda t: solver.run(start, t, bounds=box))(theta)
        return params.primal, state.status, state.iter_num

    value, slopes = jax.jit(jax.value_and_grad(f)), jax.jit(lambda x, t: (jax.jacobian(h)(x, t), jax.jacobian(g)(x, t)))
    rows = jax.jit(lambda x, t: (h(x, t), -g(x, t)))

    def slsqp(theta):
        found = []
        for t in theta:
            constraints = [
                {
                    "type": kind,
                    "fun": lambda x, i=i, t=t: np.asarray(rows(x, t)[i]),
                    "jac": lambda x, i=i, t=t: (1 - 2 * i) * np.asarray(slopes(x, t)[i]),
                }
                for i, kind in enumerate(("eq", "ineq"))
            ]
            found.append(
                scipy.optimize.minimize(
                    lambda x, t=t: [np.asarray(part, float) for part in value(x, t)],
                    np.zeros(n),
                    jac=True,
                    method="SLSQP",
                    bounds=[box] * n,
                    constraints=constraints,
                    options={"ftol": 1e-10, "maxiter": 300},
                )
            )
        return found

    def timed(call, *args):
        begin = time.perf_counter(), time.process_time()
        result = jax.block_until_ready(call(*args))
        return result, (time.perf_counter() - begin[0], time.process_time() - begin[1])

    clean, x, status, steps = ours(theta)[0], *ours(infeasible)
    times = {"ours": [timed(ours, infeasible)[1] for _ in range(rounds)], "SLSQP": []}
    slsqp(theta[:1])
    for _ in range(rounds):
        peers, passed = timed(slsqp, theta)
        times["SLSQP"].append(passed)
    good = np.arange(num) != num // 2
    print(f"{num} programs, n {n}: {np.bincount(status)[1]} converged, the other: {Status(int(status[num // 2])).name}")
    print(
        f"  others differ from a batch without it by {np.max(np.abs(x - clean)[good]):.0e}, steps up to {np.max(steps)}"
    )
    agree = [abs(f(x[i], theta[i]) - peer.fun) <= 1e-6 * (1 + abs(peer.fun)) for i, peer in enumerate(peers) if good[i]]
    print(f"  as good as SLSQP: {sum(bool(same) for same in agree)} of {len(agree)}")
    medians = {label: np.median(np.array(pairs), axis=0) for label, pairs in times.items()}
    for label, (wall, cpu) in medians.items():
        print(f"  {label:6} {1e3 * wall:8.1f} ms, {1e3 * cpu:8.1f} ms CPU")
    wall, cpu = medians["ours"] / medians["SLSQP"]
    print(f"  ratio {wall:.3f}, CPU {cpu:.3f}")


# ---- Summary ------------------------------------------------------------------------------------------------------


def summary(rows):
    """Print what the bars are about."""
    best, table = {}, {}
    for (name, _), row in rows.items():
        table[name] = row.get("expected")
        if row.get("violation", np.inf) <= 1e-6:
            best[name] = min(best.get(name, np.inf), row["value"])
    for name, value in table.items():
        if value is not None and name not in WRONG_IN_TABLE:
            best[name] = min(best.get(name, np.inf), value)
    for label in dict.fromkeys(label for _, label in rows):
        own = {name: row for (name, other), row in rows.items() if other == label}
        tried = {name: row for name, row in own.items() if "value" in row}

        def is_best(name, row):
            return row["violation"] <= 1e-6 and row["value"] - best[name] <= 1e-5 * max(1, abs(best[name]))

        good = [name for name, row in tried.items() if is_best(name, row)]
        said = [name for name, row in tried.items() if converged(row)]
        false = [name for name in said if tried[name]["violation"] > 1e-6]
        steps = np.array([row["steps"] for row in tried.values()] or [np.nan])
        print(f"\n{label}: best {len(good)} of {len(own)}, converged {len(said)}, false {false or 'none'}")
        print(f"  steps: median {np.median(steps):g}, 90 % {np.quantile(steps, 0.9):g}")
        for name, row in own.items():
            if name in good:
                continue
            said = row.get("exception") if "value" not in row else f"{row['status']:12} {row['steps']:4} steps"
            found = "" if "value" not in row else f"{row['value']:.9g} against {best.get(name, np.nan):.9g}"
            print(f"  {name:8} {said} {found} violation {row.get('violation', np.nan):.1e}")
        known = {name: row for name, row in tried.items() if "derivative_error" in row}
        regular = {
            name: row
            for name, row in known.items()
            if row["margin"] > 1e-4 and row["independence"] > 1e-4 and row["is_minimum"] and row["all_converged"]
        }
        if known:
            off = {n: r for n, r in regular.items() if r["derivative_error"] > max(1e-6, r["difference_error"])}
            print(f"  derivatives: {len(regular)} regular of {len(known)}, off by more than 1e-6: {len(off)}")
            for name, row in off.items():
                print(f"    {name}: {row['derivative_error']:.1e}, differences to {row['difference_error']:.1e}")
            others = " ".join(
                f"{n}({r['margin']:.0e},{r['independence']:.0e},{r['derivative_error']:.0e})"
                for n, r in known.items()
                if n not in regular
            )
            print(f"    not regular (margin, independence, difference): {others or 'none'}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problems", nargs="*", help="names; all by default")
    parser.add_argument("--solvers", nargs="*", default=["SLSQP", *OURS])
    parser.add_argument("--derivatives", action="store_true")
    parser.add_argument("--batch", action="store_true", help="time a batch, and nothing else")
    parser.add_argument("--output", help="a file of JSON lines, to which results are appended")
    parser.add_argument("--budget", type=float, default=float("inf"), help="seconds after which no problem is begun")
    options = parser.parse_args()
    if options.batch:
        batch()
        return
    if importlib.util.find_spec("sif2jax") is None:
        print("benchmarks/constrained.py needs the package sif2jax, which is not installed: skipped")
        return
    start, rows = time.monotonic(), {}
    path = pathlib.Path(options.output or os.devnull)
    if path.is_file():
        read = map(json.loads, path.read_text().splitlines())
        rows = {(row["name"], row["solver"]): row for row in read}
    for label, problem in ((label, problem) for problem in problems() for label in options.solvers):
        if options.problems and problem.name not in options.problems:
            continue
        old = rows.get((problem.name, label))
        if old and (label == "SLSQP" or not options.derivatives or "derivative_error" in old or not converged(old)):
            continue
        if time.monotonic() - start > options.budget:
            print(f"the budget is used up before {problem.name}, {label}")
            break
        row = {"name": problem.name, "solver": label, "expected": problem.expected and float(problem.expected)}
        try:
            row |= run_scipy(problem) if label == "SLSQP" else run_ours(problem, label, options.derivatives)
            said = f"{row['value']:16.9g} {row['violation']:8.1e} {row['status']:20} {row['steps']:4}"
        except Exception as error:
            said = row["exception"] = f"{type(error).__name__}: {str(error)[:80]}"
        print(f"{problem.name:8} {label:20} {said}", flush=True)
        rows[problem.name, label] = row
        jax.clear_caches()
        with path.open("a") as file:
            file.write(json.dumps(row) + "\n")
    summary(rows)


if __name__ == "__main__":
    main()
