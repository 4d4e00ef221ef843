"""Pretrain on a loop of the demo corpus for a long time, and print memory and open files.

Both must stay flat once the first epochs are over. Run it with KERAS_BACKEND set:

    KERAS_BACKEND=jax python benchmarks/soak.py --minutes 60
"""

import argparse
import gc
import os
import pathlib
import tempfile
import time

from timing import resident_megabytes


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--every", type=float, default=60, help="seconds between two lines")
    parser.add_argument("--input_samples", type=int, default=19683)
    options = parser.parse_args()

    import keras

    from keras_tune.data import open_dataset, write_demo
    from keras_tune.models import TUNe
    from keras_tune.training import Checkpoint, ContrastiveModel, EpochSeed

    class Meter(keras.callbacks.Callback):
        """Print what the process holds, and stop when the time is over."""

        def __init__(self):
            super().__init__()
            self.begin = self.last = time.monotonic()
            self.steps = 0
            print("minutes   steps   RSS in MB   open files   Python objects", flush=True)

        def on_train_batch_end(self, batch, logs=None):
            self.steps += 1
            now = time.monotonic()
            if now - self.last >= options.every:
                self.last = now
                minutes = (now - self.begin) / 60
                print(
                    f"{minutes:7.1f} {self.steps:7} {resident_megabytes():11.1f} "
                    f"{len(os.listdir('/proc/self/fd')):12} {len(gc.get_objects()):16}",
                    flush=True,
                )

        def on_epoch_end(self, epoch, logs=None):
            if time.monotonic() - self.begin > 60 * options.minutes:
                self.model.stop_training = True

    keras.utils.set_random_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        write_demo(pathlib.Path(folder) / "set", seconds=4.0)
        model = ContrastiveModel(
            TUNe.from_preset(
                "tune_plus_32",
                load_weights=False,
                base_filters=4,
                input_samples=options.input_samples,
            )
        )
        model.compile(keras.optimizers.Adam(1e-3))
        clips = {"clip_samples": options.input_samples, "crops": 2, "batch_size": 16}
        dataset = open_dataset(pathlib.Path(folder) / "set")
        model.fit(
            dataset.batches("train", **clips, repeat=True, seed=0),
            validation_data=dataset.batches("valid", **clips),
            steps_per_epoch=20,
            epochs=10**9,
            verbose=0,
            callbacks=[EpochSeed(0), Checkpoint(pathlib.Path(folder) / "model.keras"), Meter()],
        )


if __name__ == "__main__":
    main()
