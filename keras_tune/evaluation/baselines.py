"""The baselines of an encoder: the same encoder before training, and the mel spectrogram.

The score of a trained encoder means little without the score of an encoder that has learned
nothing. A new encoder has batch normalization with mean 0 and variance 1, and no biases, so its
outputs mostly reflect loudness. It becomes a much stronger baseline if batch normalization
is estimated on clips and all windows have one level. The mel spectrogram is reported with and
without its level as well.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_tune.data.audio import to_float
from keras_tune.errors import UserError
from keras_tune.evaluation.embeddings import TooShortError, crop_start
from keras_tune.evaluation.encoders import seeded_weights, window_length
from keras_tune.layers.level_normalization import LevelNormalization
from keras_tune.types import DEFAULT_SAMPLE_RATE, DEFAULT_WINDOW

# The baselines that are reported by default.
DEFAULT_BASELINES = ("untrained", "untrained_bn_level", "mel", "mel_level")
BASELINES = (
    "untrained",
    "untrained_bn",
    "untrained_level",
    "untrained_bn_level",
    "mel",
    "mel_level",
)
# The root mean square (RMS) of windows at one level: -20 dB of full scale.
LEVEL = 0.1
# Batch normalization is estimated on batches of this size, and on at most this many windows.
BATCH, MOST_WINDOWS = 32, 1024
# The length of a frame of the spectrogram, in samples.
FRAME = 2048


@dataclasses.dataclass(frozen=True)
class Baseline:
    """An encoder that was not trained.

    Args:
        encoder: Keras model.
        level: Float, the root mean square to which it scales windows, or None.
        needs_clips: Whether something must be estimated on clips before it is used, with
            `estimate_on`. Defaults to False.
    """

    encoder: keras.Model
    level: float | None
    needs_clips: bool = False


def make_baselines(
    encoder: keras.Model,
    names: Sequence[str],
    sample_rate: int = DEFAULT_SAMPLE_RATE,
    seed: int = 0,
) -> dict[str, Baseline]:
    """Build the baselines of an encoder.

    The name of a baseline says what it is. If the encoder itself scales its windows to one level,
    its untrained copies do so as well, and "untrained" is returned as "untrained_level". If the
    encoder has no batch normalization, "untrained_bn" is returned as "untrained". If its
    representation is a PCA of pooled stages and acoustic features, "untrained_bn" has such a PCA as
    well, estimated on the same clips; the others output the mean of the last stage.

    Args:
        encoder: Keras model from (batch, samples, 1) to (batch, d).
        names: List of names from `BASELINES`.
        sample_rate: Integer, the sample rate of the waveforms in Hz. Defaults to 22,050.
        seed: Integer, the seed of the untrained weights. Defaults to 0.

    Returns:
        Dict from name to `Baseline`, without duplicates.

    Raises:
        ValueError: There is no such baseline.

    Example:

    ```python
    from keras_tune.evaluation import make_baselines

    encoder = keras_tune.TUNe(1, 1, base_filters=2, tail_filters=[4], input_samples=2187)
    make_baselines(encoder, ["untrained", "mel_level"])["mel_level"].level  # 0.1
    ```
    """
    own = getattr(encoder, "level", None)
    made = {}
    for name in names:
        if name not in BASELINES:
            raise ValueError(f"`names` must be from {BASELINES}. Received: names={names}")
        kind, *parts = name.split("_")
        level = LEVEL if "level" in parts else None
        if kind == "mel":
            window = window_length(encoder)
            made[name] = Baseline(
                MelStatistics(sample_rate, input_samples=window, level=level), level
            )
            continue
        level = own or level
        estimates = "bn" in parts and bool(batch_norm_variables(encoder))
        name = f"untrained{'_bn' if estimates else ''}{'_level' if level else ''}"
        if name not in made:
            copy = untrained_copy(encoder, seed, level, pooled=estimates)
            made[name] = Baseline(copy, level, estimates)
    return made


def batch_norm_variables(encoder: keras.Model) -> list[keras.Variable]:
    """The moving means and variances of an encoder's batch normalization, in order."""
    ends = ("moving_mean", "moving_variance")
    return [variable for variable in encoder.weights if variable.path.endswith(ends)]


def estimated_variables(encoder: keras.Model) -> list[keras.Variable]:
    """What `estimate_on` sets: batch normalization, and the map from pooled stages."""
    found = batch_norm_variables(encoder)
    if getattr(encoder, "pooled_stages", 0):
        found += encoder.get_layer("representation").weights
    return found


def estimate_on(
    encoder: keras.Model, records: Iterable[dict[str, Any]], count: int, seed: int = 0
) -> None:
    """Estimate an encoder's batch normalization, and its PCA if it has one, on clips, in place.

    One random crop of each clip is used; for the PCA, as many of each as are needed for 1,024. Of
    more than 1,024 records (`count` is their number), at most 1,024 evenly spaced ones are used.
    """
    from keras_tune.models import estimate_batch_norm, estimate_pca

    window = window_length(encoder)
    pooled = getattr(encoder, "pooled_stages", 0)
    stride = max(1, -(-count // MOST_WINDOWS))
    used = max(1, -(-count // stride))
    seeds = range(seed, seed + (-(-MOST_WINDOWS // used) if pooled else 1))
    crops = (
        to_float(np.asarray(record["audio"][start : start + window]))
        for number, record in enumerate(records)
        if number % stride == 0 and len(record["audio"]) >= window
        for start in (crop_start(record["id"], len(record["audio"]) - window, s) for s in seeds)
    )
    batches = _batches(crops)
    first = next(batches, None)
    if first is None:
        raise TooShortError(window)
    batches = itertools.chain([first], batches)
    if pooled:
        # They are used twice; otherwise only one of them is in memory at a time.
        batches = list(batches)
    estimate_batch_norm(encoder, batches)
    if pooled:
        estimate_pca(encoder, batches)


def _batches(crops):
    """Batches (windows, samples, 1). A small last batch is dropped: its statistics are poor."""
    waiting, some = [], False
    for crop in crops:
        waiting.append(crop)
        if len(waiting) == BATCH:
            yield np.stack(waiting)[..., None]
            waiting, some = [], True
    if waiting and (not some or len(waiting) >= BATCH // 2):
        yield np.stack(waiting)[..., None]


def untrained_copy(
    encoder: keras.Model, seed: int = 0, level: float | None = None, pooled: bool = False
) -> keras.Model:
    """Build an encoder with the same configuration and newly initialized weights.

    Args:
        encoder: Keras model.
        seed: Integer, the seed of the weights. Defaults to 0.
        level: Float, the root mean square to which waveforms are scaled first, or None to keep the
            encoder's own setting. Defaults to None.
        pooled: Whether the copy has the encoder's `pooled_stages`; their linear map is then random
            and must be estimated. Defaults to False: the copy outputs the mean of the last stage.

    Returns:
        A new model of the encoder's class and configuration, at this level. If the class has no
        setting for the level, the model is placed after a layer that scales the waveforms.

    Example:

    ```python
    from keras_tune.evaluation import untrained_copy

    encoder = keras_tune.TUNe(1, 1, base_filters=2, tail_filters=[4], input_samples=2187)
    untrained_copy(encoder, seed=1, level=0.1).level  # 0.1
    ```
    """
    config = encoder.get_config()
    if "pooled_stages" in config and not pooled:
        config = {**config, "pooled_stages": 0}
    if level is not None and "level" in config:
        config = {**config, "level": level}
        level = None
    with seeded_weights(seed):
        copy = encoder.__class__.from_config(config)
    if level is None:
        return copy
    # Fixed names, since the fingerprint must not depend on which models were built before.
    waveform = keras.Input(encoder.input_shape[1:], name="waveform")
    at_level = LevelNormalization(level, name="level")(waveform)
    return keras.Model(waveform, copy(at_level))


@keras.saving.register_keras_serializable(package="keras_tune")
class MelStatistics(keras.Model):
    """Mean and standard deviation over time of the log-mel spectrogram, as an encoder.

    The outputs are the means of the log-mel values and of their squares, which can be averaged over
    windows. `finish` turns the averages into means and standard deviations.

    Args:
        sample_rate: Integer, the sample rate of the waveforms in Hz. Defaults to 22,050.
        num_mels: Integer, the number of mel bands. Defaults to 128.
        input_samples: Integer, the length of a window, or None for any length. Defaults to 59,049,
            as for the encoders.
        level: Float, the root mean square to which each window is scaled first (see
            `keras_tune.layers.LevelNormalization`), or None to keep the levels. Defaults to None.
        name: String. Defaults to "mel_statistics".

    Raises:
        UserError: The windows have 1,024 samples (half a frame of the spectrogram) or fewer.

    Input shape: (batch, input_samples, 1).
    Output shape: (batch, 2 · num_mels).

    Example:

    ```python
    from keras_tune.evaluation import MelStatistics, embed_clips

    noise = np.random.default_rng(0).normal(0, 0.1, 10000)
    records = [{"id": "noise", "audio": noise, "labels": {}}]
    embed_clips(MelStatistics(input_samples=2048), records).vectors.shape  # (1, 256)
    ```
    """

    # Its outputs are means and deviations; see `keras_tune.evaluation.embeddings.pool_clips`.
    default_pooling = "mean_std"

    def __init__(
        self,
        sample_rate: int = DEFAULT_SAMPLE_RATE,
        num_mels: int = 128,
        input_samples: int | None = DEFAULT_WINDOW,
        level: float | None = None,
        name: str = "mel_statistics",
    ):
        if input_samples is not None and input_samples <= FRAME // 2:
            raise UserError(
                f"mel statistics need windows of more than {FRAME // 2} samples (half a frame); "
                f"these have {input_samples}. Give longer windows."
            )
        waveform = keras.Input((input_samples, 1), name="waveform")
        x = waveform if level is None else LevelNormalization(level, name="level")(waveform)
        power = keras.layers.MelSpectrogram(
            fft_length=FRAME,
            sequence_stride=512,
            sampling_rate=sample_rate,
            num_mel_bins=num_mels,
            max_freq=sample_rate / 2,
            # The layer's decibels would depend on the loudest value of the batch.
            power_to_db=False,
            dtype="float32",
        )(x[..., 0])
        log = ops.log(power + 1e-10)
        outputs = ops.concatenate([ops.mean(log, -1), ops.mean(ops.square(log), -1)], axis=-1)
        super().__init__(inputs=waveform, outputs=outputs, name=name)
        self.sample_rate = sample_rate
        self.num_mels = num_mels
        self.input_samples = input_samples
        self.level = level

    def finish(self, averages: np.ndarray) -> np.ndarray:
        """Turn averages (clips, 2 · num_mels) into means and deviations of the same shape."""
        mean, square = np.split(np.asarray(averages, "float64"), 2, axis=-1)
        deviation = np.sqrt(np.maximum(square - np.square(mean), 0))
        return np.concatenate([mean, deviation], axis=-1).astype("float32")

    def get_config(self) -> dict[str, Any]:
        return {
            "sample_rate": self.sample_rate,
            "num_mels": self.num_mels,
            "input_samples": self.input_samples,
            "level": self.level,
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> MelStatistics:
        return cls(**config)
