"""What an encoder is compared with: itself before training, and the mel spectrogram.

How well a trained encoder does says little unless something that has learned nothing was given the
same chances. An encoder as it is built has batch normalization with mean 0 and variance 1 and no
biases, so that loudness is most of what tells its outputs apart. With statistics estimated on
clips, and with all windows at one level, it is a much better one; what the mel spectrogram gains
from its level can be told likewise.
"""

import dataclasses
import itertools

import numpy as np

from keras_tune.evaluation.embeddings import TooShortError, crop_start, window_length

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
    from keras_tune.evaluation import MelStatistics, untrained_copy

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
