"""How benchmarks time several ways of doing one thing."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any


def medians(calls: dict[str, Callable[[], Any]], repeats: int, in_a_row: int = 1) -> dict[str, float]:
    """Median milliseconds of each call, interleaved, after two rounds that do not count.

    `in_a_row`: calls of one kind before the next kind's turn, whose second half is timed: caches, threads and memory
    are then as in a loop over pictures, not as another network left them.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    for repeat in range(repeats + 2):
        for name, call in calls.items():
            for turn in range(in_a_row):
                start = time.perf_counter()
                call()
                if repeat > 1 and turn >= in_a_row // 2:
                    times[name].append(1000 * (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in times.items()}
