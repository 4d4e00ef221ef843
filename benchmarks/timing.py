"""What the benchmarks time with."""

import time


def best_seconds(call, repeats):
    """The least time of several calls, each of which waits for its result."""
    call()
    call()
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return min(seconds)
