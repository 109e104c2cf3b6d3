"""What the solvers of SciPy share: a callback on the host that evaluates functions of jax, and a record of its end."""

from __future__ import annotations

import abc
import functools
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxsolve._closure import hoist
from jaxsolve._compat import is_concrete, outside_transformations
from jaxsolve._status import Status
from jaxsolve._types import Array, OptStep, PyTree
from jaxsolve._vectors import flat, ravel
from jaxsolve.base import Solver, option
from jaxsolve.solvers._bounds import bounds_like, check_bounds

__all__ = ["Bounded", "Oracle", "ScipySolver", "is_traceable", "message_of", "status_of"]

_LONGEST_MESSAGE = 200

#: Functions of vectors by name; the host calls them with NumPy arrays, and gets tuples of such.
Oracle = Callable[..., tuple]


class ScipySolver(Solver):
    """Base of the solvers of ``scipy.optimize``.

    They run on the host, through ``jax.pure_callback``, also under ``jit``, and under ``vmap`` one element after the
    other. They call compiled functions and derivatives of jax. The solution is differentiated through its optimality
    conditions, in every mode.

    Attributes:
        method: a method of the SciPy function, in any case; ``None`` takes its default.
        dtype: dtype in which SciPy computes. Functions are evaluated in the dtype of the parameters.
        has_aux: whether the function returns auxiliary output too.
        options: the ``options`` of the SciPy function, a dict; it is not modified.
    """

    method: str | None = option(None)
    dtype: Any = option(np.float64)
    has_aux: bool = option(False)
    options: dict | None = option(None)

    #: Names of the methods.
    _methods: ClassVar[tuple[str, ...]] = ()

    def _validate(self) -> None:
        super()._validate()
        if not self.implicit_diff:
            raise ValueError(
                f"{type(self).__name__} has implicit_diff=True only: iterations on the host cannot be unrolled."
            )
        if self.method is not None and self._method not in self._methods:
            raise ValueError(f"method must be one of {', '.join(self._methods)}, or None; got {self.method!r}.")
        if self.options is not None and not isinstance(self.options, dict):
            raise TypeError(f"options must be a dict, got {self.options!r}.")
        tol = getattr(self, "tol", None)
        if not (tol is None or is_concrete(tol)):
            raise TypeError("tol is traced, but SciPy must know it: pass a Python number.")
        if tol is not None:
            self.tol = float(tol)  # an array would be traced
        if np.dtype(self.dtype) not in (np.float32, np.float64):
            raise ValueError(f"dtype must be float32 or float64, got {self.dtype!r}.")

    @property
    def _method(self) -> str | None:
        return None if self.method is None else self.method.lower()

    # ---- What a solver defines ------------------------------------------------------------------------------------

    @abc.abstractmethod
    def _oracles(self, x: Array, unravel: Callable, args: tuple, kwargs: dict) -> dict[str, tuple[Oracle, int]]:
        """The functions that the host needs, each with the number of vectors that it takes."""

    @abc.abstractmethod
    def _result_like(self, x: Array, oracles: dict[str, tuple[Oracle, int]]) -> dict[str, Any]:
        """What the host returns besides what all return, as a dict of ``jax.ShapeDtypeStruct``."""

    @abc.abstractmethod
    def _on_host(
        self, oracles: dict[str, Oracle], x: np.ndarray, bounds: tuple, unravel: Callable
    ) -> tuple[Any, Status, dict[str, Any]]:
        """Call SciPy; returns its result, what that says of its end, and the values of ``_result_like``."""

    def _slope(self, oracles: dict[str, Oracle], x: np.ndarray) -> np.ndarray | None:
        """The gradient on the host by which a claim of success is checked; ``None`` where there is none."""
        del oracles, x

    def _split(self, args: tuple, kwargs: dict) -> tuple[Any, tuple, dict]:
        """The bounds, or ``None``, and the data of the functions."""
        return None, args, kwargs

    @abc.abstractmethod
    def _state(self, params: PyTree, fields: dict[str, Any], args: tuple, kwargs: dict) -> Any:
        """The state at the result."""

    def _gradient(self, params: PyTree, *args: Any, **kwargs: Any) -> PyTree:
        """The gradient of the objective, which without bounds is the optimality function."""
        return self.optimality_fun(params, *args, **kwargs)

    # ---- The call -------------------------------------------------------------------------------------------------

    def _solve(self, init_params: PyTree, *args: Any, **kwargs: Any) -> tuple[OptStep, None]:
        x, unravel = ravel(init_params)
        if jnp.iscomplexobj(x):
            raise TypeError(f"{type(self).__name__} takes real parameters; pass their real and imaginary parts.")
        bounds, data, named = self._split(args, kwargs)
        oracles = self._oracles(x, unravel, data, named)
        sides = () if bounds is None else tuple(flat(side, x.dtype) for side in bounds_like(bounds, init_params))
        scalars = ("status", "scipy_status", "iter_num", "num_fun_eval", "num_jac_eval", "num_hess_eval")
        like = {
            "x": jax.ShapeDtypeStruct(x.shape, x.dtype),
            "message_codes": jax.ShapeDtypeStruct((_LONGEST_MESSAGE,), jnp.int32),
            "success": jax.ShapeDtypeStruct((), jnp.bool_),
            **{name: jax.ShapeDtypeStruct((), jnp.int32) for name in scalars},
            **self._result_like(x, oracles),
        }
        call = functools.partial(
            _call, functools.partial(self._on_host, unravel=unravel), self._slope, self.dtype, like
        )
        if self.jit or not outside_transformations():
            found = _call_back(call, oracles, x, sides, like)
        else:
            # Functions of the host, or functions of jax step by step.
            found = call({name: function for name, (function, _) in oracles.items()}, x, sides)
            found = jax.tree.map(jnp.asarray, found)
        point = found.pop("x")
        if sides and (self.jit or is_traceable(lambda x: self._gradient(unravel(x), *data, **named), point)):
            grad = flat(self._gradient(unravel(point), *data, **named), x.dtype)
            point = _on_bounds(point, grad, x, *sides)
        params = unravel(point)
        state = self._state(params, found, args, kwargs)
        lost = jnp.isnan(state.error) | ~jnp.all(jnp.isfinite(flat(state.fun_val)))
        status = Status.NONFINITE.where(lost, state.status)
        return OptStep(params, state._replace(status=status)), None


def _on_bounds(x: Array, grad: Array, start: Array, lower: Array, upper: Array) -> Array:
    """The point with entries on the bounds to which they are close: interior methods never get there.

    Those that are within 1e-6 of their bound, relative to its size and to the way from the start, and from which the
    negative gradient leads out of the box.
    """
    for bound, side in ((lower, 1), (upper, -1)):
        finite = jnp.isfinite(bound)
        near = jnp.where(finite, bound, 0)
        size = jnp.maximum(jnp.abs(near), jnp.abs(start - near))
        held = finite & (jnp.abs(x - near) <= 1e-6 * size) & (side * grad > 0)
        x = jnp.where(held, near, x)
    return x


def _call_back(call: Callable, oracles: dict, x: Array, sides: tuple, like: dict) -> dict[str, Array]:
    """The call from inside of a program; what the functions capture goes along."""
    hoisted = {name: hoist(function, *[x] * count) for name, (function, count) in oracles.items()}
    consts = {name: h.consts for name, h in hoisted.items()}
    programs = {name: jax.jit(h.without_consts().pure) for name, h in hoisted.items()}

    def callback(x, sides, consts):
        bound = {name: functools.partial(programs[name], consts=consts[name]) for name in programs}
        return call(bound, x, sides)

    return jax.pure_callback(callback, like, x, sides, consts, vmap_method="sequential")


def _call(
    on_host: Callable, slope: Callable, dtype: Any, like: dict, oracles: dict, x: Any, sides: tuple
) -> dict[str, np.ndarray]:
    """Run SciPy on NumPy arrays of one dtype, and bring what it returns to the shapes and dtypes of ``like``."""
    start = np.asarray(x)
    last_finite, met_nonfinite = start, False

    def as_numpy(oracle):
        def call(*vectors):
            nonlocal last_finite, met_nonfinite
            out = oracle(*(jnp.asarray(np.asarray(v, start.dtype)) for v in vectors))
            out = tuple(np.asarray(part).astype(dtype) for part in out)
            if all(np.all(np.isfinite(part)) for part in out):
                last_finite = np.array(vectors[0])
            else:
                met_nonfinite = True
            return out

        return call

    oracles = {name: as_numpy(oracle) for name, oracle in oracles.items()}
    sides = tuple(np.asarray(side).astype(dtype) for side in sides)
    from scipy import optimize

    try:
        with np.errstate(all="ignore"):  # where values are not finite
            result, status, values = on_host(oracles, start.astype(dtype), sides)
    except (ValueError, np.linalg.LinAlgError) as error:
        if not met_nonfinite:
            raise
        result = optimize.OptimizeResult(x=last_finite, success=False, status=-1, message=str(error))
        status, values = Status.NONFINITE, {}
    point = np.asarray(result.x)
    if not np.all(np.isfinite(point)):
        point, status = last_finite, Status.NONFINITE
    # SciPy takes comparisons with NaN or infinite values for success: what it says of such a run is checked.
    if met_nonfinite and status == Status.CONVERGED:
        first, end = (slope(oracles, x.astype(dtype)) for x in (start, point))
        if end is not None and not _free_norm(end, point, sides) <= _LESS * np.linalg.norm(first):
            status = Status.NONFINITE
    text = str(result.message).encode()[:_LONGEST_MESSAGE]
    found = {
        "x": point,
        "status": int(status),
        "success": result.success,
        "scipy_status": int(result.status),
        "iter_num": result.get("nit", 0),
        "num_fun_eval": result.get("nfev", 0),
        "num_jac_eval": result.get("njev", 0) or 0,
        "num_hess_eval": result.get("nhev", 0) or 0,
        "message_codes": np.frombuffer(text.ljust(_LONGEST_MESSAGE, b"\0"), np.uint8),
        **values,
    }
    found = {name: found.get(name, np.zeros(s.shape)) for name, s in like.items()}
    return {name: np.asarray(found[name]).astype(s.dtype).reshape(s.shape) for name, s in like.items()}


# A gradient that is less than that of the start by this factor is that of a solution.
_LESS = 1e-4


def _free_norm(grad: np.ndarray, x: np.ndarray, sides: tuple) -> float:
    """Norm of a gradient without the entries that are held at bounds."""
    if sides:
        grad = np.where((x <= sides[0]) & (grad > 0) | (x >= sides[1]) & (grad < 0), 0, grad)
    return float(np.linalg.norm(grad))


def message_of(codes: Any) -> str:
    """The message that a state holds as numbers."""
    return np.asarray(codes).astype(np.uint8).tobytes().rstrip(b"\0").decode(errors="replace")


class Bounded:
    """What is special about the solvers with bounds, the argument behind the initial point."""

    def _split(self, args: tuple, kwargs: dict) -> tuple[Any, tuple, dict]:
        if args:
            return args[0], args[1:], kwargs
        return kwargs.get("bounds"), (), {name: value for name, value in kwargs.items() if name != "bounds"}

    def _check_arguments(self, init_params: PyTree, *args: Any, **kwargs: Any) -> None:
        """Raise ``ValueError`` for bounds that are none."""
        check_bounds(self._split(args, kwargs)[0])


def status_of(result: Any) -> Status:
    """The status that a result of SciPy stands for."""
    text = str(result.message).lower()
    if result.success:
        return Status.CONVERGED
    if any(word in text for word in ("iteration", "evaluations", "function calls", "maxiter", "maxfev", "limit")):
        return Status.MAXITER
    return Status.LINESEARCH_FAILED if "abnormal" in text or "line search" in text else Status.STALLED


def is_traceable(function: Callable, x: Array) -> bool:
    """Whether a function of a vector is one of jax, and not of the host."""
    try:
        jax.eval_shape(function, jnp.asarray(x))
    except (jax.errors.JAXTypeError, TypeError, ValueError, AttributeError):
        return False
    return True
