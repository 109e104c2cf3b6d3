"""Resuming in a fresh process: the same bits; and what the training loop does."""

import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsolve

from .checks import assert_gradient


@pytest.mark.parametrize("form", ["orbax", "savez"])
@pytest.mark.parametrize("name", ["mini-batches, update", "GradientDescent, run"])
def test_a_run_goes_on_from_a_file(example, tmp_path, name, form):
    task, (save, load) = example.make_tasks()[name], example.FORMATS[form]
    path = example.file_of(tmp_path, name, form, "checkpoint")
    save(path, task.advance(task.start(), 3))
    resumed = task.advance(load(path, jax.eval_shape(task.start)), 4)
    assert example.compare(resumed, task.advance(task.start(), 7)) == (True, 0.0)
    assert int(resumed.state.iter_num) == 7


def test_compare_sees_one_bit(example):
    x = jnp.asarray([1.0, 2.0])
    assert example.compare({"x": x}, {"x": x}) == (True, 0.0)
    assert example.compare({"x": x}, {"x": jnp.nextafter(x, jnp.inf)}) == (False, 2.0**-51)
    assert not example.compare({"x": x}, {"x": x.astype(jnp.float32)})[0]


def test_a_file_of_another_program_is_refused(example, tmp_path):
    example.save_numpy(tmp_path / "some.npz", {"w": jnp.zeros(3)})
    with pytest.raises(ValueError, match="saved by another program"):
        example.load_numpy(tmp_path / "some.npz", {"w": jnp.zeros(4)})


def test_gradient_of_the_validation_loss(example, monkeypatch):
    monkeypatch.setattr(example, "inner_solver", lambda: jaxsolve.LBFGS(example.penalized, tol=1e-12))
    rng = np.random.default_rng(0)
    X, y = jnp.asarray(rng.normal(size=(12, 2))), jnp.asarray(rng.integers(2, size=12) * 1.0)
    assert_gradient(lambda theta: example.validation_loss(theta, jnp.zeros(2), X, y, X + 0.1, y)[0], jnp.zeros(2))


@pytest.mark.slow
def test_training_lowers_the_validation_loss(example):
    start = example.start_training()
    end = example.train(start, 40)
    before, after = (
        example.validation_loss(theta, start.solution, *example.load_data())[0] for theta in (start.theta, end.theta)
    )
    assert after < 0.9 * before


@pytest.mark.slow
def test_a_fresh_process_resumes(example):
    # In a process of its own: the settings of the tests change what is compiled, and with it the last bits.
    code = "import sys, save_and_resume; sys.exit(not save_and_resume.main(num_steps=6, saved_at=2))"
    folder = Path(example.__file__).parent
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("the same bits") == 10
