"""Embeddings for anyone who has audio: one line for a clip, a model for many."""

import pathlib

import numpy as np

POOLS = ("mean", "mean_max", "none")


def embed(audio, encoder, sample_rate=None, hop=None, pool="mean", layers=(), batch_size=16):
    """Embed one clip.

    Args:
        audio: Path of an audio file, or array (samples,), mono: floats with full scale 1, or int16.
        encoder: Keras model from (batch, samples, 1) to (batch, d), or the path of a `.keras` file
            or of the folder of a run.
        sample_rate: Integer, of an array, in Hz. Defaults to the encoder's own; other rates are
            resampled to that.
        hop: Float, seconds from one window to the next. Defaults to None: windows do not overlap.
        pool: "mean" over the windows, "mean_max" for mean and maximum, "none" for all windows.
            Defaults to "mean".
        layers: Names of stages of the encoder, whose outputs averaged over time are put side by
            side. Defaults to none: the representation.
        batch_size: Integer, windows encoded at a time. Defaults to 16.

    Returns:
        Float32 array (d,), (2 · d,) for "mean_max", or (windows, d) for "none".

    Raises:
        UserError: The file cannot be decoded, the clip is shorter than a window, silent, not finite
            or out of scale, the encoder is none or has no such stage, or its output is not finite.
        ValueError: There is no such pool, the hop is not positive, or the array is not mono.

    Example:

    ```python
    vector = keras_tune.embed("song.mp3", keras.models.load_model("encoder.keras"))
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


def hop_in_samples(hop, sample_rate=22050):
    """A hop in seconds as samples, None staying None; a `ValueError` unless it is positive."""
    if hop is None:
        return None
    if hop <= 0:
        raise ValueError(f"`hop` must be positive. Received: hop={hop}")
    return max(1, round(hop * sample_rate))


def embedding_model(encoder, layers=()):
    """The encoder, or a model that gives stages of it, averaged over time, side by side.

    Args:
        encoder: Keras model.
        layers: Names of its stages. Defaults to none: the encoder itself.

    Returns:
        Keras model from (batch, samples, 1) to (batch, d).

    Raises:
        UserError: The encoder has no such stage.

    Example:

    ```python
    model = embedding_model(encoder, ["tail_7", "tail_8", "tail_9"])
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


def pool_windows(clips, pool):
    """One vector a clip from those of its windows.

    Args:
        clips: `ClipEmbeddings` with windows.
        pool: "mean" or "mean_max".

    Returns:
        Float32 array (clips, d) or (clips, 2 · d).

    Example:

    ```python
    pool_windows(clips, "mean_max").shape  # (78, 1024)
    ```
    """
    if pool == "mean":
        return clips.vectors
    highest = np.full(clips.vectors.shape, -np.inf, "float32")
    np.maximum.at(highest, clips.owners, clips.windows)
    return np.concatenate([clips.vectors, highest], axis=1)
