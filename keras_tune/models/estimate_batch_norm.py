"""Measuring the statistics of batch normalization again."""

import contextlib
from collections.abc import Iterable

import keras
import numpy as np

from keras_tune.keras_internals import sublayers


def estimate_batch_norm(encoder: keras.Model, batches: Iterable[np.ndarray]) -> None:
    """Measure the statistics of all batch normalization layers on given waveforms, in place.

    During training each layer keeps a moving average of the mean and variance of its inputs, which
    inference then uses. After contrastive training it describes augmented views, not clean clips;
    in an untrained model it describes nothing (mean 0, variance 1). This function replaces both
    with the mean and variance over all given batches. The input of every layer is computed with the
    layers before it normalized by the statistics of the current batch.

    Args:
        encoder: Keras model from (batch, samples, 1) to (batch, d).
        batches: Iterable of float arrays (batch, samples, 1). A few hundred windows are enough; use
            batches of at least 16, since each is normalized by its own statistics.

    Raises:
        ValueError: There are no batches, or the statistics are not finite, or a batch has integers,
            whose scale is not that of the encoder.

    Source: Wu & Johnson, "Rethinking 'Batch' in BatchNorm" (2021), section 3.1 ("precise batch
    norm").

    Example:

    ```python
    encoder = keras_tune.TUNe.from_preset("tune_plus", load_weights=False)
    keras_tune.models.estimate_batch_norm(encoder, [np.random.normal(0, 0.1, (16, 59049, 1))])
    ```
    """
    layers = [
        layer for layer in sublayers(encoder) if isinstance(layer, keras.layers.BatchNormalization)
    ]
    before = [(layer, layer.momentum, layer.trainable) for layer in layers]
    sums = [[0.0, 0.0] for _ in layers]
    rows = 0
    try:
        for layer in layers:
            # Without momentum the moving statistics are those of the last batch.
            layer.momentum, layer.trainable = 0.0, True
        for batch in batches:
            with _without_gradients():
                encoder(float_batch(batch), training=True)
            for total, layer in zip(sums, layers, strict=True):
                mean, variance = _statistics(layer)
                total[0] += len(batch) * mean
                total[1] += len(batch) * (variance + np.square(mean))
            rows += len(batch)
    finally:
        for layer, momentum, trainable in before:
            layer.momentum, layer.trainable = momentum, trainable
    if not rows:
        raise ValueError("`batches` must contain at least one batch. Received: none")
    for layer, (mean, square) in zip(layers, sums, strict=True):
        mean, variance = mean / rows, square / rows - np.square(mean / rows)
        if not (np.isfinite(mean).all() and np.isfinite(variance).all()):
            raise ValueError(f"the statistics of {layer.path} are not finite")
        layer.moving_mean.assign(mean)
        layer.moving_variance.assign(np.maximum(variance, 0))


def float_batch(batch: np.ndarray) -> np.ndarray:
    """A batch of waveforms as float32; raises a `ValueError` for integers, which have no scale."""
    batch = np.asarray(batch)
    if batch.dtype.kind != "f":
        raise ValueError(
            "`batches` must be float arrays with full scale 1; divide int16 by 32768. "
            f"Received: an array of {batch.dtype}"
        )
    return batch.astype("float32", copy=False)


def _statistics(layer):
    return (
        np.asarray(keras.ops.convert_to_numpy(variable), "float64")
        for variable in (layer.moving_mean, layer.moving_variance)
    )


def _without_gradients():
    """Keep PyTorch from storing every activation; the other backends store none here."""
    if keras.backend.backend() != "torch":
        return contextlib.nullcontext()
    import torch

    return torch.no_grad()
