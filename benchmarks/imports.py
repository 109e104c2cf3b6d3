"""Import time of jaxsolve, with every public name resolved, beyond that of jax and optax."""

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
    samples = []
    for _ in range(rounds):
        output = subprocess.run([sys.executable, "-c", TIMER], check=True, capture_output=True, text=True).stdout
        samples.append([float(x) for x in output.split()])
    print("import time beyond jax and optax (bar: 0.3 s)")
    for label, column in zip(("import jaxsolve", "every public name"), zip(*samples, strict=True), strict=True):
        print(f"  {label:20} median {statistics.median(column):.3f} s   best {min(column):.3f} s")


if __name__ == "__main__":
    main()
