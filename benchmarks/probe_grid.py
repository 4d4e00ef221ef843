"""Train jukemir's grid of 216 probes at once and one after another, on the same representations.

Prints seconds and their ratio for three ways: stacked (what `--protocol grid` does), the same code
with one probe at a time, and Keras' own `fit` with early stopping, a model a configuration. The
sequential ways are measured on every `--every`-th configuration and extrapolated; say 1 to run all.
Seconds of the processor stand beside those of the clock: they count where other programs run too.

    python benchmarks/probe_grid.py --clips 235 --every 7
"""

import argparse
import time

import numpy as np

from keras_tune.evaluation.probe_training import Schedule, train_probes
from keras_tune.evaluation.protocols import grid_configurations


def representations(clips, width, classes, seed):
    """Clips of a few classes that overlap."""
    generator = np.random.default_rng(seed)
    centres = np.random.default_rng(0).normal(0, 0.12, (classes, width))
    labels = generator.integers(0, classes, clips)
    return (centres[labels] + generator.normal(size=(clips, width))).astype("float32"), labels


def with_keras(train, valid, configuration, classes, schedule):
    """One probe as anyone would write it."""
    import keras

    c = configuration
    layers = [keras.Input((train[0].shape[1],))]
    if c.standardize:
        normalization = keras.layers.Normalization()
        normalization.adapt(train[0])
        layers.append(normalization)
    l2 = {"kernel_regularizer": keras.regularizers.L2(c.l2 / 2)}
    layers.append(keras.layers.Dropout(c.dropout))
    if c.hidden_units:
        layers.append(keras.layers.Dense(c.hidden_units, activation="relu", **l2))
        layers.append(keras.layers.Dropout(c.dropout))
    model = keras.Sequential([*layers, keras.layers.Dense(classes, **l2)])
    model.compile(
        keras.optimizers.Adam(c.learning_rate),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    # As many steps between two evaluations on valid as the stack takes.
    repeats = max(1, -(-schedule.min_steps // -(-len(train[0]) // c.batch_size)))
    stop = keras.callbacks.EarlyStopping(
        "val_accuracy", mode="max", patience=schedule.patience, restore_best_weights=True
    )
    model.fit(
        np.tile(train[0], (repeats, 1)),
        np.tile(train[1], repeats),
        validation_data=valid,
        batch_size=c.batch_size,
        epochs=schedule.max_evaluations,
        callbacks=[stop],
        verbose=0,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=235)
    parser.add_argument("--valid_clips", type=int, default=79)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--classes", type=int, default=4)
    parser.add_argument("--every", type=int, default=7)
    parser.add_argument("--max_evaluations", type=int, default=100)
    options = parser.parse_args()
    train = representations(options.clips, options.width, options.classes, 1)
    valid = representations(options.valid_clips, options.width, options.classes, 2)
    configurations = grid_configurations()
    schedule = Schedule(min_steps=8, patience=10, max_evaluations=options.max_evaluations)

    def accuracy(outputs):
        return (outputs.argmax(-1) == valid[1]).mean(-1)

    def stacked(chosen):
        return train_probes(train, valid, chosen, "softmax", options.classes, accuracy, schedule)

    def timed(function, *arguments):
        started = np.array([time.monotonic(), time.process_time()])
        function(*arguments)
        return np.array([time.monotonic(), time.process_time()]) - started

    together = timed(stacked, configurations)
    print(f"216 probes, {options.clips} clips of {options.width} features")
    print(f"stacked                      {together[0]:8.1f} s, processor {together[1]:8.1f} s")
    # A stride that shares no factor with the grid's axes, so that all values of them come up.
    some = configurations[:: options.every]
    share = len(configurations) / len(some)
    ways = {
        "one at a time, same code": lambda c: stacked([c]),
        "one at a time, Keras' fit": lambda c: with_keras(
            train, valid, c, options.classes, schedule
        ),
    }
    for name, way in ways.items():
        seconds = share * sum(timed(way, configuration) for configuration in some)
        ratio = seconds / together
        note = f" (from {len(some)} of them)" if share > 1 else ""
        print(
            f"{name:28} {seconds[0]:8.1f} s, processor {seconds[1]:8.1f} s: "
            f"{ratio[0]:.1f} and {ratio[1]:.1f} times{note}",
            flush=True,
        )


if __name__ == "__main__":
    main()
