"""What a user meets before any solver: importing the package, and its public names."""

import importlib
import pathlib
import pkgutil
import statistics
import subprocess
import sys

import pytest

import jaxsolve

SUBMODULES = [
    "base",
    "cond",
    "diagnostics",
    "implicit_diff",
    "isotonic",
    "linear_solve",
    "linesearch",
    "loop",
    "loss",
    "objective",
    "perturbations",
    "projection",
    "prox",
    "tree_util",
]


def _public_modules():
    for info in pkgutil.walk_packages(jaxsolve.__path__, "jaxsolve."):
        if not any(part.startswith("_") for part in info.name.split(".")):
            yield info.name


def _python(code, *options):
    return subprocess.run([sys.executable, *options, "-c", code], capture_output=True, text=True, timeout=300)


def test_importing_everything_is_silent_with_warnings_as_errors():
    names = ", ".join(["jaxsolve", *_public_modules()])
    done = _python(f"import {names}", "-W", "error")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# Each takes a process of its own.
@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow) if n not in ("base", "prox", "diagnostics") else n for n in SUBMODULES],
)
def test_import_jaxsolve_alone_gives_the_submodules(name):
    done = _python(f"import jaxsolve; print(jaxsolve.{name}.__name__)")
    assert done.stdout.strip() == f"jaxsolve.{name}", done.stderr


def test_submodules_and_solvers_are_imported_only_when_asked_for():
    done = _python("import sys, jaxsolve; print([m for m in sys.modules if m.startswith('jaxsolve.solvers')])")
    assert done.stdout.strip() == "[]", done.stderr


def test_first_use_inside_a_compiled_function_leaves_no_tracer_behind():
    code = """
import jax, jaxsolve
minimize = lambda x: jaxsolve.GradientDescent(lambda x: (x - 1.0) ** 2).run(x).params
jax.jit(minimize)(0.0)
print(round(float(minimize(0.0)), 3), round(float(jax.jit(jax.vmap(minimize))(jax.numpy.zeros(2))[1]), 3))
"""
    done = _python(code)
    assert done.stdout.strip() == "1.0 1.0", done.stderr


def test_first_use_of_a_name_makes_nothing_compile_again():
    code = """
import jax, jaxsolve
traces = []
double = jax.jit(lambda x: traces.append(x) or 2 * x)
double(1.0)
for name in jaxsolve.__all__:
    getattr(jaxsolve, name)
double(1.0)
print(len(traces))
"""
    done = _python(code)
    assert done.stdout.strip() == "1", done.stderr


_IMPORT_TIMER = """
import time, jax, optax
start = time.thread_time()
import jaxsolve
for name in jaxsolve.__all__:
    getattr(jaxsolve, name)
print(time.thread_time() - start)
"""


def test_importing_every_public_name_takes_at_most_0_3_s_beyond_jax_and_optax(tmp_path, monkeypatch):
    # From the second process on Python has the bytecode, as in an installed package, whatever the environment of the
    # tests says. Of the others the processor time of the fastest: what else the machine does can only slow them down.
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    monkeypatch.setenv("PYTHONPYCACHEPREFIX", str(tmp_path))
    _, *times = [float(_python(_IMPORT_TIMER).stdout) for _ in range(4)]
    assert min(times) <= 0.3, f"best {min(times):.3f} s, median {statistics.median(times):.3f} s"


@pytest.mark.parametrize("module", ["jaxsolve", *_public_modules()])
def test_every_name_in_all_exists_and_is_listed_once(module):
    module = importlib.import_module(module)
    missing = [name for name in getattr(module, "__all__", []) if not hasattr(module, name)]
    assert missing == []
    assert len(set(getattr(module, "__all__", []))) == len(getattr(module, "__all__", []))


@pytest.mark.parametrize("name", ["", *SUBMODULES, "implicit_diff.optimality"])
def test_dir_lists_the_public_names_only(name):
    module = importlib.import_module(f"jaxsolve.{name}".rstrip("."))
    assert {n for n in dir(module) if not n.startswith("_")} == {n for n in module.__all__ if not n.startswith("_")}


def test_no_file_of_the_package_is_longer_than_450_lines():
    files = pathlib.Path(jaxsolve.__file__).parent.rglob("*.py")
    lengths = {str(file): len(file.read_text().splitlines()) for file in files}
    assert {file: length for file, length in lengths.items() if length > 450} == {}


def test_unknown_names_raise():
    with pytest.raises(AttributeError, match="no attribute 'LBGFS'; did you mean 'LBFGS'"):
        jaxsolve.LBGFS  # noqa: B018  # looked up for its error
    with pytest.raises(AttributeError, match="no attribute 'torch'$"):
        jaxsolve.torch  # noqa: B018
