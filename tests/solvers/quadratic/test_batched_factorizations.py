"""No two batched calls of LAPACK may run at the same time.

In a batch they share the work among the threads of jaxlib's CPU backend, which also runs at the same time what does not
depend on each other; two calls that do so can wait for each other's threads forever. It happens once in many runs. What
can be seen every time is whether a compiled program orders its calls by what they compute.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsolve

# ---- Compiled programs --------------------------------------------------------------------------------------------

_COMPUTATION = re.compile(r"^(?:ENTRY )?%([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%([\w.\-]+) = .*?\s([a-z][\w\-]*)\((.*)$")
_NAMES = re.compile(r"%([\w.\-]+)")
_CALLED = re.compile(r"(?:calls|body|condition|to_apply|true_computation|false_computation)=%([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")


def _computations(text):
    """``{computation: [(instruction, operation, operands, line)]}``, in the order of the schedule."""
    found, current = {}, None
    for line in text.splitlines():
        if header := _COMPUTATION.match(line):
            current = found.setdefault(header[1], [])
        elif current is not None and (match := _INSTRUCTION.match(line)):
            name, operation, rest = match.groups()
            current.append((name, operation, _NAMES.findall(_arguments(rest)), line))
    return found


def _arguments(rest):
    """What stands before the parenthesis that closes the list of operands."""
    depth = 1
    for position, letter in enumerate(rest):
        depth += {"(": 1, ")": -1}.get(letter, 0)
        if not depth:
            return rest[:position]
    return rest


def independent_calls(text):
    """Pairs of LAPACK calls in a compiled program, or of loops that contain some, that nothing keeps apart."""
    computations, heavy = _computations(text), {}

    def is_heavy(name):
        if name not in heavy:
            heavy[name] = False
            heavy[name] = any(
                _calls_lapack(line) or any(map(is_heavy, _callees(line))) for *_, line in computations[name]
            )
        return heavy[name]

    pairs = []
    for instructions in computations.values():
        before, earlier = {}, []
        for name, _, operands, line in instructions:
            known = set().union(*(before.get(operand, set()) for operand in operands))
            if _calls_lapack(line) or any(map(is_heavy, _callees(line))):
                pairs += [(_described(other), _described(line)) for key, other in earlier if key not in known]
                earlier.append((name, line))
                known = known | {name}
            before[name] = known
    return pairs


def _calls_lapack(line):
    # A call with one matrix has nothing to share.
    return 'custom_call_target="lapack_' in line and re.search(r"= \(?\w+\[\d+,\d+,\d+", line) is not None


def _callees(line):
    branches = _BRANCHES.search(line)
    return _CALLED.findall(line) + (_NAMES.findall(branches[1]) if branches else [])


def _described(line):
    """What an instruction is, and from which operation of jax it comes."""
    source = re.search(r'op_name="([^"]*)"', line)
    return f"{line.split('=')[0].strip()} of {source[1] if source else line[:80]}"


# ---- Solvers ------------------------------------------------------------------------------------------------------

SIZE, ROWS, BATCH = 4, 3, 3
SOLVERS = {
    "InteriorPointQP": lambda P, q, A, b, G, h, x: jaxsolve.InteriorPointQP().run(None, (P, q), G, (-jnp.inf, h)),
    "InteriorPointQP warm": lambda P, q, A, b, G, h, x: jaxsolve.InteriorPointQP().run(x, (P, q), G, (-jnp.inf, h)),
    "InteriorPointQP relaxed": lambda P, q, A, b, G, h, x: jaxsolve.InteriorPointQP(smoothing=1e-3).run(
        None, (P, q), G, (-jnp.inf, h)
    ),
    "BoxOSQP": lambda P, q, A, b, G, h, x: jaxsolve.BoxOSQP().run(None, (P, q), G, (-jnp.inf, h)),
    "BoxOSQP warm": lambda P, q, A, b, G, h, x: jaxsolve.BoxOSQP().run(x, (P, q), G, (-jnp.inf, h)),
    "OSQP": lambda P, q, A, b, G, h, x: jaxsolve.OSQP().run(None, (P, q), (A, b), (G, h)),
    "EqualityConstrainedQP": lambda P, q, A, b, G, h, x: jaxsolve.EqualityConstrainedQP().run(None, (P, q), (A, b)),
    "elastic": lambda P, q, A, b, G, h, x: jaxsolve.solve_qp(P, q, A, b, G, h, elastic=1e3),
    "elastic OSQP": lambda P, q, A, b, G, h, x: jaxsolve.solve_qp(P, q, A, b, G, h, elastic=1e3, method="osqp"),
    "linprog": lambda P, q, A, b, G, h, x: jaxsolve.linprog(q, G, h, A, b, (-1, 1)),
    "nnls": lambda P, q, A, b, G, h, x: jaxsolve.nnls(G, h),
    "lsq_linear tall": lambda P, q, A, b, G, h, x: jaxsolve.lsq_linear(G.T, q, (-1.0, 1.0)),
}


def _x(result):
    return jax.tree.leaves(result.params if hasattr(result, "params") else result.x)[0]


def _data():
    rng = np.random.default_rng(0)
    shapes = (SIZE,), (1, SIZE), (1,), (ROWS, SIZE), (ROWS,), (SIZE,)
    others = [rng.standard_normal((BATCH, *shape)) for shape in shapes]
    return [jnp.asarray(part) for part in (np.tile(np.eye(SIZE), (BATCH, 1, 1)), *others)]


def _gradient(solve):
    def loss(*data):
        return jnp.sum(jax.vmap(lambda *each: _x(solve(*each)) ** 2)(*data))

    return jax.grad(loss, argnums=tuple(range(6)))


def _second_derivatives(solve):
    """Of each element, forward over reverse, with respect to a right-hand side and the objective."""

    def loss(vectors, P, A, G, x):
        q, b, h = vectors
        return jnp.sum(_x(solve(P, q, A, b, G, h, x)) ** 2)

    return lambda P, q, A, b, G, h, x: jax.vmap(jax.hessian(loss))((q, b, h), P, A, G, x)


def _compiled(function):
    return jax.jit(function).lower(*_data()).compile().as_text()


def test_what_counts_as_independent():
    some = jnp.tile(jnp.eye(3), (4, 1, 1))

    def pairs(function):
        return independent_calls(jax.jit(function).lower(some, 2 * some).compile().as_text())

    cholesky = jnp.linalg.cholesky
    assert len(pairs(lambda a, b: (cholesky(a), cholesky(b)))) == 1
    assert not pairs(lambda a, b: cholesky(b + cholesky(a)))

    def in_loops(a, b):
        loops = [jax.lax.fori_loop(0, 3, lambda _, c: cholesky(c @ c.mT), each) for each in (a, b)]
        return loops[0] + loops[1]

    assert len(pairs(in_loops)) == 1


def test_gradient_of_a_batch_has_no_independent_calls():
    assert not independent_calls(_compiled(_gradient(SOLVERS["EqualityConstrainedQP"])))


# Second derivatives of the relaxed problem solve for two directions, neither of which needs the other.
SECOND = [name for name in SOLVERS if name != "InteriorPointQP relaxed"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "derivative"),
    [(name, _gradient) for name in SOLVERS] + [(name, _second_derivatives) for name in SECOND],
)
def test_no_solver_has_independent_calls(name, derivative):
    text = _compiled(derivative(SOLVERS[name]))
    assert 'custom_call_target="lapack_' in text
    assert not independent_calls(text)
