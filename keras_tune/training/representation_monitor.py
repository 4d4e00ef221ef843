"""What the loss does not show: the rank of the representation and the difficulty of the task."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_tune.checks import sample_rate_of
from keras_tune.data.audio import to_float
from keras_tune.layers.acoustic_features import FFT_LENGTH, HOP, AcousticFeatures


def effective_rank(vectors: np.ndarray) -> float:
    """The number of dimensions that a set of vectors fills.

    Args:
        vectors: Float array (count, d).

    Returns:
        Float from 1 to min(count − 1, d): the exponential of the entropy of the singular values of
        the centered vectors, divided by their sum. 1 if all vectors are on a line, d if they fill
        all dimensions equally. 0 if they are all equal, NaN if a number is not finite.

    Source: Roy & Vetterli, "The effective rank: a measure of effective dimensionality" (EUSIPCO
    2007).

    Example:

    ```python
    keras_tune.training.effective_rank(np.eye(4))  # 3.0
    ```
    """
    vectors = np.asarray(vectors, "float64")
    if not np.isfinite(vectors).all():
        # They have no singular values. `Checkpoint`, which comes next, names what is not finite.
        return float("nan")
    values = np.linalg.svd(vectors - vectors.mean(axis=0), compute_uv=False)
    shares = values[values > 1e-12 * max(values.max(), 1e-300)]
    if not len(shares) or shares.sum() == 0:
        return 0.0
    shares = shares / shares.sum()
    return float(np.exp(-np.sum(shares * np.log(shares))))


def pretext_accuracy(
    pairs: np.ndarray, groups: np.ndarray | None = None, weights: np.ndarray | None = None
) -> float:
    """The fraction of views whose nearest other view, by cosine, is that of the same clip.

    Args:
        pairs: Float array (clips, 2, d), vectors of the two views of each clip.
        groups: Integer array (clips,). Views of another clip of the same group are left out.
            Defaults to None: each clip is a group of its own.
        weights: Float array (clips,), how much each clip counts. Clips of weight 0 are still among
            the others. Defaults to None: all count the same.

    Returns:
        Float, like `contrastive_accuracy` of `ContrastiveModel`.

    Example:

    ```python
    keras_tune.training.pretext_accuracy(np.repeat(np.eye(3)[:, None], 2, axis=1))  # 1.0
    ```
    """
    vectors = np.concatenate([pairs[:, 0], pairs[:, 1]]).astype("float64")
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    similarity = vectors @ vectors.T
    if groups is not None:
        same = np.equal.outer(groups, groups) & ~np.eye(len(pairs), dtype=bool)
        similarity[np.tile(same, (2, 2))] = -np.inf
    np.fill_diagonal(similarity, -np.inf)
    count = len(vectors)
    positive = similarity[np.arange(count), (np.arange(count) + count // 2) % count]
    first = np.sum(similarity >= positive[:, None], axis=1) == 1
    return float(np.average(first, weights=None if weights is None else np.tile(weights, 2)))


class RepresentationMonitor(keras.callbacks.Callback):
    """Put two numbers into the history that show whether pretraining makes progress.

    `val_effective_rank` is the effective rank of the representations of fixed crops. (The
    projections can be fine although the representation has collapsed.) `val_mel_accuracy` is the
    `val_contrastive_accuracy` that mean and deviation of a log-mel spectrogram reach on the same
    crops without training: an encoder below it has not yet learned more than signal processing.

    Args:
        batches: Iterable of float or int16 arrays (clips, 2, samples), the crops of a batch of
            clips each, or of dicts with such an array as "audio" and, if the validation has them,
            "group" and "weight", as `ContrastiveModel` takes them. They should be the batches of
            the validation, since the task is harder with more clips. Clips of weight 0 only count
            as negatives.
        batch_size: Integer, views encoded at a time. Defaults to 32.

    Raises:
        ValueError: There are no crops that count.

    Example:

    ```python
    from keras_tune.training import ContrastiveModel, RepresentationMonitor

    encoder = keras_tune.TUNe(1, 1, base_filters=2, tail_filters=[4], input_samples=6561)
    model = ContrastiveModel(encoder)
    model.compile("adam")
    crops = np.random.normal(0, 0.1, (4, 2, 6561)).astype("float32")
    monitor = RepresentationMonitor([crops])
    history = model.fit(crops, epochs=1, callbacks=[monitor], verbose=0)
    history.history["val_effective_rank"]
    ```
    """

    def __init__(self, batches: Iterable[np.ndarray], batch_size: int = 32):
        super().__init__()
        found = [batch if isinstance(batch, dict) else {"audio": batch} for batch in batches]
        self.batches = [to_float(np.asarray(batch["audio"])) for batch in found]
        self.groups = [np.asarray(batch["group"]) if "group" in batch else None for batch in found]
        self.weights = [
            np.asarray(batch.get("weight", np.ones(len(batch["audio"])))) for batch in found
        ]
        if not any(weight.any() for weight in self.weights):
            raise ValueError("`batches` must have crops that count. Received: none")
        self.batch_size = batch_size
        self.mel_accuracy: float | None = None
        self._encoder: Any = None

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        # Mel statistics need some samples; for shorter crops there is no such accuracy.
        enough = self.batches[0].shape[2] >= FFT_LENGTH + 2 * HOP
        if self.mel_accuracy is None and enough:
            self.mel_accuracy = self._mel_accuracy()
        if logs is not None:
            logs["val_effective_rank"] = self.effective_rank()
            if enough:
                logs["val_mel_accuracy"] = self.mel_accuracy

    def effective_rank(self) -> float:
        """Return the effective rank of the representations with the current weights."""
        encoder = self.model.encoder
        if self._encoder is not encoder:
            self._encoder = encoder
            # A model of its own around the same weights, since `fit` holds the compiled functions.
            self._around = keras.Model(encoder.input, encoder.output)
        views = np.concatenate(
            [
                batch[weight > 0].reshape(-1, batch.shape[2])
                for batch, weight in zip(self.batches, self.weights, strict=True)
            ]
        )
        vectors = self._around.predict(views[..., None], batch_size=self.batch_size, verbose=0)
        return effective_rank(vectors)

    def _mel_accuracy(self):
        features = AcousticFeatures(sample_rate_of(self.model.encoder))
        found = []
        for batch in self.batches:
            values = ops.convert_to_numpy(features(batch.reshape(-1, batch.shape[2])))
            # Without chroma and onsets.
            values = values[:, : 2 * features.num_mels]
            found.append(values.reshape(-1, 2, values.shape[1]))
        counted = np.concatenate(
            [pairs[weight > 0] for pairs, weight in zip(found, self.weights, strict=True)]
        )
        mean = np.mean(counted, axis=(0, 1))
        deviation = np.maximum(np.std(counted, axis=(0, 1)), 1e-9)
        totals = [weight.sum() for weight in self.weights]
        accuracies = [
            pretext_accuracy((pairs - mean) / deviation, groups, weight) if total else 0.0
            for pairs, groups, weight, total in zip(
                found, self.groups, self.weights, totals, strict=True
            )
        ]
        return float(np.average(accuracies, weights=totals))
