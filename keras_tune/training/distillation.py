"""Small encoders that learn the representation of a large one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from keras_tune.checks import sample_rate_of
from keras_tune.data.audio import to_float
from keras_tune.data.dataset import AudioDataset

if TYPE_CHECKING:
    import pandas as pd


def distill(
    student: keras.Model,
    teacher: keras.Model,
    dataset: AudioDataset,
    epochs: int = 10,
    steps_per_epoch: int | None = None,
    batch_size: int = 32,
    learning_rate: float = 1e-3,
    seed: int = 42,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    verbose: int = 2,
) -> pd.DataFrame:
    """Train an encoder to reproduce the representations of another one for the same crops.

    No labels and no negatives are needed, only clips of music. An index, a probe or a tagger's head
    made for one encoder's representation then also works with the other encoder, though less well.
    The loss is the mean squared error; the optimizer is Adam with a cosine learning rate schedule
    that ends at 0. The student is trained in place; each pass takes one random crop of every clip.

    The teacher's outputs should not be whitened: otherwise the PCA components that are hardest to
    learn count as much as all others. Let the student learn a PCA that is not whitened (`whitening`
    of `keras_tune.models.estimate_pca`), and then call `keras_tune.models.fit_representation`.

    Args:
        student: Keras model from (batch, samples, 1) to (batch, d), such as a `TUNe` with the
            `level` of the teacher and with `pooled_stages`.
        teacher: Keras model from (batch, samples, 1) to (batch, d), with the same window, sample
            rate and d.
        dataset: `keras_tune.data.AudioDataset` with the split train; the metrics are also computed
            on the clips of valid, if it has any.
        epochs: Integer. Defaults to 10.
        steps_per_epoch: Integer. Defaults to one pass over the clips.
        batch_size: Integer, the clips of a batch. Defaults to 32.
        learning_rate: Float, the highest learning rate. Defaults to 0.001.
        seed: Integer, the seed of order and crops. Defaults to 42.
        callbacks: Further Keras callbacks. Defaults to none.
        verbose: As in `keras.Model.fit`. Defaults to 2, a line for each epoch.

    Returns:
        DataFrame with a row for each epoch: `cosine_similarity`, `loss` and `r2` (the share of the
        variance of the teacher's outputs that the student explains, 1 at best), and the same with
        `val_`.

    Raises:
        ValueError: The shapes or sample rates of the two differ, or there are fewer clips than in a
            batch.

    Source: Hinton et al., "Distilling the Knowledge in a Neural Network" (2015); for
    representations instead of class probabilities: Romero et al., "FitNets: Hints for Thin Deep
    Nets" (ICLR 2015).

    Example:

    ```python
    from keras_tune.data import open_dataset, save_demo
    from keras_tune.training import distill

    save_demo("demo.npz", num_clips={"train": 8, "valid": 4}, seconds=1.0)
    arguments = {"tail_filters": [4, 8], "input_samples": 6561}
    teacher, student = (keras_tune.TUNe(2, 2, n, **arguments) for n in (8, 2))
    history = distill(student, teacher, open_dataset("demo.npz"), epochs=1, batch_size=4)
    history.columns.tolist()[:3]  # ["cosine_similarity", "loss", "r2"]
    ```
    """
    import pandas as pd

    _check(student, teacher, dataset)
    samples = student.input_shape[1]
    clips = dataset.count("train", samples)
    if clips < batch_size:
        raise ValueError(
            f"`batch_size` must be at most the {clips} clips of train. "
            f"Received: batch_size={batch_size}"
        )
    steps = steps_per_epoch or clips // batch_size
    crops: dict[str, Any] = {"clip_samples": samples, "batch_size": batch_size}
    valid = None
    if dataset.info.counts.get("valid"):
        parts = _pairs(teacher, dataset, "valid", shuffle=False, drop_remainder=False, **crops)
        valid = tuple(np.concatenate(part) for part in zip(*parts, strict=True))
    student.compile(
        keras.optimizers.Adam(
            keras.optimizers.schedules.CosineDecay(learning_rate, epochs * steps)
        ),
        "mean_squared_error",
        metrics=[
            keras.metrics.R2Score("variance_weighted_average", name="r2"),
            keras.metrics.CosineSimilarity(),
        ],
    )
    history = student.fit(
        _pairs(teacher, dataset, "train", repeat=True, seed=seed, **crops),
        validation_data=valid,
        validation_batch_size=batch_size,
        epochs=epochs,
        steps_per_epoch=steps,
        callbacks=list(callbacks),
        # Their order is that of the stream.
        shuffle=False,
        verbose=verbose,
    )
    return pd.DataFrame(history.history)


def _check(student, teacher, dataset):
    """Raise an error unless two encoders and the data are compatible."""
    for what, ours, theirs in (
        ("window", student.input_shape[1:], teacher.input_shape[1:]),
        ("output", student.output_shape[1:], teacher.output_shape[1:]),
        ("sample rate", sample_rate_of(student), sample_rate_of(teacher)),
    ):
        if ours != theirs:
            raise ValueError(
                f"`student` must have the teacher's {what}, {theirs}. Received: {ours}"
            )
    if sample_rate_of(student) != dataset.info.sample_rate:
        raise ValueError(
            f"`dataset` must have the encoders' sample rate, {sample_rate_of(student)} Hz. "
            f"Received: {dataset.info.sample_rate} Hz"
        )


def _pairs(teacher, dataset, split, **options) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Batches of crops, and the teacher's outputs for them."""
    for batch in dataset.batches(split, **options).as_numpy_iterator():
        crops = to_float(batch["audio"])[..., np.newaxis]
        yield crops, np.asarray(teacher.predict_on_batch(crops), "float32")
