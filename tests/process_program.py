"""A regression whose rows lie in two processes, run twice by test_devices.py.

Arguments: the port of the first process, and the number of this one.
"""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxsolve

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(f"localhost:{sys.argv[1]}", num_processes=2, process_id=int(sys.argv[2]))

# The program of each process


def ridge(w, l2reg, X, y):
    return jnp.mean((X @ w - y) ** 2) + l2reg * jnp.sum(w**2)


mesh = jax.make_mesh((jax.device_count(),), ("rows",), axis_types=(AxisType.Auto,))
rows = NamedSharding(mesh, P("rows"))

rng = np.random.default_rng(jax.process_index())
my_X, my_y = rng.normal(size=(8, 3)), rng.normal(size=8)
X = jax.make_array_from_process_local_data(rows, my_X)
y = jax.make_array_from_process_local_data(rows, my_y)

solver = jaxsolve.LBFGS(ridge, tol=1e-10)
w, state = solver.run(jnp.zeros(3), 0.1, X, y)
slope = jax.jacobian(lambda l2reg: solver.run(jnp.zeros(3), l2reg, X, y).params)(0.1)

# What the test reads
found = {"params": w.tolist(), "slope": slope.tolist(), "iterations": int(state.iter_num), "rows": X.shape[0]}
print(json.dumps({**found, "my_X": my_X.tolist(), "my_y": my_y.tolist()}))
jax.distributed.shutdown()
