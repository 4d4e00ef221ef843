"""What the benchmarks time with."""

import resource
import time

import numpy as np


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


def measure(functions, repeats):
    """The least seconds of each function, and the least of the processors."""
    taken = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            begin = now()
            function()
            taken[name].append(now() - begin)
    return {name: np.min(seconds, axis=0) for name, seconds in taken.items()}


def now():
    """Seconds of the clock, and of the processors for this process and those it has started."""
    used = [resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return np.array([time.perf_counter(), sum(u.ru_utime + u.ru_stime for u in used)])
