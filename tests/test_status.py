"""Statuses have sentences, and check raises them."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsolve import OptStep, SolverError, Status, check


class State(NamedTuple):
    status: object


def test_every_status_has_a_sentence():
    for status in Status:
        assert status.sentence.endswith(".")


def test_check():
    check(State(jnp.asarray(1)))
    check(OptStep(None, State(np.ones(3))))
    with pytest.raises(SolverError, match="MAXITER: .*maxiter") as info:
        check(State(jnp.asarray(4)))
    assert info.value.status is Status.MAXITER
    with pytest.raises(SolverError, match="2 of 3 runs"):
        check(State(jnp.asarray([1, 5, 5])))
    with pytest.raises(TypeError, match="status"):
        check(object())
    with pytest.raises(TypeError, match="outside"):
        jax.jit(lambda s: check(State(s)))(jnp.asarray(1))
