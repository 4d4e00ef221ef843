"""What an encoder is compared with: itself before training, and the mel spectrogram.

How well a trained encoder does says little unless something that has learned nothing was given the
same chances. An encoder as it is built has batch normalization with mean 0 and variance 1 and no
biases, so that loudness is most of what tells its outputs apart. With statistics estimated on
clips, and with all windows at one level, it is a much better one; what the mel spectrogram gains
from its level can be told likewise.
"""

import dataclasses
import itertools

import keras
import numpy as np
from keras import ops

from keras_tune.errors import UserError
from keras_tune.evaluation.embeddings import TooShortError, crop_start, window_length
from keras_tune.layers.level_normalization import LevelNormalization

# What is reported beside an encoder unless something else is asked for.
DEFAULT_BASELINES = ("untrained", "untrained_bn_level", "mel", "mel_level")
BASELINES = (
    "untrained",
    "untrained_bn",
    "untrained_level",
    "untrained_bn_level",
    "mel",
    "mel_level",
)
# The root mean square that windows are brought to, -20 dB of full scale.
LEVEL = 0.1
# Windows a batch, and the most windows, from which batch normalization is estimated.
BATCH, MOST_WINDOWS = 32, 1024
# Samples of a frame of the spectrogram.
FRAME = 2048


@dataclasses.dataclass(frozen=True)
class Baseline:
    """An encoder that was not trained.

    Args:
        encoder: Keras model.
        level: Float, the root mean square that it brings windows to, or None.
        estimates_batch_norm: Whether its batch normalization is still to be estimated, by
            `estimate_batch_norm_on`.
    """

    encoder: object
    level: float | None
    estimates_batch_norm: bool = False


def make_baselines(encoder, names, sample_rate=22050, seed=0):
    """Build the baselines of an encoder.

    Names say what the baselines are. Of an encoder that brings its windows to one level itself, the
    untrained copies do so too: "untrained" is then built under the name "untrained_level". Of an
    encoder without batch normalization, "untrained_bn" is built as "untrained".

    Args:
        encoder: Keras model from (batch, samples, 1) to (batch, d).
        names: List of names from `BASELINES`.
        sample_rate: Integer, of the waveforms in Hz. Defaults to 22,050.
        seed: Integer from which untrained weights are drawn. Defaults to 0.

    Returns:
        Dict from name to `Baseline`, each only once.

    Raises:
        ValueError: There is no such baseline.

    Example:

    ```python
    baselines = make_baselines(encoder, ["untrained", "mel_level"])
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
            made[name] = Baseline(untrained_copy(encoder, seed, level), level, estimates)
    return made


def batch_norm_variables(encoder):
    """The moving means and variances of an encoder's batch normalization, in their order."""
    ends = ("moving_mean", "moving_variance")
    return [variable for variable in encoder.weights if variable.path.endswith(ends)]


def estimate_batch_norm_on(encoder, records, count, seed=0):
    """Estimate an encoder's batch normalization on a random crop of each clip, in place.

    Args:
        encoder: Keras model from (batch, samples, 1) to (batch, d).
        records: Iterable of dicts with `id` and `audio`, as `keras_tune.data.read_records` gives.
        count: Integer, the number of records. Of more than 1,024 clips, that many at even distances
            are taken.
        seed: Integer from which the crops are drawn. Defaults to 0.

    Raises:
        UserError: No clip is as long as a window.

    Example:

    ```python
    estimate_batch_norm_on(encoder, keras_tune.data.read_records("tfrecords/mine", "train"), 235)
    ```
    """
    from keras_tune.models import estimate_batch_norm

    window = window_length(encoder)
    crops = (
        record["audio"][start : start + window]
        for number, record in enumerate(records)
        if number % -(-count // MOST_WINDOWS) == 0 and len(record["audio"]) >= window
        for start in [crop_start(record["id"], len(record["audio"]) - window, seed)]
    )
    batches = _batches(crops)
    first = next(batches, None)
    if first is None:
        raise TooShortError(window)
    estimate_batch_norm(encoder, itertools.chain([first], batches))


def _batches(crops):
    """Batches (windows, samples, 1); a small rest, whose own statistics are poor, is dropped."""
    waiting, some = [], False
    for crop in crops:
        waiting.append(crop)
        if len(waiting) == BATCH:
            yield np.stack(waiting)[..., None]
            waiting, some = [], True
    if waiting and (not some or len(waiting) >= BATCH // 2):
        yield np.stack(waiting)[..., None]


def untrained_copy(encoder, seed=0, level=None):
    """Build an encoder of the same shape with freshly initialized weights.

    Args:
        encoder: Keras model.
        seed: Integer from which the weights are drawn. Keras' global seed is set to it. Defaults to
            0.
        level: Float, the root mean square that waveforms are brought to first, or None to leave
            them to the encoder. Defaults to None.

    Returns:
        A new model of the encoder's class and configuration, with the level in it; a model that
        knows no level is built behind a layer that sets it.

    Example:

    ```python
    baseline = untrained_copy(encoder)
    ```
    """
    keras.utils.set_random_seed(seed)
    config = encoder.get_config()
    if level is None:
        return encoder.__class__.from_config(config)
    if "level" in config:
        return encoder.__class__.from_config({**config, "level": level})
    # Names of their own: the model's fingerprint must not depend on what was built before.
    waveform = keras.Input(encoder.input_shape[1:], name="waveform")
    at_level = LevelNormalization(level, name="level")(waveform)
    return keras.Model(waveform, encoder.__class__.from_config(config)(at_level))


@keras.saving.register_keras_serializable(package="keras_tune")
class MelStatistics(keras.Model):
    """Mean and deviation over time of the log-mel spectrogram, as an encoder.

    The model gives the means of the log-mel values and of their squares, which can be averaged over
    windows; `finish` turns such averages into means and deviations.

    Args:
        sample_rate: Integer, of the waveforms in Hz. Defaults to 22,050.
        num_mels: Integer, mel bands. Defaults to 128.
        input_samples: Integer, the length of a window. Defaults to 59,049, as the encoders'.
        level: Float, the root mean square that each window is brought to first (see
            `keras_tune.layers.LevelNormalization`), or None to leave levels as they are. Defaults
            to None.
        name: String. Defaults to "mel_statistics".

    Raises:
        UserError: The windows are shorter than half a frame of the spectrogram, 1,024 samples.

    Input shape: (batch, input_samples, 1).
    Output shape: (batch, 2 · num_mels).

    Example:

    ```python
    embeddings = keras_tune.evaluation.embed_clips(MelStatistics(), records)
    ```
    """

    # Its outputs are means and deviations; see `keras_tune.evaluation.embeddings`.
    default_pooling = "mean_std"

    def __init__(
        self,
        sample_rate=22050,
        num_mels=128,
        input_samples=59049,
        level=None,
        name="mel_statistics",
    ):
        if input_samples is not None and input_samples <= FRAME // 2:
            raise UserError(
                f"mel statistics need windows of more than {FRAME // 2} samples, half a frame; "
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
            # The layer's decibels depend on the loudest value of the batch.
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

    def finish(self, averages):
        """Turn averages (clips, 2 · num_mels) into means and deviations, of the same shape."""
        mean, square = np.split(np.asarray(averages, "float64"), 2, axis=-1)
        deviation = np.sqrt(np.maximum(square - np.square(mean), 0))
        return np.concatenate([mean, deviation], axis=-1).astype("float32")

    def get_config(self):
        return {
            "sample_rate": self.sample_rate,
            "num_mels": self.num_mels,
            "input_samples": self.input_samples,
            "level": self.level,
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        return cls(**config)
