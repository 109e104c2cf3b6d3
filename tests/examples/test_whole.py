"""Examples that have no test of their own, executed on less data: what they claim holds, and they print."""

import importlib.util
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
SMALLER = {
    "kernel_svm": {"num_steps": 10},
    "lasso_path": {"num_weights": 16},
    "nmf": {"num_rounds": 50, "num_images": 200},
    "ridge": {},
    "soft_ranking": {"num_splits": 1},
    "structured_prediction": {"num_train": 200, "num_steps": 150},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALLER)
def test_example(name, capsys):
    spec = importlib.util.spec_from_file_location(f"examples_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    assert module.main(**SMALLER[name])
    assert capsys.readouterr().out
