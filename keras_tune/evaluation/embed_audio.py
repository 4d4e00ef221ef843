"""Embeddings of audio files and arrays in memory: `embed`."""

from __future__ import annotations

import functools
import pathlib
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_tune.checks import sample_rate_of
from keras_tune.errors import UserError
from keras_tune.evaluation.embeddings import POOLS, embed_clips, hop_in_samples, pool_windows
from keras_tune.evaluation.encoders import embedding_model, fast_encoder, window_length
from keras_tune.shipped import is_shipped
from keras_tune.types import DEFAULT_ENCODER

if TYPE_CHECKING:
    import keras
    import pandas as pd


def embed(
    audio: str | pathlib.Path | np.ndarray | Sequence,
    encoder: keras.Model | str | pathlib.Path = DEFAULT_ENCODER,
    sample_rate: int | None = None,
    hop: float | None = None,
    pool: str = "mean",
    layers: Sequence[str] = (),
    layer_pooling: str = "mean",
    batch_size: int = 16,
) -> np.ndarray | tuple[np.ndarray, np.ndarray] | pd.DataFrame:
    """Embed a clip, a list of clips, or a folder of audio files.

    Args:
        audio: Path of an audio file, or a mono array (samples,), floats with full scale 1 or int16;
            or a list of these; or the path of a folder, which is searched with its sub-folders.
        encoder: Keras model from (batch, samples, 1) to (batch, d), or a name, see `named_encoder`.
            Defaults to "tune_plus_open", which is included in the package. If ONNX Runtime is
            installed, it computes this encoder without importing Keras, unless `layers` are given.
        sample_rate: Integer, the sample rate of arrays in Hz. They are resampled if the encoder's
            rate differs. Defaults to the encoder's rate.
        hop: Float, seconds from one window to the next. Defaults to None: windows do not overlap.
        pool: "mean" for the mean over windows, "mean_max" for mean and maximum, "none" for one
            vector per window. Defaults to "mean".
        layers: Names of stages of the encoder. Their outputs, pooled over time, are concatenated
            and used instead of the representation. Defaults to none.
        layer_pooling: How the outputs of stages are pooled over the time of a window: "mean", or
            "mean_std" for mean and standard deviation. Defaults to "mean".
        batch_size: Integer, the number of windows encoded at a time. Defaults to 16.

    Returns:
        For a clip, a float32 array (d,), or (2 · d,) for "mean_max"; for "none", a pair of vectors
        (windows, d) and the times (windows,) at which the windows start, in seconds. For a list, an
        array (clips, d), or a list of pairs. For a folder, a `pandas.DataFrame` with a row for each
        file and its path in the folder as the index; for "none", with a row for each window and the
        time as a second index. Files that cannot be embedded are left out, with a warning.

    Raises:
        UserError: A file cannot be decoded, a clip is shorter than a window, silent, not finite or
            out of scale; no file of a folder can be embedded; or the model is not an encoder,
            has no such stage, or its output is not finite.
        ValueError: There is no such pool, the hop is not positive, or an array is not mono.

    Example:

    ```python
    tone = 0.3 * np.sin(2 * np.pi * 440 * np.arange(3 * 44100) / 44100)
    keras_tune.embed(tone, sample_rate=44100).shape  # (512,)
    encoder = keras_tune.evaluation.MelStatistics(input_samples=2048)
    keras_tune.embed([tone, tone], encoder, sample_rate=44100).shape  # (2, 256)
    vectors, times = keras_tune.embed(
        tone, encoder, sample_rate=44100, pool="none", hop=0.5
    )
    times  # [0.0, 0.5, 1.0, 1.5, 2.0, 2.5]
    ```
    """
    if pool not in POOLS:
        raise ValueError(f"`pool` must be one of {', '.join(POOLS)}. Received: pool={pool}")
    if isinstance(encoder, (str, pathlib.Path)):
        load = _shipped_encoder if is_shipped(str(encoder)) else fast_encoder
        encoder = load(str(encoder), in_keras=bool(layers))
    rate = sample_rate_of(encoder)
    single = isinstance(audio, (str, pathlib.Path, np.ndarray))
    folder = pathlib.Path(audio) if isinstance(audio, (str, pathlib.Path)) else None
    if folder is not None and folder.is_dir():
        records = _records_of_folder(folder, rate)
    else:
        folder = None
        several: Any = [audio] if single else audio
        records = (_record(clip, sample_rate or rate, rate) for clip in several)
    hop_samples = hop_in_samples(hop, rate)
    clips = embed_clips(
        embedding_model(encoder, layers, layer_pooling),
        records,
        hop_samples=hop_samples,
        batch_size=batch_size,
        keep_windows=pool != "mean",
    )
    for name in clips.skipped:
        if folder is None:
            raise UserError(f"{name}: shorter than the encoder's window")
        warnings.warn(f"left out: {folder / name}: shorter than a window", stacklevel=2)
    if pool == "none":
        step = (hop_samples or window_length(encoder)) / rate
        windows = [clips.windows[clips.owners == row] for row in range(len(clips.ids))]
        times = [np.arange(len(vectors)) * step for vectors in windows]
        if folder is not None:
            return _table(clips.windows, np.array(clips.ids)[clips.owners], np.concatenate(times))
        pairs = list(zip(windows, times, strict=True))
        return pairs[0] if single else pairs
    vectors = pool_windows(clips, pool)
    if folder is not None:
        return _table(vectors, clips.ids)
    return vectors[0] if single else vectors


def _record(clip, sample_rate, rate):
    """The record of a file or an array, at `rate`."""
    from keras_tune.data import load_audio
    from keras_tune.data.audio import checked, resample, to_float

    if isinstance(clip, (str, pathlib.Path)):
        return {"id": str(clip), "audio": load_audio(clip, rate), "labels": {}}
    samples = to_float(np.asarray(clip))
    if samples.ndim != 1:
        raise ValueError(
            f"`audio` must have the shape (samples,), mono. Received: shape={samples.shape}"
        )
    samples = checked(resample(samples, sample_rate, rate), "audio", rate)
    return {"id": "audio", "audio": samples, "labels": {}}


def _records_of_folder(folder, rate):
    """The records of the audio files in a folder that can be decoded."""
    from keras_tune.data import AudioError, load_audio
    from keras_tune.data.datasets.folder import SUFFIXES, audio_files

    files = audio_files(folder)
    if not files:
        raise UserError(f"{folder}: contains no audio files ({', '.join(sorted(SUFFIXES))})")
    for file in files:
        try:
            yield {"id": file.as_posix(), "audio": load_audio(folder / file, rate), "labels": {}}
        except AudioError as error:
            warnings.warn(f"left out: {error}", stacklevel=2)


def _table(vectors, files, starts=None):
    """Vectors as a DataFrame, with the file, and the start if there is one, as the index."""
    import pandas as pd

    if starts is None:
        return pd.DataFrame(vectors, pd.Index(files, name="file"))
    index = pd.MultiIndex.from_arrays([files, starts], names=["file", "start"])
    return pd.DataFrame(vectors, index)


# Encoders that come with the package are loaded once for all songs.
_shipped_encoder = functools.lru_cache(maxsize=2)(fast_encoder)
