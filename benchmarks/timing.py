"""What the benchmarks time with, and how they read memory."""

import os
import pathlib
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


def epoch_seconds(model, stream, epochs, clock=time.perf_counter, **options):
    """The least time of an epoch of `fit`, without the first one, which compiles."""
    import keras

    ends = []

    class Ends(keras.callbacks.Callback):
        # The logs of an epoch are numbers, so all of its steps are done.
        def on_epoch_end(self, epoch, logs=None):
            ends.append(clock())

    model.fit(stream, epochs=epochs, callbacks=[Ends()], verbose=0, shuffle=False, **options)
    return min(after - before for before, after in zip(ends, ends[1:], strict=False))


def resident_megabytes():
    """What this process holds in memory."""
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


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
