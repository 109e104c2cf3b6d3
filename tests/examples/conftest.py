"""Examples are programs of users: they are loaded from their files, and run without the strictness of the tests."""

import importlib.util
import sys
from pathlib import Path

import jax
import pytest

EXAMPLES = Path(__file__).parent.parent.parent / "examples"


@pytest.fixture(scope="module", autouse=True)
def default_promotion():
    """Libraries that examples use, such as optax, mix dtypes."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture(scope="module")
def example(request):
    """The script in ``examples`` whose name is that of the test's file without ``test_``."""
    name = request.module.__name__.rsplit(".", 1)[-1].removeprefix("test_")
    spec = importlib.util.spec_from_file_location(f"examples_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
