"""Timing helpers: medians over rounds in which the competitors take turns, so that a busy moment hits all of them."""

import random
import statistics
import time
from collections.abc import Callable

import jax


def seconds(call: Callable) -> float:
    """Wall-clock time of one call, results ready."""
    start = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - start


def interleaved(calls: dict[str, Callable], rounds: int, inner: int = 1) -> dict[str, float]:
    """Median seconds of each call over rounds; a round runs every call ``inner`` times and keeps the mean.

    The order is drawn anew each round: who runs after a call whose threads are still spinning pays for it.
    """
    times = {name: [] for name in calls}
    order, shuffle = list(calls.items()), random.Random(0).shuffle
    for _ in range(rounds):
        shuffle(order)
        for name, call in order:
            times[name].append(sum(seconds(call) for _ in range(inner)) / inner)
    return {name: statistics.median(values) for name, values in times.items()}


def report(title: str, times: dict[str, float], ours: str = "jaxsolve") -> None:
    """Print milliseconds, and the ratio of ours to each."""
    print(f"  {title}")
    for name, value in times.items():
        ratio = "" if name == ours else f"   ours / this {times[ours] / value:6.2f}"
        print(f"    {name:14}{1e3 * value:12.3f} ms{ratio}")
