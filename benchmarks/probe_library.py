"""The grid of 216 probes at the size of MagnaTagATune: how long, how much memory, and what it is.

    python benchmarks/probe_library.py

18,706 clips of train and 1,825 of valid, 512 features, 50 tags; vectors and tags are random. What a
probe costs between two evaluations on valid (an epoch) depends on its hidden layer and its batch,
so some probes of each kind are trained for one epoch, and the rest is extrapolated: a probe is
trained for 11 to 100 of them. The memory is that of all 216 probes at once for a few steps, to
which the features of the whole set are added.
"""

import argparse
import contextlib
import dataclasses
import resource
import time

import numpy as np

from keras_tune.evaluation.probe_stack import ProbeStack, activate
from keras_tune.evaluation.probe_training import Schedule, train_probes
from keras_tune.evaluation.protocols import grid_configurations
from keras_tune.evaluation.tasks import roc_auc


def side(clips, options, seed):
    """Random vectors and tags, of which a clip has one in twenty."""
    random = np.random.default_rng(seed)
    vectors = random.standard_normal((clips, options.width), "float32")
    return vectors, (random.random((clips, options.tags)) < 0.05).astype("float32")


@contextlib.contextmanager
def metered(owner, name, seconds, key):
    """Add up the processor's seconds of a method; those of the methods in it count for both."""
    original = getattr(owner, name)

    def timed(*arguments, **options):
        started = time.thread_time()
        try:
            return original(*arguments, **options)
        finally:
            # Stacks are trained in threads; a second lost to another's addition does not matter.
            seconds[key] = seconds.get(key, 0.0) + time.thread_time() - started

    setattr(owner, name, timed)
    yield
    setattr(owner, name, original)


def train(configurations, train_side, valid_side, seconds):
    """One epoch of each probe; the processor's seconds by part."""

    def score(outputs):
        started = time.thread_time()
        found = roc_auc(valid_side[1], activate(outputs, "sigmoid")).mean(axis=-1)
        seconds["evaluation"] = seconds.get("evaluation", 0) + time.thread_time() - started
        return found

    schedule = Schedule(min_steps=8, patience=10, max_evaluations=1)
    with contextlib.ExitStack() as stack:
        for name, key in (("train", "training"), ("_descend", "Adam"), ("predict", "evaluation")):
            stack.enter_context(metered(ProbeStack, name, seconds, key))
        started = time.process_time()
        tags = train_side[1].shape[1]
        train_probes(train_side, valid_side, configurations, "sigmoid", tags, score, schedule)
        seconds["all"] = seconds.get("all", 0) + time.process_time() - started


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=18706)
    parser.add_argument("--valid_clips", type=int, default=1825)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--tags", type=int, default=50)
    options = parser.parse_args()
    grid = grid_configurations()
    valid_side = side(options.valid_clips, options, 1)
    train(grid, side(512, options, 0), valid_side, {})
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    # The vectors, and those of both sides of the grid: standardized and not.
    peak += 3 * (options.clips - 512) * options.width * 4
    train_side = side(options.clips, options, 0)
    print(f"{'hidden units':>12}{'batch':>7}{'probes':>8}{'s a probe and epoch':>21}", end="")
    print(f"{'Adam':>8}{'evaluation':>12}")
    total = 0.0
    kinds = sorted({(c.hidden_units or 0, c.batch_size) for c in grid})
    for hidden, batch in kinds:
        of_kind = [c for c in grid if (c.hidden_units or 0, c.batch_size) == (hidden, batch)]
        # Linear probes share stacks of nine.
        first = dataclasses.astuple(of_kind[0])
        some = [c for c in of_kind if (c.standardize, c.dropout) == (first[0], first[4])]
        some = some[:2] if hidden else some
        seconds = {}
        train(some, train_side, valid_side, seconds)
        each = seconds["all"] / len(some)
        total += each * len(of_kind)
        parts = [seconds[key] / seconds["all"] for key in ("Adam", "evaluation")]
        print(
            f"{hidden:12}{batch:7}{len(of_kind):8}{each:21.3f}{parts[0]:8.0%}{parts[1]:12.0%}",
            flush=True,
        )
    print(f"216 probes, an epoch: {total:.0f} processor s")
    print(f"11 to 100 epochs: {11 * total / 3600:.1f} to {100 * total / 3600:.1f} processor h")
    print(f"peak memory {peak / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
