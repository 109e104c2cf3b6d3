"""Solvers with general constraints on the problems of Hock and Schittkowski, from the package sif2jax.

"Best" counts problems of which the point that a solver returns is feasible to 1e-6 and within 1e-5 of the best
objective that any of the solvers found; "honest" counts those that it calls converged and that are feasible to 1e-6.

    python benchmarks/constrained.py --problems 0:40
"""

import argparse
import importlib.util
import time

import jax
import jax.numpy as jnp
import numpy as np

import jaxsolve
from jaxsolve import Status

jax.config.update("jax_enable_x64", True)
# These take minutes to compile.
SKIPPED = ("HS88", "HS89", "HS90", "HS91", "HS92", "HS105")
SOLVERS = {
    "InteriorPointNLP": lambda f, h, g: jaxsolve.InteriorPointNLP(f, h, g),
    "AugmentedLagrangian": lambda f, h, g: jaxsolve.AugmentedLagrangian(f, h, g),
    "SLSQP": lambda f, h, g: jaxsolve.ScipyConstrainedMinimize(f, h, g, tol=1e-10),
}


def problems():
    """Name, objective, equalities, inequalities (g <= 0), start and bounds of each."""
    import sif2jax

    for problem in sif2jax.problems:
        name = type(problem).__name__
        if not name.startswith("HS") or name in SKIPPED or not hasattr(problem, "constraint"):
            continue
        eq, ineq = jax.eval_shape(lambda y, p=problem: p.constraint(y), problem.y0)
        data, bounds = problem.args, getattr(problem, "bounds", None)
        f = lambda x, p=problem, a=data: p.objective(x, a)  # noqa: E731
        h = None if eq is None else lambda x, p=problem: p.constraint(x)[0]
        g = None if ineq is None else lambda x, p=problem: jax.tree.map(jnp.negative, p.constraint(x)[1])
        yield name, f, h, g, jnp.asarray(problem.y0, float), bounds


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problems", default=":", help="a slice of the problems, as in 0:40")
    parser.add_argument("--solvers", nargs="*", default=list(SOLVERS))
    parser.add_argument("--budget", type=float, default=float("inf"), help="seconds after which no problem is begun")
    options = parser.parse_args()
    if importlib.util.find_spec("sif2jax") is None:
        print("benchmarks/constrained.py needs the package sif2jax, which is not installed: skipped")
        return
    start, found = time.monotonic(), {}
    for name, f, h, g, x0, bounds in list(problems())[
        slice(*(int(i) if i else None for i in options.problems.split(":")))
    ]:
        if time.monotonic() - start > options.budget:
            print(f"the budget is used up before {name}")
            break
        found[name] = {}
        for label in options.solvers:
            try:
                state = SOLVERS[label](f, h, g).run(x0, bounds=bounds).state
            except Exception as error:
                print(f"{name:8} {label:22} {type(error).__name__}: {str(error)[:60]}", flush=True)
                continue
            row = float(state.value), float(state.constr_violation), Status(int(state.status)).name, int(state.iter_num)
            found[name][label] = row
            print(f"{name:8} {label:22} {row[0]:16.9g} {row[1]:8.1e} {row[2]:20} {row[3]:4}", flush=True)
    print(f"\n{len(found)} problems")
    best = {
        name: min((v for v, violation, *_ in rows.values() if violation <= 1e-6), default=np.nan)
        for name, rows in found.items()
    }
    for label in options.solvers:
        rows = {name: rows[label] for name, rows in found.items() if label in rows}
        good = [n for n, (v, c, *_) in rows.items() if c <= 1e-6 and v - best[n] <= 1e-5 * max(1, abs(best[n]))]
        converged = [n for n, row in rows.items() if row[2] == "CONVERGED"]
        false = [n for n in converged if rows[n][1] > 1e-6]
        steps = np.median([row[3] for row in rows.values()] or [np.nan])
        print(
            f"{label:22} best {len(good)} of {len(rows)}, converged {len(converged)}, falsely {false}, steps {steps:g}"
        )
        print(f"{'':22} others: {' '.join(n for n in rows if n not in good)}")


if __name__ == "__main__":
    main()
