"""Mini-sudoku by a quadratic program
==================================

Mini-sudoku learned by a quadratic program inside a Flax model (Amos and Kolter 2017, OptNet).

The network is one layer: it maps a puzzle p, the 64 one-hot entries of a 4 x 4 board with zeros in the empty cells, to

::

    z*(p) = argmin  eps/2 ||z||^2 - p^T z    subject to  A z = A z0,  z >= 0.

The rules are not given. A and z0 are parameters, learned by Adam from solved boards; the gradient of the loss with
respect to A goes through the solution of the program. During learning the rows of A come close to the rules: each row,
column and block contains each digit once, and each cell contains one digit.

Most entries of an exact solution are 0. They do not move, so nothing can be learned from them. The layer therefore
returns the point at which the products of entries and their multipliers are 0.01 instead of 0, and its derivative.
"""

import itertools
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxsolve

jax.config.update("jax_enable_x64", True)
SIZE = 64  # 16 cells times 4 digits


def all_boards():
    """The 288 solved boards as digits, shape (288, 4, 4)."""
    rows = list(itertools.permutations(range(4)))

    def valid(board):
        columns = all(len(set(column)) == 4 for column in zip(*board, strict=True))
        blocks = all(len({*board[i][j : j + 2], *board[i + 1][j : j + 2]}) == 4 for i in (0, 2) for j in (0, 2))
        return columns and blocks

    return np.array([board for board in itertools.product(rows, repeat=4) if valid(board)])


def make_puzzles(rng, boards, count, hidden):
    """Puzzles with ``hidden`` empty cells, and their solutions; two arrays of shape (count, 64)."""
    digits = boards[rng.integers(len(boards), size=count)].reshape(count, 16)
    solutions = np.eye(4)[digits]
    shown = np.ones((count, 16, 1))
    for puzzle in shown:
        puzzle[rng.permutation(16)[:hidden]] = 0
    return jnp.asarray((solutions * shown).reshape(count, SIZE)), jnp.asarray(solutions.reshape(count, SIZE))


class ProgramLayer(nn.Module):
    """The quadratic program as a layer; its parameters are the rows of A and a point z0 that meets them."""

    num_rows: int = 40
    eps: float = 0.1
    tol: float = 1e-6

    @nn.compact
    def __call__(self, p):
        """Solutions of shape (puzzles, 64) of puzzles of the same shape."""
        A = self.param("A", nn.initializers.uniform(0.25), (self.num_rows, SIZE), p.dtype)
        z0 = self.param("z0", nn.initializers.constant(0.25), (SIZE,), p.dtype)
        solver = jaxsolve.InteriorPointQP(tol=self.tol, smoothing=1e-2, maxiter=40)
        rows, b = jnp.concatenate([A, jnp.eye(SIZE)]), A @ z0
        bounds = (jnp.concatenate([b, jnp.zeros(SIZE)]), jnp.concatenate([b, jnp.full(SIZE, jnp.inf)]))
        Q = self.eps * jnp.eye(SIZE)

        def one(p):
            return solver.run(None, (Q, -p), rows, bounds).params.primal[0]

        return jax.vmap(one)(p)


def solved(z, solutions):
    """The fraction of boards of which every cell is right."""
    guess, truth = (jnp.argmax(part.reshape(-1, 16, 4), axis=-1) for part in (z, solutions))
    return jnp.mean(jnp.all(guess == truth, axis=1))


def main(num_steps=400, batch_size=32, num_rows=40, hidden=8, learning_rate=5e-2, num_test=200, every=100, seed=0):
    """Learn the rules; returns the fraction of held-out puzzles solved, before and after, and the losses printed."""
    rng = np.random.default_rng(seed)
    boards = all_boards()
    rng.shuffle(boards)
    train_boards, test_boards = boards[:200], boards[200:]
    test = make_puzzles(rng, test_boards, num_test, hidden)

    model = ProgramLayer(num_rows)
    params = model.init(jax.random.key(seed), test[0][:1])
    optimizer = optax.adam(optax.cosine_decay_schedule(learning_rate, num_steps))
    opt_state = optimizer.init(params)

    def loss(params, puzzles, solutions):
        return jnp.mean(jnp.sum((model.apply(params, puzzles) - solutions) ** 2, axis=1))

    @jax.jit
    def step(params, opt_state, puzzles, solutions):
        value, gradient = jax.value_and_grad(loss)(params, puzzles, solutions)
        updates, opt_state = optimizer.update(gradient, opt_state)
        return optax.apply_updates(params, updates), opt_state, value

    accuracy = jax.jit(lambda params: solved(model.apply(params, test[0]), test[1]))
    before = best = float(accuracy(params))
    losses = []
    print(f"{hidden} of 16 cells are empty; {len(train_boards)} boards to learn from, {len(test_boards)} held out")
    print(f"step {0:4}                held-out puzzles solved {before:6.1%}")
    for i in range(1, num_steps + 1):
        params, opt_state, value = step(params, opt_state, *make_puzzles(rng, train_boards, batch_size, hidden))
        if i % every == 0:
            best = float(accuracy(params))
            losses.append(float(value))
            print(f"step {i:4}  loss {value:8.4f}  held-out puzzles solved {best:6.1%}", flush=True)
    return before, best, losses


if __name__ == "__main__":
    before, after, _ = main()
    sys.exit(after < before + 0.6)
