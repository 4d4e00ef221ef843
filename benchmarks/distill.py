"""Make the small encoder that comes with the package out of the large one.

    python benchmarks/distill.py --data tfrecords/open --output runs/tune_plus_64_open

`tune_plus_64` first learns a PCA of the last stages of `tune_plus_open` that is not whitened:
whitened outputs weight what is hard to learn as much as all the rest, and the training hardly
advances. Then its linear map, which takes acoustic features as well, is set to the regression on
the outputs of `tune_plus_open` as they are. The output folder gets `encoder.keras`, and
`history.csv` with the metrics of every epoch.
"""

import argparse
import pathlib

import keras
import numpy as np

from keras_tune.data import open_dataset
from keras_tune.data.audio import to_float
from keras_tune.models import (
    TUNe,
    estimate_batch_norm,
    estimate_pca,
    fit_representation,
    with_pooled_stages,
)
from keras_tune.training import distill

# Steps of an epoch, as in recipes/tune_plus_open.yaml.
STEPS = 100


def clean_batches(dataset, samples, passes=1, batch_size=32, seed=7):
    """One random crop of every clip of train in a pass, as float32 (batch, samples, 1)."""
    for number in range(passes):
        batches = dataset.batches(
            "train",
            clip_samples=samples,
            batch_size=batch_size,
            seed=seed + number,
            drop_remainder=False,
        )
        for batch in batches.as_numpy_iterator():
            yield to_float(batch["audio"])[..., np.newaxis]


def main():
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="the set of free music, prepared")
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--teacher", default="tune_plus_open", help="a preset with weights")
    parser.add_argument("--student", default="tune_plus_64", help="a preset")
    parser.add_argument("--epochs", type=int, default=20, help=f"epochs of {STEPS} steps")
    parser.add_argument("--precision", default="mixed_bfloat16")
    chosen = parser.parse_args()
    chosen.output.mkdir(parents=True, exist_ok=True)
    keras.utils.set_random_seed(1)
    dataset, precision = open_dataset(chosen.data), {"dtype": chosen.precision}
    teacher = TUNe.from_preset(chosen.teacher)
    samples = teacher.input_samples
    pooling = teacher.pooled_stages, teacher.pooled_dim
    targets = with_pooled_stages(teacher, *pooling)
    estimate_pca(targets, clean_batches(dataset, samples), whitening=0.0)
    fast = TUNe.from_config({**targets.get_config(), **precision})
    fast.set_weights(targets.get_weights())
    student = TUNe.from_preset(
        chosen.student,
        load_weights=False,
        level=teacher.level,
        pooled_stages=teacher.pooled_stages,
        pooled_dim=teacher.pooled_dim,
        **precision,
    )
    options = {"epochs": chosen.epochs, "steps_per_epoch": STEPS, "learning_rate": 0.002}
    history = distill(student, fast, dataset, **options)
    history.to_csv(chosen.output / "history.csv", index_label="epoch")
    encoder = TUNe.from_config({**student.get_config(), "dtype": "float32"})
    encoder.set_weights(student.get_weights())
    estimate_batch_norm(encoder, clean_batches(dataset, samples))
    encoder = with_pooled_stages(encoder, *pooling, teacher.acoustic_features)
    fit_representation(encoder, teacher, clean_batches(dataset, samples, passes=3))
    encoder.save(chosen.output / "encoder.keras")


if __name__ == "__main__":
    main()
