"""Non-finite trials, directions of ascent, rounding, and too few iterations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsolve.linesearch import BacktrackingLineSearch, HagerZhangLineSearch, ZoomLineSearch

SEARCHES = [ZoomLineSearch, BacktrackingLineSearch, HagerZhangLineSearch]


def all_finite(tree):
    return all(bool(jnp.all(jnp.isfinite(x))) for x in jax.tree.leaves(tree))


def barrier(x):
    return jnp.sum(x) - 1e-2 * jnp.sum(jnp.log(x))


@pytest.mark.parametrize("cls", SEARCHES)
def test_log_barrier(cls):
    options = {"decrease_factor": 0.3} if cls is BacktrackingLineSearch else {}
    search = cls(barrier, maxiter=200, max_stepsize=None, **options)
    for step in (0.5, 1.0, 1e3, 1e30):
        t, state = search.run(step, jnp.array([1.0, 0.5, 0.7]))
        assert bool(state.done)
        assert 0 < float(t) < 0.51
        assert all_finite((state.params, state.value, state.grad))
        assert bool(jnp.all(state.params > 0))


@pytest.mark.parametrize("cls", SEARCHES)
def test_growing_into_a_barrier(cls):
    """The steps grow until they leave the domain; the search ends inside it."""
    fun = lambda x: -jnp.log(1 - x) - 5.0 * x
    t, state = cls(fun, maxiter=60, max_stepsize=None).run(1e-3, jnp.asarray(0.0))
    assert bool(state.done) and all_finite((state.params, state.value, state.grad))
    assert float(state.params) < 1


@pytest.mark.parametrize("cls", SEARCHES)
def test_no_finite_trial_at_all(cls):
    search = cls(lambda x, bad: jnp.where(x == 1.0, x, bad), maxiter=5)
    for bad in (jnp.nan, jnp.inf, -jnp.inf):
        t, state = search.run(1.0, jnp.asarray(1.0), jnp.asarray(1.0), jnp.asarray(1.0), fun_args=(bad,))
        assert bool(state.failed) and not bool(state.done)
        assert float(t) == 0 and int(state.iter_num) == 5
        assert (float(state.params), float(state.value), float(state.grad)) == (1.0, 1.0, 1.0)
        assert float(state.error) == np.inf


@pytest.mark.parametrize("cls", SEARCHES)
def test_non_finite_gradient_with_a_finite_value_is_rejected(cls):
    def fun(x):
        value = 0.5 * jnp.sum((x - 3.0) ** 2)
        grad = jnp.where(x > 1.5, jnp.nan, x - 3.0)
        return value, grad

    t, state = cls(fun, value_and_grad=True, maxiter=40, c2=0.7).run(1.0, jnp.zeros(2))
    assert bool(state.done) and all_finite(state.grad)
    assert float(t) <= 0.5


@pytest.mark.parametrize("cls", SEARCHES)
def test_directions_that_do_not_descend_fail_at_once(cls):
    search = cls(lambda x: 0.5 * jnp.vdot(x, x))
    point = jnp.array([1.0, 2.0])
    ascent, orthogonal, zero, nan = point, jnp.array([-2.0, 1.0]), jnp.zeros(2), jnp.array([jnp.nan, -1.0])
    for params, direction, factor in (
        (point, ascent, 1.0),
        (point, orthogonal, 1.0),
        (point, zero, 1.0),
        (point, nan, 1.0),
        (zero, -zero, 1.0),
        (point, -point, jnp.nan),
    ):
        t, state = search.run(1.0, params, factor * 0.5 * jnp.vdot(params, params), params, direction)
        assert float(t) == 0 and bool(state.failed) and not bool(state.done)
        assert int(state.iter_num) == 0 and int(state.num_fun_eval) == 0
        np.testing.assert_array_equal(state.params, params)
        np.testing.assert_array_equal(state.grad, params)


@pytest.mark.parametrize("cls", SEARCHES)
def test_maxiter_returns_the_best_point(cls):
    fun = lambda x: jnp.sum((x - 1.0) ** 4)
    # A decrease, but far from flat enough.
    t, state = cls(fun, c1=1e-4, c2=1e-3, maxiter=2, max_stepsize=None).run(1e-3, jnp.zeros(2))
    assert bool(state.failed) and not bool(state.done)
    assert float(t) > 0 and float(state.value) < float(state.init_value)
    np.testing.assert_allclose(state.value, fun(state.params), rtol=1e-12)
    np.testing.assert_allclose(state.params, -t * jax.grad(fun)(jnp.zeros(2)), rtol=1e-12)
    # No decrease at all.
    t, state = cls(fun, maxiter=1).run(1.0, 5 * jnp.ones(2))
    assert bool(state.failed) and float(t) == 0
    np.testing.assert_array_equal(state.params, 5 * jnp.ones(2))


@pytest.mark.parametrize("cls", SEARCHES)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_slopes_decide_where_values_are_rounded(cls, dtype):
    """The value is 1 to the last digit, but the gradient knows better."""
    eps = jnp.finfo(dtype).eps
    scale = float(eps) / 4
    fun = lambda x: 1 + scale * 0.5 * jnp.vdot(x, x)
    t, state = cls(fun, max_stepsize=None).run(dtype(1 / scale), jnp.ones(2, dtype))
    assert bool(state.done) and int(state.iter_num) == 1
    # Steps that are too long or too short are still told apart.
    t, state = cls(fun, max_stepsize=None, maxiter=60).run(dtype(0.01 / scale), jnp.ones(2, dtype))
    assert bool(state.done) and float(t) * scale >= 0.09


@pytest.mark.parametrize("cls", SEARCHES)
def test_below_rounding_the_search_stops_early(cls):
    """A wrong gradient: no step helps, and soon the steps move nothing."""

    def fun(x):
        return jnp.sum(jnp.abs(x)), -jnp.ones_like(x)

    options = {"decrease_factor": 0.3} if cls is BacktrackingLineSearch else {}
    x = 1e3 * jnp.ones(2, jnp.float32)
    t, state = cls(fun, value_and_grad=True, maxiter=200, **options).run(1.0, x)
    assert bool(state.failed) and not bool(state.done)
    assert float(t) == 0 and int(state.iter_num) < 40
    np.testing.assert_array_equal(state.params, x)


@pytest.mark.parametrize("cls", [ZoomLineSearch, HagerZhangLineSearch])
def test_an_interval_without_a_solution_stops_early(cls):
    """At the kink of abs no slope is small: the interval shrinks to nothing."""
    fun = lambda x: jnp.abs(x[0] - 0.3) + 0.01 * x[0]
    t, state = cls(fun, c2=0.5, maxiter=500).run(jnp.float32(1.0), jnp.array([1.0], jnp.float32))
    if cls is HagerZhangLineSearch:
        # Rising slopes are good enough for the Wolfe conditions.
        assert bool(state.done)
    else:
        assert bool(state.failed) and int(state.iter_num) < 60
    np.testing.assert_allclose(state.params, [0.3], atol=0.35)
    assert float(state.value) < float(state.init_value)


@pytest.mark.parametrize("cls", SEARCHES)
def test_scale_of_the_objective_does_not_matter(cls):
    search = cls(lambda x, scale: scale * jnp.sum((x - 1.0) ** 4), max_stepsize=None)
    plain = search.run(1e-2, jnp.zeros(2), fun_args=(1.0,))
    for scale in (1e-30, 1e-10, 1e10, 1e30):
        t, state = search.run(1e-2 / scale, jnp.zeros(2), fun_args=(scale,))
        assert bool(state.done)
        assert int(state.iter_num) == int(plain.state.iter_num)
        np.testing.assert_allclose(t * scale, plain.stepsize, rtol=1e-9)
