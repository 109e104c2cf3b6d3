"""Meshes with several devices, and ``shard_map``: solutions and gradients are those of one device."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import jaxsolve


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


@pytest.mark.slow
def test_two_processes():
    """Each has half of the rows; both find the solution of all, in the iterations of one process."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    env = {name: value for name, value in os.environ.items() if name not in ("PYTEST_XDIST_WORKER", "XLA_FLAGS")}
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.process_program", str(port), str(number)],
            cwd=Path(__file__).parent.parent,
            env={**env, "JAX_PLATFORMS": "cpu"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    outputs = [process.communicate(timeout=300) for process in started]
    assert all(process.returncode == 0 for process in started), outputs
    first, second = (json.loads(output.splitlines()[-1]) for output, _ in outputs)
    X, y = (np.concatenate([first[name], second[name]]) for name in ("my_X", "my_y"))
    assert first["rows"] == second["rows"] == len(X)

    def ridge(w, l2reg, X, y):
        return jnp.mean((X @ w - y) ** 2) + l2reg * jnp.sum(w**2)

    alone = jaxsolve.LBFGS(ridge, tol=1e-10).run(jnp.zeros(3), 0.1, X, y)
    matrix = X.T @ X / len(X) + 0.1 * np.eye(3)
    solution = np.linalg.solve(matrix, X.T @ y / len(X))
    for found in (first, second):
        np.testing.assert_allclose(found["params"], solution, atol=1e-9)
        np.testing.assert_allclose(found["slope"], -np.linalg.solve(matrix, solution), atol=1e-8)
        assert found["iterations"] == int(alone.state.iter_num)
