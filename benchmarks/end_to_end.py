"""What reading and augmentation add to training: `fit` on shards beside the bare training step.

    python benchmarks/end_to_end.py --backend tensorflow --precision mixed_bfloat16

Four times, in seconds a step: the bare step (crops already on the device, not augmented), the step
with the published augmentation chain, `fit` from shards with that chain, and reading alone. The
shards hold minutes of noise, one for each clip of a batch, in a temporary folder.
"""

import argparse
import os
import pathlib
import tempfile
import time

import numpy as np

SAMPLE_RATE = 22050


def write_shards(folder, clips):
    """Prepare `clips` minutes of noise as 16-bit PCM."""
    import pandas as pd
    import soundfile

    from keras_tune.data import prepare

    rng = np.random.default_rng(0)
    rows = []
    for index in range(clips):
        path = pathlib.Path(folder) / f"{index}.wav"
        soundfile.write(path, rng.standard_normal(60 * SAMPLE_RATE) * 0.1, SAMPLE_RATE)
        rows.append({"id": str(index), "path": str(path), "split": "train"})
    return prepare(pd.DataFrame(rows), f"{folder}/shards", name="noise", workers=1, progress=False)


def timed(call, steps):
    call(1)
    started = time.perf_counter()
    call(steps)
    return (time.perf_counter() - started) / steps


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backend", default="tensorflow")
    parser.add_argument("--model", default="tune_plus")
    parser.add_argument("--clips", type=int, default=48, help="clips a batch, two views each")
    parser.add_argument("--samples", type=int, default=59049, help="length of a view")
    parser.add_argument("--steps", type=int, default=6, help="steps timed")
    parser.add_argument("--precision", default="mixed_bfloat16")
    options = parser.parse_args()
    os.environ["KERAS_BACKEND"] = options.backend
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import keras

    from keras_tune.augment import clmr_chain
    from keras_tune.data import open_dataset
    from keras_tune.models import TUNe
    from keras_tune.training import ContrastiveModel

    keras.config.set_dtype_policy(options.precision)
    encoder = TUNe.from_preset(options.model, load_weights=False, input_samples=options.samples)
    crops = np.random.default_rng(0).standard_normal((options.clips, 2, options.samples))
    crops = keras.ops.convert_to_tensor(crops.astype("float32"))

    def steps_of(model, count):
        for _ in range(count):
            model.train_on_batch(crops)

    def compiled(augmenter):
        model = ContrastiveModel(encoder, augmenter=augmenter, seed=0)
        model.compile(keras.optimizers.Adam(3e-4))
        return model

    bare = compiled(None)
    seconds = {"bare step": timed(lambda count: steps_of(bare, count), options.steps)}
    model = compiled(clmr_chain(SAMPLE_RATE, seed=0))
    seconds["with the chain"] = timed(lambda count: steps_of(model, count), options.steps)
    with tempfile.TemporaryDirectory() as folder:
        write_shards(folder, options.clips)
        clips = open_dataset(f"{folder}/shards").batches(
            clip_samples=options.samples,
            crops=2,
            batch_size=options.clips,
            repeat=True,
            seed=0,
        )
        seconds["fit from shards"] = timed(
            lambda count: model.fit(clips, steps_per_epoch=count, verbose=0, shuffle=False),
            options.steps,
        )
        batches = iter(clips)
        seconds["reading alone"] = timed(
            lambda count: [next(batches) for _ in range(count)], 10 * options.steps
        )
    print(f"{options.model}, {options.backend}, {options.precision}, {options.clips} clips a batch")
    print(f"{'':<18}{'s a step':>10}{'views/s':>10}{'ratio':>8}")
    for name, value in seconds.items():
        rate, ratio = 2 * options.clips / value, value / seconds["bare step"]
        print(f"{name:<18}{value:>10.3f}{rate:>10.1f}{ratio:>8.2f}")


if __name__ == "__main__":
    main()
