"""Reading and training from one hour of music to all of a prepared set: views a second and memory.

    KERAS_BACKEND=tensorflow python benchmarks/hours.py tfrecords/open --hours 1 4 16 40

The set is limited to its first shards, so hours are those of whole shards. Reading cuts pairs of
random crops, as training does; training is that of the recipe's encoder with the published chain.
Views are counted for a second of the processor, and for reading of the clock beside it; ratios are
to the first row. Memory is what the process holds in the end; it grows with what TensorFlow keeps
to shuffle, up to some size, and must not grow with the hours.
"""

import argparse
import itertools
import time

from timing import epoch_seconds, resident_megabytes

WINDOW = 59049


def limited(path, hours, split="train"):
    """Open the first shards of a set, as many as `hours` take; the set and its hours."""
    from keras_tune.data import open_dataset

    info = open_dataset(path).info
    shards = info.split_shards(split)
    # 16-bit samples, but for names and labels.
    lengths = [shard.bytes / 2 / info.sample_rate / 3600 for shard in shards]
    before = itertools.accumulate([0, *lengths[:-1]])
    taken = [length for total, length in zip(before, lengths, strict=True) if total < hours]
    left = {shard.file for shard in shards[len(taken) :]}
    return open_dataset(path, exclude=left), sum(taken)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help="prepared set")
    parser.add_argument("--hours", type=float, nargs="+", default=[1, 4, 16, 40])
    parser.add_argument("--clips", type=int, default=32, help="clips a batch, two views each")
    parser.add_argument("--batches", type=int, default=100, help="batches read")
    parser.add_argument("--steps", type=int, default=4, help="steps trained, 0 for reading only")
    parser.add_argument("--model", default="tune_plus")
    parser.add_argument("--precision", default="mixed_bfloat16")
    options = parser.parse_args()
    import keras

    from keras_tune.augment import clmr_chain
    from keras_tune.models import TUNe
    from keras_tune.training import ContrastiveModel

    keras.config.set_dtype_policy(options.precision)
    encoder = TUNe.from_preset(options.model, load_weights=False, input_samples=WINDOW)
    model = ContrastiveModel(encoder, augmenter=clmr_chain(encoder.sample_rate, seed=0), seed=0)
    model.compile(keras.optimizers.Adam(3e-4))
    of_batches = {"clip_samples": WINDOW, "crops": 2, "batch_size": options.clips, "seed": 0}
    names = ("read/s", "ratio", "by clock", "train/s", "ratio")
    print(f"{'hours':>6}" + "".join(f"{name:>10}" for name in names) + f"{'MB':>8}", flush=True)
    first = None
    for hours in options.hours:
        dataset, found = limited(options.data, hours)
        batches = dataset.batches("train", repeat=True, **of_batches)
        stream = batches.as_numpy_iterator()
        next(stream)
        views = 2 * options.clips
        started = time.process_time(), time.perf_counter()
        for _ in range(options.batches):
            next(stream)
        ended = time.process_time(), time.perf_counter()
        processor, clock = (
            views * options.batches / (end - start)
            for start, end in zip(started, ended, strict=True)
        )
        row = [processor, 0.0]
        if options.steps:
            # The first epoch compiles, or fills what is shuffled.
            epochs = {"epochs": 3, "steps_per_epoch": options.steps, "clock": time.process_time}
            row[1] = views * options.steps / epoch_seconds(model, batches, **epochs)
        first = first or row
        cells = f"{found:6.1f}{row[0]:10.1f}{row[0] / first[0]:10.2f}{clock:10.1f}"
        cells += f"{row[1]:10.1f}{row[1] / first[1]:10.2f}" if options.steps else 20 * " "
        print(f"{cells}{resident_megabytes():8.0f}", flush=True)


if __name__ == "__main__":
    main()
