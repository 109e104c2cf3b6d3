"""Meshes with several devices, and ``shard_map``: solutions and gradients are those of one device."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_programs_on_eight_devices():
    """All programs in one process with eight devices, where warnings are errors as they are here."""
    env = {name: value for name, value in os.environ.items() if name != "PYTEST_XDIST_WORKER"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "tests.device_programs"],
        cwd=Path(__file__).parent.parent,
        env={**env, "XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    failures = json.loads(done.stdout)
    assert not failures, "\n".join(failures.values())
