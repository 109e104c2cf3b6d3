"""Settings of every test: precision, strictness, reproducible random tests.

Environment variables:
    JAXSOLVE_TEST_X64: ``0`` runs in float32, as jax does by default; else float64 is on.
    JAXSOLVE_TEST_CACHE: a folder that keeps compiled programs from one run to the next (off by default).
    JAX_PLATFORMS: the backend, ``cpu`` by default.
"""

import importlib.metadata
import os
import re

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "Agg")
if "PYTEST_XDIST_WORKER" in os.environ:
    # The workers share the cores; threads inside each would only get in the way of the others.
    threads = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    os.environ["XLA_FLAGS"] = f"{threads} {os.environ.get('XLA_FLAGS', '')}"
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
if os.environ.get("JAXSOLVE_TEST_X64", "1") != "0":
    # Most of the time of the tests goes into compilation. The float32 job compiles as users do; this one takes short
    # cuts: XLA's older code generator, which needs a third of the time, and few optimizations (below). Newer versions
    # have that generator no more, and end the process at a flag that they do not know.
    shortcuts = "--xla_cpu_parallel_codegen_split_count=1"
    if importlib.metadata.version("jaxlib").startswith("0.10."):
        shortcuts += " --xla_cpu_use_fusion_emitters=false"
    os.environ["XLA_FLAGS"] = f"{shortcuts} {os.environ.get('XLA_FLAGS', '')}"

import hypothesis
import jax
import pytest

# A program of its own, which test_devices.py runs twice.
collect_ignore = ["process_program.py"]

X64 = os.environ.get("JAXSOLVE_TEST_X64", "1") != "0"

jax.config.update("jax_enable_x64", X64)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_disable_most_optimizations", X64)
if cache := os.environ.get("JAXSOLVE_TEST_CACHE"):
    jax.config.update("jax_compilation_cache_dir", cache)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)

hypothesis.settings.register_profile("reproducible", derandomize=True, deadline=None, max_examples=25, database=None)
hypothesis.settings.load_profile("reproducible")


@pytest.fixture(scope="module", autouse=True)
def forget_compiled_programs():
    """Compiled programs of a module of tests are let go: all of them together exceed the memory maps of a process."""
    yield
    jax.clear_caches()


@pytest.fixture
def compilations():
    """The number of compilations since the start of the test, as a function."""
    counts = []

    def listen(event, duration, **kwargs):
        if event == "/jax/core/compile/backend_compile_duration":
            counts.append(duration)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield lambda: len(counts)
    if hasattr(jax.monitoring, "unregister_event_duration_listener"):
        jax.monitoring.unregister_event_duration_listener(listen)
    else:  # before jax 0.9
        jax.monitoring.clear_event_listeners()


def pytest_collection_modifyitems(items):
    """What is the same in both jobs runs once: `make test-all` repeats it in the other.

    Docstring examples run in float64, where compiling is cheap, and tests of single precision in float32.
    """
    # Several processes run together only tests that have the same names in each.
    if addressed := [item.nodeid for item in items if " at 0x" in item.nodeid]:
        raise pytest.UsageError(f"names of tests must not contain addresses of memory; give ids: {addressed}")
    for item in items:
        if isinstance(item, pytest.DoctestItem):
            item.add_marker(pytest.mark.float32)
            if not X64:
                item.add_marker(pytest.mark.slow)
        elif X64 and re.search("in_single_precision|in_float32", item.name) and item.get_closest_marker("float32"):
            item.add_marker(pytest.mark.slow)
