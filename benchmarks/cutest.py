"""Solvers on test problems that other people wrote: those of CUTEst, from sif2jax, with at most 100 variables.

Four groups: unconstrained minimization, bounded minimization, nonlinear least squares (bounds allowed), and nonlinear
equations with as many equations as variables. Larger problems are made smaller where their class can be. Solved means

* minimization: the norm of x - P(x - g), largest entry, is at most 1e-5 max(1, |f|), where P clips to the bounds;
* least squares: the same for half the sum of squares, or no residual above 1e-6;
* nonlinear equations: no residual above 1e-6,

judged from the point that the solver returns, whatever it says itself. Printed are the number of problems solved and
the geometric mean of evaluations against SciPy, over the problems that both solve. A worker process solves one problem
after the other; one that takes too long is killed and counts as not solved.

    python benchmarks/cutest.py --groups unconstrained --solvers LBFGS SciPy --problems 0:40 --list
    python benchmarks/cutest.py --output results.jsonl
    python benchmarks/cutest.py --output results.jsonl --profile cutest.svg
"""

import argparse
import importlib
import importlib.util
import json
import os
import queue
import subprocess
import sys
import threading
import time
import types
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
from jax.flatten_util import ravel_pytree

import jaxsolve

jax.config.update("jax_enable_x64", True)

MOST_VARIABLES = 100
TOL = 1e-7  # of the Euclidean norm of the gradient, where a solver has one
MAXITER = 3000
MOST_EVALUATIONS = 10_000
_UNBOUNDED = -1e20  # a value below it is no minimum


class Problem(NamedTuple):
    """A problem over vectors; ``residual`` and ``bounds`` where there are any, else ``None``."""

    name: str
    init: np.ndarray
    fun: Callable
    residual: Callable | None
    bounds: tuple[np.ndarray, np.ndarray] | None


# ---- The solvers: each a function ``solve(problem) -> (point, evaluations, what it says itself)`` --------------------


def ours(cls: str, **options) -> Callable | None:
    """The solver of this package with that name; ``None`` if there is none."""
    if not hasattr(jaxsolve, cls):
        return None

    def solve(problem):
        residuals = cls in ("GaussNewton", "LevenbergMarquardt", "Dogleg", "Broyden", "Newton", "Chord")
        fun = problem.residual if residuals else problem.fun
        bounds = () if problem.bounds is None else (tuple(map(jnp.asarray, problem.bounds)),)
        named = {"tol": TOL, "maxiter": MAXITER, **options}
        if bounds and residuals:  # here they are an option
            named, bounds = {"bounds": bounds[0], **named}, ()
        solver = getattr(jaxsolve, cls)(fun, **named)
        params, state = jax.jit(lambda x: solver.run(x, *bounds))(jnp.asarray(problem.init))
        status = jaxsolve.Status(int(state.status)).name if hasattr(state, "status") else ""
        return params, int(getattr(state, "num_fun_eval", state.iter_num)), status

    return solve


def jaxopt_solver(cls: str, **options) -> Callable | None:
    """JAXopt's solver with that name; ``None`` if it is not installed."""
    if importlib.util.find_spec("jaxopt") is None:
        return None

    def solve(problem):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import jaxopt

            fun = problem.residual if cls in ("GaussNewton", "LevenbergMarquardt", "Broyden") else problem.fun
            solver = getattr(jaxopt, cls)(fun, **{"tol": TOL, "maxiter": MAXITER, **options})
            bounds = () if problem.bounds is None else (tuple(map(jnp.asarray, problem.bounds)),)
            params, state = jax.jit(lambda x: solver.run(x, *bounds))(jnp.asarray(problem.init))
        return params, int(getattr(state, "num_fun_eval", state.iter_num)), ""

    return solve


def optimistix_solver(cls: str, search: str = "minimise", **options) -> Callable | None:
    """Optimistix's solver with that name; ``None`` if it is not installed."""
    if importlib.util.find_spec("optimistix") is None:
        return None

    def solve(problem):
        import optimistix as optx

        fun = problem.fun if search.startswith("minimi") else problem.residual
        call = getattr(optx, search, None) or getattr(optx, search.replace("ise", "ize"))
        solver = getattr(optx, cls)(**{"rtol": TOL, "atol": TOL, **options})
        solution = jax.jit(lambda x: call(lambda x, _: fun(x), solver, x, max_steps=MOST_EVALUATIONS, throw=False))(
            jnp.asarray(problem.init)
        )
        return solution.value, int(solution.stats["num_steps"]), ""

    return solve


def scipy_minimize(method: str, *, hessp: bool = False, **options) -> Callable:
    """A method of ``scipy.optimize.minimize``."""

    def solve(problem):
        value_and_grad = jax.jit(jax.value_and_grad(problem.fun))
        product = jax.jit(lambda x, v: jax.jvp(jax.grad(problem.fun), (x,), (v,))[1])
        evaluations = 0

        def fun(x):
            nonlocal evaluations
            evaluations += 1
            value, grad = value_and_grad(jnp.asarray(x))
            return float(value), np.asarray(grad)

        more: dict[str, Any] = {"hessp": lambda x, v: np.asarray(product(x, v))} if hessp else {}
        if problem.bounds is not None:
            more["bounds"] = scipy.optimize.Bounds(*problem.bounds)
        tol = TOL / problem.init.size**0.5  # SciPy's norm is the largest entry
        options_ = {name: tol if value is TOL else value for name, value in options.items()}
        result = scipy.optimize.minimize(
            fun, problem.init, jac=True, method=method, options={"maxiter": MAXITER, **options_}, **more
        )
        return result.x, evaluations, str(result.message)

    return solve


def _counted(residual):
    compiled, jacobian = jax.jit(residual), jax.jit(jax.jacfwd(residual))
    count = [0]

    def fun(x):
        count[0] += 1
        return np.asarray(compiled(jnp.asarray(x)))

    return fun, lambda x: np.asarray(jacobian(jnp.asarray(x))), count


def scipy_least_squares(method: str) -> Callable:
    """A method of ``scipy.optimize.least_squares``."""

    def solve(problem):
        fun, jacobian, count = _counted(problem.residual)
        bounds = {} if problem.bounds is None or method == "lm" else {"bounds": problem.bounds}
        tols = dict.fromkeys(("ftol", "xtol", "gtol"), 1e-12)
        result = scipy.optimize.least_squares(
            fun, problem.init, jacobian, method=method, max_nfev=MAXITER, **tols, **bounds
        )
        return result.x, count[0], result.message

    return solve


def scipy_root(method: str) -> Callable:
    """A method of ``scipy.optimize.root``."""

    def solve(problem):
        fun, jacobian, count = _counted(problem.residual)
        result = scipy.optimize.root(fun, problem.init, jac=jacobian, method=method, tol=1e-12)
        return result.x, count[0], result.message

    return solve


# The first of SciPy is what evaluations are set against. A solver that is not there is left out.
SOLVERS: dict[str, dict[str, Callable | None]] = {
    "unconstrained": {
        "LBFGS zoom": ours("LBFGS", linesearch="zoom"),
        "LBFGS hager-zhang": ours("LBFGS", linesearch="hager-zhang"),
        "LBFGS backtracking": ours("LBFGS", linesearch="backtracking"),
        "BFGS": ours("BFGS"),
        "NonlinearCG": ours("NonlinearCG"),
        "NewtonCG": ours("NewtonCG"),
        "TrustNewton": ours("TrustNewton"),
        "SciPy L-BFGS-B": scipy_minimize("L-BFGS-B", gtol=TOL, ftol=0, maxfun=MOST_EVALUATIONS, maxcor=10),
        "SciPy BFGS": scipy_minimize("BFGS", gtol=TOL),
        "SciPy CG": scipy_minimize("CG", gtol=TOL),
        "SciPy trust-krylov": scipy_minimize("trust-krylov", hessp=True, gtol=TOL),
        "JAXopt LBFGS": jaxopt_solver("LBFGS"),
        "JAXopt BFGS": jaxopt_solver("BFGS"),
        "JAXopt NonlinearCG": jaxopt_solver("NonlinearCG"),
        "Optimistix BFGS": optimistix_solver("BFGS"),
    },
    "bounded": {
        "LBFGSB": ours("LBFGSB"),
        "SciPy L-BFGS-B": scipy_minimize("L-BFGS-B", gtol=TOL, ftol=0, maxfun=MOST_EVALUATIONS, maxcor=10),
        "SciPy TNC": scipy_minimize("TNC", gtol=TOL, ftol=0, xtol=0, maxfun=MOST_EVALUATIONS),
        "JAXopt LBFGSB": jaxopt_solver("LBFGSB"),
    },
    "least squares": {
        "LevenbergMarquardt": ours("LevenbergMarquardt"),
        "Dogleg": ours("Dogleg"),
        "GaussNewton": ours("GaussNewton"),
        "SciPy trf": scipy_least_squares("trf"),
        "SciPy lm": scipy_least_squares("lm"),
        "JAXopt LevenbergMarquardt": jaxopt_solver("LevenbergMarquardt"),
        "Optimistix LevenbergMarquardt": optimistix_solver("LevenbergMarquardt", "least_squares"),
    },
    "equations": {
        "Newton": ours("Newton"),
        "Broyden": ours("Broyden"),
        "LevenbergMarquardt": ours("LevenbergMarquardt"),
        "SciPy hybr": scipy_root("hybr"),
        "SciPy lm": scipy_root("lm"),
        "JAXopt Broyden": jaxopt_solver("Broyden"),
        "Optimistix Newton": optimistix_solver("Newton", "root_find"),
    },
}


# ---- The problems ----------------------------------------------------------------------------------------------------


_PLACES = {
    "unconstrained": ("_unconstrained_minimisation", "unconstrained_minimisation_problems"),
    "bounded": ("_bounded_minimisation", "bounded_minimisation_problems"),
    "least squares": ("_nonlinear_equations", "nonlinear_equations_problems"),
    "equations": ("_nonlinear_equations", "nonlinear_equations_problems"),
}


def raw_problems(group: str) -> list:
    """The problems of a group as the package has them, of any size."""
    # The package makes every problem of every group when it is imported, which takes a minute; a group takes a second.
    for name in ("sif2jax", "sif2jax.cutest"):
        if name not in sys.modules:
            spec: Any = importlib.util.find_spec(name)
            sys.modules[name] = module = types.ModuleType(name)
            module.__spec__, module.__path__ = spec, list(spec.submodule_search_locations)
    folder, problems = _PLACES[group]
    return list(getattr(importlib.import_module(f"sif2jax.cutest.{folder}"), problems))


def _size(raw) -> int:
    return sum(np.size(leaf) for leaf in jax.tree.leaves(raw.y0))


def _small(raw):
    """The problem with at most so many variables, if its class allows for it."""
    if _size(raw) <= MOST_VARIABLES:
        return raw
    fields = [k for k, v in vars(raw).items() if type(v) is int and v > 4 and k != "y0_iD"]
    for names in (*([name] for name in sorted(fields, key=lambda k: k.lower() != "n")), fields):
        for n in (100, 50, 99, 30, 10, 5):
            try:
                smaller = type(raw)(**dict.fromkeys(names, n))
                start = smaller.objective(smaller.y0, smaller.args)
                if 0 < _size(smaller) <= MOST_VARIABLES and np.isfinite(float(start)):
                    return smaller
            except Exception:  # it is not a size, or not a possible one
                continue
    return None


def problem_of(group: str, raw) -> Problem | None:
    """A problem over vectors; ``None`` if it does not belong to the group, or is too large."""
    raw = _small(raw)
    if raw is None:
        return None
    init, restore = ravel_pytree(jax.tree.map(lambda x: jnp.asarray(x, float), raw.y0))
    bounds, residual = getattr(raw, "bounds", None), None
    if bounds is not None:
        bounds = tuple(np.asarray(ravel_pytree(jax.tree.map(lambda x: jnp.asarray(x, float), b))[0]) for b in bounds)
        if not np.any(np.isfinite(bounds)):
            bounds = None
    fun = lambda x: jnp.asarray(raw.objective(restore(x), raw.args), x.dtype)  # noqa: E731
    if group in ("least squares", "equations"):
        residual = lambda x: ravel_pytree(raw.constraint(restore(x))[0])[0].astype(x.dtype)  # noqa: E731
        fun = lambda x: 0.5 * jnp.sum(residual(x) ** 2)  # noqa: E731
        if group == "equations" and (bounds is not None or jax.eval_shape(residual, init).size != init.size):
            return None
    init = np.asarray(init) if bounds is None else np.clip(init, *bounds)
    return Problem(type(raw).__name__, init, fun, residual, bounds)


def measure(problem: Problem, x: Any) -> tuple[float, float, bool]:
    """Value, error, and whether the point is a solution."""
    x = jnp.asarray(x, float)
    # Some residuals have NaN as gradient in reverse mode only, where the branch not taken is infinite.
    grad_of = jax.grad if problem.residual is None else jax.jacfwd
    value, grad = map(np.asarray, jax.jit(lambda x: (problem.fun(x), grad_of(problem.fun)(x)))(x))
    low, high = problem.bounds or (-np.inf, np.inf)
    inside = bool(np.all((x >= low) & (x <= high)))
    error = float(np.max(np.abs(x - np.clip(x - grad, low, high))))
    solved = inside and _UNBOUNDED < value and error <= 1e-5 * max(1.0, abs(value))
    if problem.residual is not None:
        small = float(np.max(np.abs(jax.jit(problem.residual)(x)))) <= 1e-6
        solved = inside and (small or solved)
    return float(value), error, bool(solved)


# ---- The worker ------------------------------------------------------------------------------------------------------


def work(group: str, names: list[str], places: list[int]) -> None:
    """Solve problems of a group by solvers, and print one line of JSON for each pair."""
    raws = raw_problems(group)
    for place in places:
        name = type(raws[place]).__name__
        problem = None
        try:
            problem = problem_of(group, raws[place])
        except Exception as error:
            print(json.dumps({"place": place, "problem": name, "skip": repr(error)[:200]}), flush=True)
            continue
        if problem is None:
            print(json.dumps({"place": place, "problem": name, "skip": "size"}), flush=True)
            continue
        print(json.dumps({"place": place, "problem": name, "size": problem.init.size}), flush=True)
        for solver in names:
            record = {"place": place, "problem": name, "solver": solver, "solved": False}
            start = time.perf_counter()
            try:
                x, evaluations, said = SOLVERS[group][solver](problem)  # type: ignore[misc]
                value, error, solved = measure(problem, x)
                if group == "equations":
                    solved = float(np.max(np.abs(problem.residual(jnp.asarray(x))))) <= 1e-6  # type: ignore[misc]
                record |= {"evaluations": evaluations, "said": said, "value": value, "error": error, "solved": solved}
            except Exception as error:
                record["said"] = repr(error)[:200]
            print(json.dumps(record | {"seconds": round(time.perf_counter() - start, 2)}), flush=True)
        jax.clear_caches()


# ---- The parent ------------------------------------------------------------------------------------------------------


def _lines(stream, lines):
    for line in stream:
        lines.put(line)
    lines.put(None)


def solve_all(
    group: str, names: list[str], places: list[int], limit: float, chunk: int, keep: Callable[[dict], None]
) -> list[dict]:
    """Records of all pairs, by workers of ``chunk`` problems, each pair within ``limit`` seconds; kept as they come."""
    records: list[dict] = []

    def add(record):
        records.append(record)
        keep(record)

    todo = [places[i : i + chunk] for i in range(0, len(places), chunk)]
    titles = [type(raw).__name__ for raw in raw_problems(group)]
    command = [sys.executable, os.path.abspath(__file__), "--worker", "--groups", group, "--solvers", *names]
    wanted = list(names)
    while todo:
        here = todo.pop(0)
        call = [*command[:6], *wanted, "--problems", ",".join(map(str, here))]
        worker = subprocess.Popen(call, stdout=subprocess.PIPE, text=True)
        lines: queue.Queue = queue.Queue()
        threading.Thread(target=_lines, args=(worker.stdout, lines), daemon=True).start()
        place, done, size, late = here[0], [], 0, False
        while True:
            try:
                line = lines.get(timeout=limit if place != here[0] or done else limit + 60)
            except queue.Empty:
                line, late = None, True
            if line is None:
                break
            record = json.loads(line)
            if record["place"] != place:
                place, done = record["place"], []
            if "solver" in record:
                done.append(record["solver"])
                add(record | {"size": size})
            elif "size" in record:
                size = record["size"]
            else:
                done = list(wanted)
                keep(record)
        worker.kill()
        worker.wait()
        left = [solver for solver in wanted if solver not in done]
        position = here.index(place)
        if left:
            # The pair that took too long, or ended the process. The other solvers get a worker of their own.
            said = "TIMEOUT" if late else "the process ended"
            add({"place": place, "problem": titles[place], "solver": left[0], "solved": False, "said": said})
            rest = left[1:]
            if rest:
                records += solve_all(group, rest, [place], limit, chunk, keep)
        if here[position + 1 :]:
            todo.insert(0, here[position + 1 :])
    return records


# Against which of SciPy's a solver's evaluations are set.
_COUNTERPARTS = {
    "LBFGS": "SciPy L-BFGS-B",
    "BFGS": "SciPy BFGS",
    "NonlinearCG": "SciPy CG",
    "NewtonCG": "SciPy trust-krylov",
    "TrustNewton": "SciPy trust-krylov",
    "LBFGSB": "SciPy L-BFGS-B",
    "Newton": "SciPy hybr",
    "Broyden": "SciPy hybr",
}


def _counterpart(name: str, names: list[str]) -> str:
    """The solver of SciPy with the same method, or the first one of SciPy."""
    title = _COUNTERPARTS.get(name.removeprefix("JAXopt ").removeprefix("Optimistix ").split()[0])
    if title not in names:
        title = next((name for name in names if name.startswith("SciPy")), names[0])
    return title


def report(group: str, records: list[dict], names: list[str]) -> None:
    """Print how many problems each solver solved, and its evaluations against SciPy's."""
    by_solver = {name: {r["place"]: r for r in records if r["solver"] == name} for name in names}
    places = sorted({r["place"] for r in records})
    print(f"{group}: {len(places)} problems of at most {MOST_VARIABLES} variables")
    for name, found in by_solver.items():
        solved = {p for p, r in found.items() if r["solved"]}
        other = _counterpart(name, names)
        both = [p for p in solved if by_solver[other].get(p, {}).get("solved")]
        ratios = [max(found[p]["evaluations"], 1) / max(by_solver[other][p]["evaluations"], 1) for p in both]
        mean = float(np.exp(np.mean(np.log(ratios)))) if ratios else float("nan")
        late = sum(r.get("said") == "TIMEOUT" for r in found.values())
        print(
            f"  {name:32} solved {len(solved):4} of {len(found):4}   evaluations {mean:5.2f} x {other} "
            f"({len(both)})   timeouts {late}"
        )
    own = [name for name in names if not name.startswith(("SciPy", "JAXopt", "Optimistix"))]
    for label, some in (("any of ours", own), ("any of SciPy", [n for n in names if n.startswith("SciPy")])):
        if len(some) > 1:
            count = sum(any(by_solver[name].get(p, {}).get("solved") for name in some) for p in places)
            print(f"  {label:32} solved {count:4} of {len(places):4}")


def profile(path: str, records: list[dict], groups: list[str]) -> None:
    """Draw performance profiles (Dolan and Moré 2002): which fraction a solver solves within a multiple of the fewest.

    Of each group those problems count that every solver in the records was run on.
    """
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams |= {"svg.hashsalt": "cutest", "svg.fonttype": "none", "font.size": 8}
    import matplotlib.pyplot as plt

    groups = [group for group in groups if any(r["group"] == group and "solver" in r for r in records)]
    rows = (len(groups) + 1) // 2
    figure, axes = plt.subplots(rows, min(len(groups), 2), figsize=(8, 3.2 * rows), sharey=True, squeeze=False)
    multiples = 2.0 ** np.linspace(0, 5, 101)
    for axis, group in zip(axes.flat, groups, strict=False):
        here = [r for r in records if r["group"] == group and "solver" in r]
        names = [name for name in SOLVERS[group] if any(r["solver"] == name for r in here)]
        counts = {name: {r["place"]: r for r in here if r["solver"] == name} for name in names}
        places = sorted(set.intersection(*(set(found) for found in counts.values())))
        table = np.array(
            [
                [max(counts[name][p]["evaluations"], 1) if counts[name][p]["solved"] else np.inf for p in places]
                for name in names
            ]
        )
        fewest = np.min(table, axis=0)
        some = np.isfinite(fewest)
        for name, row in zip(names, table, strict=True):
            ratio = np.where(some, row / np.where(some, fewest, 1), np.inf)
            fractions = [np.mean(ratio <= multiple) for multiple in multiples]
            peer = name.startswith(("SciPy", "JAXopt", "Optimistix"))
            axis.plot(multiples, fractions, "--" if peer else "-", linewidth=1.0 if peer else 1.6, label=name)
        axis.set(xscale="log", title=f"{group} ({len(places)})", xlabel="evaluations / fewest of all")
        axis.set_xticks([1, 2, 4, 8, 16, 32], ["1", "2", "4", "8", "16", "32"], minor=False)
        axis.minorticks_off()
        axis.set(xlim=(1, 32), ylim=(0, 1.01))
        axis.legend(loc="lower right", fontsize=6, framealpha=0.8)
        axis.grid(alpha=0.3)
    for axis in axes[:, 0]:
        axis.set_ylabel("fraction of problems solved")
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None} if path.endswith(".svg") else None)


def _stored(path: str | None) -> list[dict]:
    """The records in a file, which need not exist."""
    if path is None or not os.path.exists(path):
        return []
    with open(path) as file:
        return [json.loads(line) for line in file]


def _places(text: str | None, group: str) -> list[int]:
    """Problems by a range ``0:40`` or ``1::2``, or by numbers or names with commas between them."""
    raws = raw_problems(group)
    if not text:
        return list(range(len(raws)))
    if ":" in text:
        return list(range(len(raws)))[slice(*(int(part) if part else None for part in text.split(":")))]
    names = [type(raw).__name__ for raw in raws]
    return [int(part) if part.isdigit() else names.index(part) for part in text.split(",")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--groups", nargs="+", default=list(SOLVERS), choices=list(SOLVERS))
    parser.add_argument("--solvers", nargs="+", help="all whose names begin with one of these; by default every one")
    parser.add_argument("--problems", help="a range (0:40, 1::2), or numbers or names with commas; default: all")
    parser.add_argument("--limit", type=float, default=60.0, help="seconds for a problem and a solver")
    parser.add_argument("--chunk", type=int, default=25, help="problems of one worker process")
    parser.add_argument("--list", action="store_true", help="print a line for each problem")
    parser.add_argument("--output", help="file of records, lines of JSON: more are appended, known ones not repeated")
    parser.add_argument("--profile", help="file for performance profiles of the records in --output; runs nothing")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options.groups[0], options.solvers, list(map(int, options.problems.split(","))))
        return
    if options.profile:
        profile(options.profile, _stored(options.output), options.groups)
        return
    if importlib.util.find_spec("sif2jax") is None:
        print("benchmarks/cutest.py needs the package sif2jax, which is not installed: skipped")
        return
    for group in options.groups:
        known = [name for name, solver in SOLVERS[group].items() if solver is not None]
        names = [n for n in known if not options.solvers or n.startswith(tuple(options.solvers))]
        places = _places(options.problems, group)
        found = [r for r in _stored(options.output) if r["group"] == group and r["place"] in places]
        records = [r for r in found if r.get("solver") in names]
        skipped = {r["place"] for r in found if "skip" in r}

        def keep(record, group=group):
            if options.output:
                with open(options.output, "a") as file:
                    file.write(json.dumps({"group": group} | record) + "\n")

        left: dict[tuple[str, ...], list[int]] = {}
        for place in places:
            done = {r["solver"] for r in records if r["place"] == place}
            if place not in skipped:
                left.setdefault(tuple(name for name in names if name not in done), []).append(place)
        for missing, some in left.items():
            if missing:
                records += solve_all(group, list(missing), some, options.limit, options.chunk, keep)
        if options.list:
            for record in sorted(records, key=lambda r: (r["place"], names.index(r["solver"]))):
                state = "solved" if record["solved"] else "NOT SOLVED"
                value, error = record.get("value", float("nan")), record.get("error", float("nan"))
                print(
                    f"  {record['problem']:12} {record.get('size', 0):4} {record['solver']:24} {state:10} "
                    f"value {value: .8e} error {error:.1e} evaluations {record.get('evaluations', 0):6} "
                    f"{record.get('seconds', 0):6.1f} s  {record.get('said', '')}"
                )
        if names:
            report(group, records, names)


if __name__ == "__main__":
    main()
