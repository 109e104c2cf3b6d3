"""Problems of CVXPY as functions: their data, variables and multipliers; solutions and derivatives."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsolve

cp = pytest.importorskip("cvxpy")

from jaxsolve.solvers.external._canonical import canonicalize  # noqa: E402

RNG = np.random.default_rng(0)
SYMMETRIC = np.array([[1.0, 0.3], [0.3, -0.5]])


class Example:
    """A problem, its parameters with values, and its variables."""

    def __init__(self, problem, values, variables, gp=False):
        self.problem, self.gp, self.variables = problem, gp, variables
        self.parameters, self.values = list(values), [np.asarray(value, float) for value in values.values()]

    def canonical(self, duals=()):
        return canonicalize(cp, self.problem, self.parameters, self.variables, duals, self.gp)

    def layer(self, **options):
        return jaxsolve.cvxpy_layer(self.problem, self.parameters, self.variables, gp=self.gp, **options)

    def solve(self):
        """The solution by Clarabel."""
        for parameter, value in zip(self.parameters, self.values, strict=True):
            parameter.value = value
        return self.problem.solve(solver="CLARABEL", gp=self.gp, tol_gap_abs=1e-10, tol_gap_rel=1e-10, tol_feas=1e-10)


def relu():
    x, v = cp.Variable(3), cp.Parameter(3, name="v")
    return Example(cp.Problem(cp.Minimize(cp.sum_squares(x - v)), [x >= 0]), {v: [1.0, -2.0, 0.5]}, [x])


def optnet():
    """A quadratic program whose data are all parameters, the matrix of the objective too."""
    x, Q, q = cp.Variable(3), cp.Parameter((3, 3), PSD=True, name="Q"), cp.Parameter(3, name="q")
    G, h, A = cp.Parameter((4, 3), name="G"), cp.Parameter(4, name="h"), cp.Parameter((1, 3), name="A")
    problem = cp.Problem(cp.Minimize(0.5 * cp.quad_form(x, Q) + q @ x), [G @ x <= h, A @ x == 1])
    root = RNG.standard_normal((3, 3))
    values = {Q: root @ root.T + np.eye(3), q: [1.0, -1.0, 0.3], G: RNG.standard_normal((4, 3)), h: np.ones(4)}
    return Example(problem, {**values, A: np.ones((1, 3))}, [x])


def portfolio():
    w, mu, root = cp.Variable(4, nonneg=True), cp.Parameter(4, name="mu"), cp.Parameter((4, 4), name="root")
    limit = cp.Parameter(nonneg=True, name="limit")
    problem = cp.Problem(cp.Maximize(mu @ w), [cp.sum(w) == 1, cp.norm(root @ w) <= limit])
    return Example(problem, {mu: [0.1, 0.3, 0.2, 0.15], root: np.diag([0.2, 0.9, 0.5, 0.3]), limit: 0.4}, [w])


def logistic():
    w, X, lam = cp.Variable(2), cp.Parameter((5, 2), name="X"), cp.Parameter(nonneg=True, name="lam")
    y = np.array([1.0, -1.0, 1.0, 1.0, -1.0])
    loss = cp.sum(cp.logistic(cp.multiply(-y, X @ w))) + lam * cp.sum_squares(w)
    return Example(cp.Problem(cp.Minimize(loss)), {X: RNG.standard_normal((5, 2)), lam: 0.5}, [w])


def semidefinite():
    X, S = cp.Variable((2, 2), PSD=True), cp.Parameter((2, 2), symmetric=True, name="S")
    problem = cp.Problem(cp.Minimize(cp.sum_squares(X - S)), [cp.trace(X) == 1])
    return Example(problem, {S: SYMMETRIC}, [X])


def geometric():
    u, w, a = cp.Variable(pos=True), cp.Variable(pos=True), cp.Parameter(pos=True, name="a")
    problem = cp.Problem(cp.Minimize(u + 2 * w / a), [a * u * w**0.5 >= 1, w >= a])
    return Example(problem, {a: 2.0}, [u, w], gp=True)


def mixed():
    """Cones of all kinds, and variables and a parameter that CVXPY replaces."""
    X, D, x = cp.Variable((2, 2), symmetric=True), cp.Variable((2, 2), diag=True), cp.Variable(3)
    S, lam = cp.Parameter((2, 2), symmetric=True, name="S"), cp.Parameter(nonneg=True, name="lam")
    constraints = [
        X >> 0,
        cp.trace(X) == 1,
        X[0, 1] >= lam,
        cp.SOC(cp.Constant(2.0), x),
        cp.ExpCone(x[0], x[1], x[2]),
        cp.PowCone3D(x[1], x[2], x[0] - 0.1, 0.3),
        cp.diag(D) >= lam,
    ]
    objective = cp.Maximize(-cp.trace(S @ X) + cp.sum(x) - cp.trace(D) - cp.sum_squares(X) - cp.sum_squares(x))
    return Example(cp.Problem(objective, constraints), {S: SYMMETRIC, lam: 0.1}, [X, x, D])


def without_rows():
    x, Q = cp.Variable(2), cp.Parameter((2, 2), PSD=True, name="Q")
    return Example(cp.Problem(cp.Minimize(cp.quad_form(x, Q) - cp.sum(x))), {Q: [[2.0, 1.0], [1.0, 3.0]]}, [x])


def without_parameters():
    x = cp.Variable(3)
    return Example(cp.Problem(cp.Minimize(0), [cp.norm(x[:2]) <= 1 - x[2], x >= 0.1]), {}, [x])


FUNCTIONS = (
    relu,
    optnet,
    portfolio,
    logistic,
    semidefinite,
    geometric,
    mixed,
    without_rows,
    without_parameters,
)
KINDS = {fun.__name__: fun for fun in FUNCTIONS}
each = pytest.mark.parametrize("kind", KINDS)


def theta_of(program, values):
    @jax.jit
    def joined(values):
        parts = [leaf.put(values[k]) for k, leaf in zip(program.order, program.parameters, strict=True)]
        return jnp.concatenate([*parts, jnp.zeros(0)])

    return joined(values)


@each
def test_the_data_are_those_of_cvxpy(kind):
    example = KINDS[kind]()
    program = example.canonical()
    theta = theta_of(program, example.values)
    for parameter, value in zip(example.parameters, example.values, strict=True):
        assert parameter.value is None
        parameter.value = value
    with_forms = kind in ("optnet", "without_rows")
    if with_forms:
        from cvxpy.utilities import scopes

        with scopes.quad_form_dpp_scope():
            data, *_ = example.problem.get_problem_data("SCS", gp=example.gp)
    else:
        data, *_ = example.problem.get_problem_data("SCS", gp=example.gp)
    maps = [part for part in (program.A, program.b, program.c, program.P) if part is not None]
    A, b, c, *P = jax.jit(lambda theta: [part(theta) for part in maps])(theta)
    np.testing.assert_allclose(A, data["A"].toarray(), rtol=1e-14)
    np.testing.assert_allclose(b, data["b"], rtol=1e-14)
    np.testing.assert_allclose(c, data["c"], rtol=1e-14)
    if P:
        np.testing.assert_allclose(P[0], data["P"].toarray(), rtol=1e-14)
    else:
        assert data.get("P") is None or not data["P"].nnz
    assert program.cones.num_rows == data["b"].size


@pytest.mark.parametrize("kind", ["mixed"])
def test_large_data_are_sparse(kind, monkeypatch):
    from jaxsolve.solvers.external import _canonical

    program = KINDS[kind]().canonical()
    theta = theta_of(program, KINDS[kind]().values)
    dense = jax.jit(lambda theta: program.A(theta))(theta)
    monkeypatch.setattr(_canonical, "_DENSE_DATA", 1)
    monkeypatch.setattr(_canonical, "_DENSE_MAP", 0)
    sparse = jax.jit(lambda theta: program.A(theta))(theta)
    np.testing.assert_allclose(sparse.todense(), dense, rtol=1e-14)


def test_variables_and_multipliers_are_what_cvxpy_makes_of_a_solution():
    example = mixed()
    constraints = example.problem.constraints
    program = example.canonical(constraints)
    example.solve()
    data, chain, inverse = example.problem.get_problem_data("SCS")
    x, y = RNG.standard_normal(data["c"].size), RNG.standard_normal(data["b"].size)
    info = {"status_val": 1, "solve_time": 0.0, "setup_time": 0.0, "iter": 0, "pobj": 0.0}
    found = chain.invert({"info": info, "x": x, "y": y, "s": y}, inverse)
    example.problem.unpack(found)
    for leaf, variable in zip(program.variables, example.variables, strict=True):
        value = variable.value.toarray() if hasattr(variable.value, "toarray") else variable.value
        np.testing.assert_allclose(leaf.take(jnp.asarray(x)), value, rtol=1e-14)
    for (shapes, image), constraint in zip(program.duals, constraints, strict=True):
        want = [np.asarray(dual.value) for dual in constraint.dual_variables]
        assert [value.shape for value in want] == list(shapes)
        np.testing.assert_allclose(y @ image, np.concatenate([value.ravel() for value in want]), atol=1e-13)


def test_values_of_parameters_are_put_back():
    example = mixed()
    example.parameters[1].value = 0.3
    example.canonical(example.problem.constraints)
    assert example.parameters[0].value is None
    assert example.parameters[1].value == 0.3
    assert all(dual.value is None for c in example.problem.constraints for dual in c.dual_variables)


def test_what_is_wrong_is_named():
    x, p, q = cp.Variable(2, name="x"), cp.Parameter(nonneg=True, name="p"), cp.Parameter(name="q")
    layer = jaxsolve.cvxpy_layer

    def problem(objective, *constraints):
        return cp.Problem(cp.Minimize(objective), list(constraints))

    squares = cp.sum_squares(x)
    with pytest.raises(ValueError, match=r"\(DPP\).*the parameters: .*p .* q"):
        layer(problem(squares + cp.sum(p * q * x)), [p, q], [x])
    with pytest.raises(ValueError, match=r"\(DPP\).*: \w+\(p, 0.5\) <= x\."):
        layer(problem(squares, x >= cp.sqrt(p)), [p], [x])
    with pytest.raises(ValueError, match="not convex by the rules of CVXPY.*<= p"):
        layer(problem(squares, cp.sqrt(x[0]) <= p), [p], [x])
    with pytest.raises(ValueError, match=r"parameters must be those of the problem, \[p\], once each, got \[q\]"):
        layer(problem(squares, x >= p), [q], [x])
    with pytest.raises(ValueError, match="integer"):
        layer(problem(cp.sum(cp.Variable(2, boolean=True)) * p), [p], [])
    with pytest.raises(ValueError, match="does not depend on the variable unused"):
        layer(problem(squares, x >= p), [p], [cp.Variable(name="unused")])
    with pytest.raises(ValueError, match="duals must be constraints of the problem"):
        layer(problem(squares, x >= p), [p], [x], duals=[x >= 0])
    with pytest.raises(TypeError, match="variables must be a list"):
        layer(problem(squares, x >= p), [p], x)
    with pytest.raises(TypeError, match=r"problem must be a cvxpy\.Problem"):
        layer(squares, [p], [x])
    made = layer(problem(squares, x >= p), [p], [x])
    with pytest.raises(TypeError, match="values of p, got 2 values"):
        made(1.0, 2.0)
    with pytest.raises(ValueError, match=r"p must have the shape of its parameter, \(\), got shape \(2,\)"):
        made(jnp.ones(2))


# ---- Solutions -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@each
def test_solutions_multipliers_and_values_are_those_of_clarabel(kind):
    example = KINDS[kind]()
    constraints = [] if example.gp else example.problem.constraints
    layer = example.layer(duals=constraints)
    solution = layer.solve(*example.values)
    value = example.solve()
    assert int(solution.result.status) == jaxsolve.Status.CONVERGED
    np.testing.assert_allclose(solution.value, value, atol=1e-6)
    # Without an objective every feasible point is a solution.
    wanted = [] if kind == "without_parameters" else example.variables
    for got, variable in zip(solution.variables, wanted, strict=False):
        want = variable.value.toarray() if hasattr(variable.value, "toarray") else variable.value
        np.testing.assert_allclose(got, want, atol=1e-4)
    for got, constraint in zip(solution.duals, constraints, strict=True):
        for mine, dual in zip(jax.tree.leaves(got), constraint.dual_variables, strict=True):
            np.testing.assert_allclose(mine, dual.value, atol=1e-4)
    called = layer(*example.values)
    np.testing.assert_allclose(called[0], solution.variables[0], rtol=1e-12)
    assert len(called) == len(example.variables) + len(constraints)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "without_parameters"])
def test_derivatives_are_those_of_differences(kind):
    example = KINDS[kind]()
    layer = example.layer()
    rng, h = np.random.default_rng(1), 1e-5
    directions = [rng.standard_normal(value.shape) for value in example.values]
    directions = [
        d + d.T if p.is_symmetric() and d.ndim else d for d, p in zip(directions, example.parameters, strict=True)
    ]

    @jax.jit
    def along(t):
        moved = [value + t * d for value, d in zip(example.values, directions, strict=True)]
        return jnp.concatenate([out.ravel() for out in layer(*moved)])

    forward = jax.jit(jax.jacfwd(along))
    zero = jnp.zeros(())
    slope = forward(zero)
    np.testing.assert_allclose(slope, (along(zero + h) - along(zero - h)) / (2 * h), atol=1e-6)
    np.testing.assert_allclose(jax.jit(jax.jacrev(along))(zero), slope, atol=1e-9)
    second = jax.jit(jax.jacfwd(forward))(zero)
    np.testing.assert_allclose(second, (forward(zero + h) - forward(zero - h)) / (2 * h), atol=1e-4)


@pytest.mark.slow
def test_a_batch_with_an_infeasible_element():
    example = portfolio()
    layer = example.layer()
    mu, root, limit = map(jnp.asarray, example.values)
    limits = jnp.stack([limit, jnp.asarray(0.01), limit + 0.1])
    solve = jax.jit(jax.vmap(lambda limit: (layer.solve(mu, root, limit).result.status, layer(mu, root, limit)[0])))
    statuses, weights = solve(limits)
    assert statuses.tolist() == [
        jaxsolve.Status.CONVERGED,
        jaxsolve.Status.PRIMAL_INFEASIBLE,
        jaxsolve.Status.CONVERGED,
    ]
    for k in (0, 2):
        np.testing.assert_allclose(weights[k], layer(mu, root, limits[k])[0], atol=1e-8)
    slopes = jax.jit(jax.vmap(jax.grad(lambda limit: layer(mu, root, limit)[0][1])))(limits)
    assert slopes[1] == 0
    assert np.all(np.isfinite(slopes))
    assert abs(slopes[0]) > 0.1


@pytest.mark.slow
def test_float32_in_float32_out():
    (value,) = relu().layer()(np.asarray([1.0, -2.0, 0.5], np.float32))
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, [1.0, 0.0, 0.5], atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["optnet", "portfolio"])
def test_the_solver_for_cvxpylayers(kind):
    """By what that package would call it with: entries of the data, the batch first."""
    from jaxsolve.solvers.external.cvxpylayers import BatchSolver

    example = KINDS[kind]()
    program = example.canonical()
    data, context = _as_cvxpylayers(example)
    solver = BatchSolver()
    solver.setup(context)
    batch = [None if part is None else jnp.stack([part, part]) for part in data]
    x, y, state = solver.solve_jax_batch(*batch, context.cone_dims, {}, True)
    (want,) = example.layer()(*example.values)
    np.testing.assert_allclose(program.variables[0].take(x[1]), want, atol=1e-7)
    cotangent = jnp.zeros_like(x).at[0, 0].set(1.0)
    dP, dq, _ = solver.derivative_jax_batch(cotangent, jnp.zeros_like(y), state)
    assert (dP is None) == (data[0] is None)
    h = 1e-5
    moved = data[1].at[0].add(h), data[1].at[0].add(-h)
    up, down = (solver.solve_jax_batch(batch[0], jnp.stack([q, q]), batch[2], None, {}, False)[0] for q in moved)
    np.testing.assert_allclose(dq[0, 0], (up[0, 0] - down[0, 0]) / (2 * h), atol=1e-6)
    assert not dq[1].any()


def _as_cvxpylayers(example):
    """The entries of the data, and the context of a layer of that package."""
    from cvxpy.utilities import scopes

    for parameter, value in zip(example.parameters, example.values, strict=True):
        parameter.value = value
    with scopes.quad_form_dpp_scope():
        program = example.problem.get_problem_data("SCS")[0]["param_prob"]
    program.reduced_A.cache()
    program.reduced_P.cache()
    theta = np.zeros(program.total_param_size + 1)
    theta[-1] = 1.0
    canonical = example.canonical()
    theta[:-1] = theta_of(canonical, example.values)
    context = types.SimpleNamespace(
        reduced_A=program.reduced_A, reduced_P=program.reduced_P, cone_dims=program.cone_dims
    )
    P = None if program.reduced_P.reduced_mat is None else jnp.asarray(program.reduced_P.reduced_mat @ theta)
    return (P, jnp.asarray(program.q @ theta), jnp.asarray(program.reduced_A.reduced_mat @ theta)), context
