"""Embeddings of audio files and arrays: `embed` for one clip, `embedding_model` for many."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import keras

    from keras_tune.evaluation.embeddings import ClipEmbeddings

POOLS = ("mean", "mean_max", "none")


def embed(
    audio: str | pathlib.Path | np.ndarray,
    encoder: keras.Model | str | pathlib.Path,
    sample_rate: int | None = None,
    hop: float | None = None,
    pool: str = "mean",
    layers: Sequence[str] = (),
    batch_size: int = 16,
) -> np.ndarray:
    """Embed one clip.

    Args:
        audio: Path of an audio file, or a mono array (samples,), floats with full scale 1 or int16.
        encoder: Keras model from (batch, samples, 1) to (batch, d), or the path of a `.keras` file
            or of a run folder.
        sample_rate: Integer, the sample rate of an array in Hz. The array is resampled if the
            encoder has another one. Defaults to the encoder's own.
        hop: Float, seconds from one window to the next. Defaults to None: windows do not overlap.
        pool: "mean" for the mean over windows, "mean_max" for mean and maximum, "none" for one
            vector a window. Defaults to "mean".
        layers: Names of stages of the encoder. Their outputs, averaged over time, are concatenated
            and take the place of the representation. Defaults to none.
        batch_size: Integer, the number of windows encoded at a time. Defaults to 16.

    Returns:
        Float32 array (d,), (2 · d,) for "mean_max", or (windows, d) for "none".

    Raises:
        UserError: The file cannot be decoded, the clip is shorter than a window, silent, not finite
            or out of scale; or the model is not an encoder, has no such stage, or its output is not
            finite.
        ValueError: There is no such pool, the hop is not positive, or the array is not mono.

    Example:

    ```python
    encoder = keras_tune.evaluation.MelStatistics(input_samples=2048)
    tone = 0.3 * np.sin(2 * np.pi * 440 * np.arange(44100) / 44100)
    keras_tune.embed(tone, encoder, sample_rate=44100).shape  # (256,)
    ```
    """
    from keras_tune.data import load_audio
    from keras_tune.data.audio import checked, resample, to_float
    from keras_tune.evaluation.embeddings import embed_clips

    if pool not in POOLS:
        raise ValueError(f"`pool` must be one of {', '.join(POOLS)}. Received: pool={pool}")
    if isinstance(encoder, (str, pathlib.Path)):
        encoder = _load(pathlib.Path(encoder))
    rate = getattr(encoder, "sample_rate", None) or 22050
    if isinstance(audio, (str, pathlib.Path)):
        name, samples = str(audio), load_audio(audio, rate)
    else:
        name, samples = "audio", to_float(np.asarray(audio))
        if samples.ndim != 1:
            raise ValueError(
                f"`audio` must have the shape (samples,), mono. Received: shape={samples.shape}"
            )
        samples = checked(resample(samples, sample_rate or rate, rate), name, rate)
    clips = embed_clips(
        embedding_model(encoder, layers),
        [{"id": name, "audio": samples, "labels": {}}],
        hop_samples=hop_in_samples(hop, rate),
        batch_size=batch_size,
    )
    return pool_windows(clips, pool)[0] if pool != "none" else clips.windows


def _load(path):
    from keras_tune.models.saved import load_saved_model

    return load_saved_model(path / "encoder.keras" if path.is_dir() else path)


def hop_in_samples(hop: float | None, sample_rate: int = 22050) -> int | None:
    """Convert a hop from seconds to samples; None stays None.

    Raises:
        ValueError: The hop is not positive.
    """
    if hop is None:
        return None
    if hop <= 0:
        raise ValueError(f"`hop` must be positive. Received: hop={hop}")
    return max(1, round(hop * sample_rate))


def embedding_model(encoder: keras.Model, layers: Sequence[str] = ()) -> keras.Model:
    """Make a model that outputs stages of an encoder, averaged over time and concatenated.

    Args:
        encoder: Keras model.
        layers: Names of its stages. Defaults to none: the encoder is returned as it is.

    Returns:
        Keras model from (batch, samples, 1) to (batch, d).

    Raises:
        UserError: The encoder has no such stage.

    Example:

    ```python
    from keras_tune.evaluation import embedding_model

    encoder = keras_tune.TUNe(1, 1, base_filters=2, tail_filters=[4], input_samples=2187)
    embedding_model(encoder, ["expand_1", "tail_1"]).output_shape  # (None, 6)
    ```
    """
    import keras

    from keras_tune.evaluation.embeddings import tap_stages

    if not layers:
        return encoder
    outputs = tap_stages(encoder, layers).output
    parts = [outputs[name] for name in layers]
    joined = parts[0] if len(parts) == 1 else keras.layers.Concatenate()(parts)
    return keras.Model(encoder.input, joined)


def pool_windows(clips: ClipEmbeddings, pool: str) -> np.ndarray:
    """Combine the vectors of a clip's windows into one vector a clip.

    Args:
        clips: `ClipEmbeddings` with windows.
        pool: "mean" or "mean_max".

    Returns:
        Float32 array (clips, d) or (clips, 2 · d).

    Example:

    ```python
    from keras_tune.evaluation import ClipEmbeddings
    from keras_tune.evaluation.embed_audio import pool_windows

    windows, owners = np.array([[1.0], [3.0]]), np.array([0, 0])
    clips = ClipEmbeddings(["song"], np.array([[2.0]]), [{}], windows=windows, owners=owners)
    pool_windows(clips, "mean_max")  # [[2.0, 3.0]]
    ```
    """
    if pool == "mean":
        return clips.vectors
    highest = np.full(clips.vectors.shape, -np.inf, "float32")
    np.maximum.at(highest, clips.owners, clips.windows)
    return np.concatenate([clips.vectors, highest], axis=1)
