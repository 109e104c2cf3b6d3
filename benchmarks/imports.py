"""Import time of jaxsolve, with every public name resolved, beyond that of jax and optax."""

import os
import statistics
import subprocess
import sys

TIMER = """
import time, jax, optax
start = time.perf_counter()
import jaxsolve
alone = time.perf_counter()
for name in jaxsolve.__all__:
    getattr(jaxsolve, name)
print(alone - start, time.perf_counter() - start)
"""


def main(rounds: int = 7) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    samples = []
    for _ in range(rounds + 1):  # the first may have to write the bytecode, and is not counted
        command = [sys.executable, "-c", TIMER]
        output = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
        samples.append([float(x) for x in output.split()])
    samples = samples[1:]
    print("import time beyond jax and optax (bar: 0.3 s)")
    for label, column in zip(("import jaxsolve", "every public name"), zip(*samples, strict=True), strict=True):
        print(f"  {label:20} median {statistics.median(column):.3f} s   best {min(column):.3f} s")


if __name__ == "__main__":
    main()
