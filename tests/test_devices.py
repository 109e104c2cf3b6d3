"""Meshes with several devices, and ``shard_map``: solutions and gradients are those of one device."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.device_programs import CHECKS, SOLVERS


@pytest.fixture(scope="module")
def failures():
    """All programs in one process with eight devices, where warnings are errors as they are here."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "tests.device_programs"],
        cwd=Path(__file__).parent.parent,
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("check", CHECKS)
def test_on_eight_devices(failures, check, solver):
    failure = failures.get(f"{solver}-{check}")
    assert failure is None, failure
