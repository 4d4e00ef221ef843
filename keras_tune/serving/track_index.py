"""A small index of tracks, to look for the nearest in."""

import base64
import pathlib

import numpy as np

from keras_tune.checks import check_finite
from keras_tune.errors import UserError
from keras_tune.files import read_npz


def track_index(source, encoder, windows):
    """Embed a folder of audio files, or read their embeddings.

    Args:
        source: Folder of audio files, searched to its leaves, or an .npz file with `ids` and
            `vectors` (tracks, d), as `recipes.embed` writes.
        encoder: Keras model from (batch, samples, 1) to (batch, d).
        windows: `Windows` of the model.

    Returns:
        Triple of the tracks' names, a list of strings, of their embeddings divided by their norms,
        float32 (tracks, d), and of the files left out, a list of pairs of name and reason.

    Raises:
        UserError: There is no such file, nothing in it, or embeddings of another encoder.

    Example:

    ```python
    names, vectors, left_out = track_index("music", encoder, Windows.of(encoder))
    ```
    """
    source = pathlib.Path(source)
    if source.is_dir():
        names, vectors, left_out = _embed(source, encoder, windows)
    else:
        names, vectors = _read(source)
        left_out = []
    if vectors.ndim != 2 or vectors.shape != (len(names), windows.dimensions) or not names:
        raise UserError(
            f"--index {source}: holds vectors of the shape {vectors.shape} for {len(names)} "
            f"tracks; the encoder's have {windows.dimensions} numbers each"
        )
    check_finite(f"--index {source}", [("a vector", vectors)])
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return names, (vectors / np.where(norms > 0, norms, 1)).astype("float32"), left_out


def index_content(names, vectors):
    """The index as what JSON can hold: `tracks`, and `vectors` as base64 of float32."""
    octets = np.ascontiguousarray(vectors, "<f4").tobytes()
    return {"tracks": names, "vectors": base64.b64encode(octets).decode()}


def _read(source):
    try:
        content = read_npz(source)
        ids, vectors = content["ids"].astype(str), content["vectors"].astype("float64")
    except (ValueError, KeyError) as error:
        raise UserError(
            f"--index {source}: neither a folder of audio nor what recipes.embed writes as .npz "
            f"({error})"
        ) from None
    if "owners" in content:
        raise UserError(f"--index {source}: has a vector a window; embed with --pool mean")
    if ids.ndim != 1:
        raise UserError(f"--index {source}: has ids of the shape {ids.shape}; embed it anew")
    return ids.tolist(), vectors


def _embed(folder, encoder, windows):
    from keras_tune.data.audio import AudioError, load_audio
    from keras_tune.data.datasets.folder import audio_files
    from keras_tune.evaluation.embeddings import TooShortError, embed_clips

    left_out = []

    def records():
        for file in names:
            try:
                audio = load_audio(folder / file, windows.sample_rate, windows.samples)
            except AudioError as error:
                left_out.append((file.as_posix(), error.reason))
            else:
                yield {"id": file.as_posix(), "audio": audio, "labels": {}}

    names = audio_files(folder)
    try:
        clips = embed_clips(encoder, records(), window_samples=windows.samples)
    except TooShortError:
        # Files that are too short are not among the clips, so none came.
        found = f"; {left_out[0][0]}: {left_out[0][1]}" if left_out else ""
        raise UserError(f"--index {folder}: holds no audio file that can be used{found}") from None
    return clips.ids, np.asarray(clips.vectors, "float64"), left_out
