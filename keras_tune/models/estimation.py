"""Parts of an encoder that are computed from given waveforms, in place, without training.

These are the statistics of batch normalization, and the representation as a linear map of pooled
stages: their PCA, or a regression.
"""

import contextlib
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

from keras_tune.keras_internals import sublayers
from keras_tune.models.tune import TUNe

# The root mean square of the outputs' deviations, about that of a stage averaged over time. Probes
# and heads with a learning rate of their own then train as on the other encoders.
DEVIATION = 0.3


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
    sums: list[Any] = [[0.0, 0.0] for _ in layers]
    rows = 0
    try:
        for layer in layers:
            # Without momentum the moving statistics are those of the last batch.
            layer.momentum, layer.trainable = 0.0, True
        for batch in batches:
            with _without_gradients():
                encoder(float_batch(batch), training=True)
            for total, layer in zip(sums, layers, strict=True):
                mean, variance = (
                    np.asarray(keras.ops.convert_to_numpy(variable), "float64")
                    for variable in (layer.moving_mean, layer.moving_variance)
                )
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


def _without_gradients():
    """Keep PyTorch from storing every activation; the other backends store none here."""
    if keras.backend.backend() != "torch":
        return contextlib.nullcontext()
    import torch

    return torch.no_grad()


def estimate_pca(
    encoder: keras.Model, batches: Iterable[np.ndarray], whitening: float = 0.7, seed: int = 0
) -> None:
    """Set an encoder's linear map from pooled stages to a PCA of them, in place.

    An encoder with `pooled_stages` concatenates the mean and standard deviation over time of its
    last stages, and its acoustic features if it has any; a dense layer maps them to the
    representation. This function sets its weights. The numbers are standardized over all given
    windows, projected on their first principal components, and component i is divided by its
    standard deviation to the power of `whitening`, so that the first components do not outweigh all
    others. A random rotation then spreads the components over all outputs, which keeps a probe that
    standardizes its inputs from undoing the weighting. The mean of the outputs is 0, the root mean
    square of their deviations 0.3.

    Args:
        encoder: `TUNe` with `pooled_stages`.
        batches: Iterable of float arrays (batch, samples, 1), of some thousand windows. With no
            more windows than outputs there are fewer components, and they are spread over all
            outputs as well.
        whitening: Float from 0 (plain PCA) to 1 (all components of equal variance). Defaults to
            0.7.
        seed: Integer, the seed of the rotation. Defaults to 0.

    Raises:
        ValueError: The encoder has no pooled stages, there are fewer than two windows, all are
            equal, a batch has integers, or `whitening` is out of its range.

    Source: Jégou & Chum, "Negative Evidences and Co-occurrences in Image Retrieval: The Benefit of
    PCA and Whitening" (ECCV 2012), sections 3 and 4; the rotation: Jégou et al., "Aggregating Local
    Descriptors into a Compact Image Representation" (CVPR 2010), section 3.2.

    Example:

    ```python
    encoder = keras_tune.TUNe.from_preset("tune_plus", load_weights=False, pooled_stages=4)
    keras_tune.models.estimate_pca(encoder, [np.random.normal(0, 0.1, (16, 59049, 1))])
    ```
    """
    if not 0 <= whitening <= 1:
        raise ValueError(f"`whitening` must be from 0 to 1. Received: whitening={whitening}")
    dense, pooled = _linear_map(encoder)
    standardized, mean, inverse = _standardized(pooled(batch) for batch in batches)
    # The smaller matrix of products, much faster than a singular value decomposition.
    wide = len(standardized) < standardized.shape[1]
    products = standardized @ standardized.T if wide else standardized.T @ standardized
    variances, axes = np.linalg.eigh(products / len(standardized))
    variances, axes = variances[::-1], axes.T[::-1]
    count = min(dense.units, int(np.sum(variances > 1e-9)))
    if not count:
        raise ValueError("`batches` must have windows that differ. Received: equal ones")
    values, axes = np.sqrt(variances[:count]), axes[:count]
    if wide:
        axes = axes @ standardized / (values[:, None] * np.sqrt(len(standardized)))
    normal = np.random.default_rng(seed).normal(size=(dense.units, count))
    rotation, _ = np.linalg.qr(normal)
    kernel = (inverse[:, None] * axes.T / values**whitening) @ rotation.T
    kernel *= DEVIATION * np.sqrt(dense.units / np.sum(values ** (2 - 2 * whitening)))
    dense.set_weights([kernel, -mean @ kernel])


def fit_representation(
    encoder: keras.Model,
    teacher: keras.Model,
    batches: Iterable[np.ndarray],
    penalty: float = 1e-3,
) -> None:
    """Set an encoder's linear map from pooled stages to what comes nearest to a teacher, in place.

    It is the ridge regression of the teacher's outputs on the standardized statistics of the
    encoder's last stages. After `keras_tune.training.distill`, it brings a small encoder into the
    space of a large one.

    Args:
        encoder: `TUNe` with `pooled_stages`, and with a `pooled_dim` that is the size of the
            teacher's outputs.
        teacher: Keras model from (batch, samples, 1) to (batch, d), for the same windows.
        batches: Iterable of float arrays (batch, samples, 1), of some thousand windows.
        penalty: Float, the weight of the squared coefficients for standardized statistics, relative
            to the number of windows. Defaults to 0.001.

    Raises:
        ValueError: The encoder has no pooled stages or another size, there are fewer than two
            windows, a batch has integers, or `penalty` is not positive.

    Source: Hoerl & Kennard, "Ridge Regression: Biased Estimation for Nonorthogonal Problems"
    (Technometrics, 1970).

    Example:

    ```python
    teacher = keras_tune.TUNe.from_preset("tune_plus_open")
    arguments = {"load_weights": False, "level": 0.1, "pooled_stages": 4}
    encoder = keras_tune.TUNe.from_preset("tune_plus_64", **arguments)
    windows = np.random.normal(0, 0.1, (8, 59049, 1))
    keras_tune.models.fit_representation(encoder, teacher, [windows])
    ```
    """
    if penalty <= 0:
        raise ValueError(f"`penalty` must be positive. Received: penalty={penalty}")
    dense, pooled = _linear_map(encoder)
    if teacher.output_shape[1:] != (dense.units,):
        raise ValueError(
            f"`teacher` must have the encoder's output, ({dense.units},). "
            f"Received: {teacher.output_shape[1:]}"
        )
    targets = []

    def features():
        for batch in batches:
            targets.append(teacher.predict_on_batch(float_batch(batch)))
            yield pooled(batch)

    standardized, mean, inverse = _standardized(features())
    outputs = np.concatenate(targets).astype("float64")
    products = standardized.T @ standardized / len(standardized)
    products += penalty * np.eye(len(products))
    bias = outputs.mean(axis=0)
    moments = standardized.T @ (outputs - bias) / len(standardized)
    kernel = inverse[:, None] * np.linalg.solve(products, moments)
    dense.set_weights([kernel, bias - mean @ kernel])


def _linear_map(encoder):
    """The dense layer of an encoder with pooled stages, and the function that gives its inputs."""
    if not getattr(encoder, "pooled_stages", 0):
        raise ValueError(
            "`encoder` must be a TUNe with `pooled_stages`. "
            f"Received: encoder={type(encoder).__name__}"
        )
    pooled = keras.Model(encoder.input, encoder.get_layer("pooled").output)

    def statistics(batch):
        return pooled.predict_on_batch(float_batch(batch))

    return encoder.get_layer("representation"), statistics


def _standardized(parts):
    """The statistics of all windows with mean 0 and deviation 1, the mean, and 1 / deviation."""
    features = np.concatenate([*parts] or [np.zeros((0, 1))]).astype("float64")
    if len(features) < 2:
        raise ValueError(f"`batches` must have at least two windows. Received: {len(features)}")
    mean, deviation = features.mean(axis=0), features.std(axis=0)
    # A channel that is always zero has nothing to say.
    inverse = np.divide(1, deviation, out=np.zeros_like(deviation), where=deviation > 1e-6)
    return (features - mean) * inverse, mean, inverse


def with_pooled_stages(
    encoder: TUNe, stages: int = 4, dim: int = 512, acoustic_features: bool = False
) -> TUNe:
    """Build the same encoder with a representation that is a linear map of pooled stages.

    Args:
        encoder: `TUNe`.
        stages: Integer, the number of its last stages to pool; 0 for the mean of the last one.
            Defaults to 4.
        dim: Integer, the size of the representation. Defaults to 512.
        acoustic_features: Whether the linear map takes acoustic features as well (see `TUNe`).
            Defaults to False.

    Returns:
        A new `TUNe` with the same weights, whose linear map is random: see `estimate_pca`.

    Raises:
        ValueError: The encoder has fewer stages.

    Example:

    ```python
    encoder = keras_tune.TUNe.from_preset("tune_plus", load_weights=False)
    pooled = keras_tune.models.with_pooled_stages(encoder)
    keras_tune.models.estimate_pca(pooled, [np.random.normal(0, 0.1, (16, 59049, 1))])
    pooled.predict(np.zeros((1, 59049, 1))).shape  # (1, 512)
    ```
    """
    pooling = {"pooled_stages": stages, "pooled_dim": dim, "acoustic_features": acoustic_features}
    built = TUNe.from_config({**encoder.get_config(), **pooling})
    for name in encoder.stage_names:
        built.get_layer(name).set_weights(encoder.get_layer(name).get_weights())
    return built
