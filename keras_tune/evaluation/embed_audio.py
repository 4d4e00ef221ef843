"""Embeddings of audio files: `embed` returns them, and `embed_files` writes them to a file.

`embed_files` is for thousands of files, or a prepared set. Finished parts are kept beside the
output until the end, so that a killed run continues when it is started again with the same
arguments. Files that have changed since (by size or modification time), and files that could not be
used, are read again.
"""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import functools
import hashlib
import importlib.util
import json
import os
import pathlib
import shutil
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_tune.checks import check_encoder, sample_rate_of
from keras_tune.data.dataset import is_dataset, open_dataset
from keras_tune.errors import UserError
from keras_tune.evaluation.embeddings import (
    POOLS,
    ClipEmbeddings,
    TooShortError,
    embed_clips,
    hop_in_samples,
    pool_windows,
)
from keras_tune.evaluation.encoders import (
    embedding_model,
    encoder_fingerprint,
    fast_encoder,
    window_length,
)
from keras_tune.files import atomic_path, text_fault, write_json
from keras_tune.progress_bar import progress_bar
from keras_tune.shipped import is_shipped
from keras_tune.storage import file_stamp, local_output, to_path
from keras_tune.types import DEFAULT_ENCODER

if TYPE_CHECKING:
    import keras
    import pandas as pd

# The clips of one part, which are lost if a run is killed.
PART = 64
TOO_SHORT = "shorter than a window"


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
    _check_pool(pool)
    encoder = _loaded(encoder, None, in_keras=bool(layers))
    rate = sample_rate_of(encoder)
    single = isinstance(audio, (str, pathlib.Path, np.ndarray))
    folder = None
    if isinstance(audio, (str, pathlib.Path)) and pathlib.Path(audio).is_dir():
        folder = pathlib.Path(audio)
        files = _Files(folder, rate)

        def leave_out(name, reason):
            warnings.warn(f"left out: {folder / name}: {reason}", stacklevel=3)

        records = files.records(files.names, leave_out)
    else:
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
        leave_out(name, TOO_SHORT)
    if pool == "none":
        starts = _starts(clips, (hop_samples or window_length(encoder)) / rate)
        if folder is not None:
            return _table(clips.windows, np.array(clips.ids)[clips.owners], starts)
        owned = [clips.owners == row for row in range(len(clips.ids))]
        pairs = [(clips.windows[rows], starts[rows]) for rows in owned]
        return pairs[0] if single else pairs
    vectors = pool_windows(clips, pool)
    if folder is not None:
        return _table(vectors, clips.ids)
    return vectors[0] if single else vectors


@dataclasses.dataclass
class EmbeddedFiles:
    """What `embed_files` has written.

    Args:
        path: The file.
        clips: How many clips were embedded.
        vectors: How many vectors the file has.
        left_out: Pairs of a clip's name and the reason why it was left out.

    Example:

    ```python
    import pathlib

    from keras_tune.evaluation import EmbeddedFiles

    EmbeddedFiles(pathlib.Path("music.npz"), clips=2, vectors=2, left_out=[]).clips  # 2
    ```
    """

    path: pathlib.Path
    clips: int
    vectors: int
    left_out: list[tuple[str, str]]


def embed_files(
    source: str | os.PathLike,
    output: str | os.PathLike,
    encoder: keras.Model | str | os.PathLike = DEFAULT_ENCODER,
    hop: float | None = None,
    pool: str = "mean",
    layers: Sequence[str] = (),
    layer_pooling: str = "mean",
    batch_size: int = 32,
    workers: int | None = None,
    strict: bool = False,
    in_keras: bool = False,
) -> EmbeddedFiles:
    """Embed an audio file, a folder of them, or a prepared set, and write the vectors to a file.

    The output is an `.npz` file with `ids`, `vectors` (clips, d), `source`, `encoder` (a hash of
    it) and, for a prepared set, `split`; with `pool="none"` it has `vectors` (windows, d), `owners`
    (windows,), the row in `ids` of a window's clip, and `starts` (windows,) in seconds. A
    `.parquet` file has the ids, splits, starts and vectors as a table with a row for each vector.

    Args:
        source: An audio file, a folder of them (with all its subfolders), or a prepared set.
        output: The `.npz` or `.parquet` file to write.
        encoder: Keras model from (batch, samples, 1) to (batch, d), or a name, see `named_encoder`.
            Defaults to "tune_plus_open", which is included in the package. If ONNX Runtime is
            installed, it computes this encoder without importing Keras, unless `layers` are given.
        hop: Float, seconds from one window to the next. Defaults to None: windows do not overlap.
        pool: "mean" for the mean over windows, "mean_max" for mean and maximum, "none" for one
            vector per window. Defaults to "mean".
        layers: Names of stages to concatenate instead of the representation. Defaults to none.
        layer_pooling: How the outputs of stages are pooled over the time of a window: "mean", or
            "mean_std" for mean and standard deviation. Defaults to "mean".
        batch_size: Integer, the number of windows encoded at a time. Defaults to 32.
        workers: Integer, the threads that decode. Defaults to one for each processor.
        strict: Whether files that cannot be used are an error. Defaults to False: a warning names
            each of them.
        in_keras: Whether Keras computes the encoder even if ONNX Runtime could. Defaults to False.

    Returns:
        `EmbeddedFiles`.

    Raises:
        UserError: There is no such encoder, its sample rate differs from that of a prepared set, no
            clip could be embedded, or one could not and `strict` is True.
        ValueError: There is no such source, or `output`, `pool`, `hop` or `layer_pooling` cannot be
            used.

    Example:

    ```python
    import soundfile

    from keras_tune.evaluation import MelStatistics, embed_files

    tone = 0.3 * np.sin(2 * np.pi * 440 * np.arange(22050) / 22050)
    soundfile.write("tone.wav", tone, 22050)
    embed_files("tone.wav", "tone.npz", MelStatistics(input_samples=2048)).vectors  # 1
    ```
    """
    output = _checked_output(output)
    _check_pool(pool)
    path = to_path(source)
    clips_of: Any = _Set(path) if is_dataset(path) else _Files(path, workers=workers)
    model: Any = _loaded(encoder, clips_of.sample_rate, in_keras or bool(layers))
    sample_rate = clips_of.sample_rate = clips_of.sample_rate or sample_rate_of(model)
    stages = embedding_model(model, layers, layer_pooling)
    hop_samples = hop_in_samples(hop, sample_rate)
    what = [encoder_fingerprint(model), list(layers), layer_pooling, hop_samples]
    what += [sample_rate, clips_of.name]
    folder = output.with_name(f".{output.name}.parts")

    parts = []
    with progress_bar(len(clips_of), "embedding") as bar:
        options = {"hop_samples": hop_samples, "batch_size": batch_size, "progress": bar.update}
        encode = functools.partial(embed_clips, stages, **options)
        for names in clips_of.parts():
            content = json.dumps([what, names, clips_of.stamps(names)])
            key = hashlib.sha256(content.encode()).hexdigest()[:20]
            parts.append(_embed_part(folder / key, clips_of, names, encode, bar.update))
    left_out = [(name, reason) for _, entries in parts for name, reason in entries]
    files = [file for file, _ in parts if file is not None]
    for name, reason in left_out:
        warnings.warn(f"left out: {name}: {reason}", stacklevel=2)
    if not files:
        raise UserError(f"{source}: no clip could be embedded")
    if left_out and strict:
        raise UserError(
            f"{source}: {len(left_out)} of {len(clips_of)} clips could not be embedded, and "
            "`strict=True` requires all of them"
        )
    clips = ClipEmbeddings.merge(map(ClipEmbeddings.load, files), windows=pool != "mean")
    seconds = (hop_samples or window_length(model)) / sample_rate
    _write(output, clips, pool, clips_of.name, seconds, encoder_fingerprint(stages))
    shutil.rmtree(folder)
    vectors = len(np.asarray(clips.owners if pool == "none" else clips.ids))
    return EmbeddedFiles(output, len(clips.ids), vectors, left_out)


def _check_pool(pool):
    if pool not in POOLS:
        raise ValueError(f"`pool` must be one of {', '.join(POOLS)}. Received: pool={pool}")


def _loaded(encoder, sample_rate, in_keras):
    """An encoder that is given as a model or by name, for audio of a sample rate (None: any)."""
    if not isinstance(encoder, (str, os.PathLike)):
        check_encoder("the encoder", encoder, sample_rate)
        return encoder
    name = os.fspath(encoder)
    load = _shipped_encoder if is_shipped(name) else fast_encoder
    return load(name, sample_rate, in_keras)


# Encoders that come with the package are loaded once for all songs.
_shipped_encoder = functools.lru_cache(maxsize=2)(fast_encoder)


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


def _table(vectors, files, starts=None):
    """Vectors as a DataFrame, with the file, and the start if there is one, as the index."""
    import pandas as pd

    if starts is None:
        return pd.DataFrame(vectors, pd.Index(files, name="file"))
    index = pd.MultiIndex.from_arrays([files, starts], names=["file", "start"])
    return pd.DataFrame(vectors, index)


def _starts(clips, hop_seconds):
    """The start of each window in its clip, in seconds."""
    counts = np.bincount(clips.owners, minlength=len(clips.ids))
    return np.concatenate([np.arange(count) for count in counts]) * hop_seconds


def _checked_output(output):
    """The file as a path; refuses those that cannot be written, before the work."""
    output = local_output(output)
    if output.suffix not in (".npz", ".parquet"):
        raise ValueError(f"`output` must end in .npz or .parquet. Received: output={output}")
    engines = ("pyarrow", "fastparquet")
    if output.suffix == ".parquet" and not any(map(importlib.util.find_spec, engines)):
        raise UserError(
            f"{output}: .parquet needs pyarrow: pip install 'keras_tune[parquet]', or write .npz"
        )
    return output


def _embed_part(stem, source, names, encode, progress):
    """Embed the clips of a part that an earlier run has not embedded, or could not use.

    Returns the file with the embeddings, None if there are none, and the clips left out, a list of
    lists of name and reason.
    """
    file, summary = stem.with_suffix(".npz"), stem.with_suffix(".json")
    known, todo, short = None, names, []
    if summary.is_file():
        before = json.loads(summary.read_text(encoding="utf-8"))
        try:
            known = ClipEmbeddings.load(file) if before["embedded"] else None
        except UserError as error:
            warnings.warn(
                f"{file}: missing or damaged, so it is written again ({error})", stacklevel=3
            )
        else:
            todo = [name for name, reason in before["left_out"] if reason != TOO_SHORT]
            short = [name for name, reason in before["left_out"] if reason == TOO_SHORT]
            progress(before["embedded"] + len(short))
            if not todo:
                return (file if known is not None else None), before["left_out"]
    left_out = []
    try:
        clips = encode(source.records(todo, lambda *entry: left_out.append(list(entry))))
        short += clips.skipped
    except TooShortError as error:
        # No clip of this part is long enough, while those of other parts may be.
        clips = None
        short += error.skipped
    if clips is not None:
        known = clips if known is None else _in_order(names, known, clips)
        known.save(file)
    progress(len(left_out))
    left_out += [[name, TOO_SHORT] for name in short]
    embedded = 0 if known is None else len(known.ids)
    write_json(summary, {"embedded": embedded, "left_out": left_out})
    return (file if known is not None else None), left_out


def _in_order(names, *parts):
    """The clips of several parts in the order of `names`."""
    found = {clip: part.take([row]) for part in parts for row, clip in enumerate(part.ids)}
    return ClipEmbeddings.merge(found[name] for name in names if name in found)


class _Files:
    """Audio files to embed: one, or those of a folder. They are resampled to the encoder's rate."""

    def __init__(self, path, sample_rate=None, workers=None):
        from keras_tune.data.datasets.folder import SUFFIXES, audio_files

        # The source as a whole, whose parts are below `folder`.
        self.name, self.folder = str(path.resolve()), path
        self.sample_rate, self.workers = sample_rate, workers or os.cpu_count() or 1
        if path.is_dir():
            self.names = [file.as_posix() for file in audio_files(path)]
            if not self.names:
                raise UserError(f"{path}: contains no audio files ({', '.join(sorted(SUFFIXES))})")
        elif path.is_file():
            wrong = text_fault(path.name)
            if wrong:
                raise ValueError(
                    f"`source` is a file whose name {wrong}; rename it. "
                    f"Received: source={str(path)!a}"
                )
            self.names, self.folder = [path.name], path.parent
        else:
            raise ValueError(
                f"`source` must be an existing file or folder. Received: source={path}"
            )

    def __len__(self):
        return len(self.names)

    def parts(self):
        """The names of the files in lists of at most `PART`."""
        names = sorted(self.names)
        return [names[start : start + PART] for start in range(0, len(names), PART)]

    def stamps(self, names):
        """Size and time of change of the files of a part, None for one that is missing."""
        return [file_stamp(self.folder / name) for name in names]

    def records(self, names, leave_out) -> Iterator[dict[str, Any]]:
        """Decode files, a few of them in advance; `leave_out` is called with name and reason."""
        from keras_tune.data import AudioError, load_audio

        with concurrent.futures.ThreadPoolExecutor(self.workers) as pool:
            waiting: collections.deque = collections.deque()
            upcoming = iter(names)

            def ask():
                name = next(upcoming, None)
                if name is not None:
                    future = pool.submit(load_audio, self.folder / name, self.sample_rate)
                    waiting.append((name, future))

            for _ in range(2 * self.workers):
                ask()
            while waiting:
                name, future = waiting.popleft()
                ask()
                try:
                    yield {"id": name, "audio": future.result(), "labels": {}}
                except AudioError as error:
                    leave_out(name, error.reason)


class _Set:
    """The clips of a prepared set, which has a sample rate of its own."""

    def __init__(self, path):
        self.name, self.path = str(path.resolve()), path
        self.dataset = open_dataset(path)
        self.sample_rate = self.dataset.info.sample_rate

    def __len__(self):
        return sum(self.dataset.info.counts.values())

    def parts(self):
        """A list of a split and the name of a shard for each shard; of a split in an .npz file."""
        info = self.dataset.info
        if info.encoding == "arrays":
            return [[split] for split, count in info.counts.items() if count]
        return [[shard.split, shard.file] for shard in info.shards if shard.records]

    def stamps(self, names):
        """Size and time of change of the file of a part."""
        return [file_stamp(self.path / names[1] if len(names) > 1 else self.path)]

    def records(self, names, leave_out) -> Iterator[dict[str, Any]]:
        """Read the clips of a part."""
        split, *shards = names
        for record in self.dataset.records(split, shards or None):
            yield {**record, "labels": {"split": split}}


def _write(output, clips, pool, source, hop_seconds, encoder):
    """Write the vectors as arrays or as a table."""
    ids = np.array(clips.ids)
    columns, windows = {}, {}
    about = {"source": np.array(source), "encoder": np.array(encoder)}
    if "split" in clips.labels[0]:
        columns["split"] = np.array([labels["split"] for labels in clips.labels])
    if pool == "none":
        vectors = clips.windows
        windows = {"owners": clips.owners, "starts": _starts(clips, hop_seconds)}
    else:
        vectors = pool_windows(clips, pool)
    if output.suffix == ".npz":
        with atomic_path(output) as temporary:
            np.savez(temporary, ids=ids, vectors=vectors, **columns, **windows, **about)
        return
    import pandas as pd

    rows = windows.get("owners", np.arange(len(ids)))
    table = {"id": ids[rows], **{name: values[rows] for name, values in columns.items()}}
    if windows:
        table["start"] = windows["starts"]
    frame = pd.DataFrame(table)
    numbers = pd.DataFrame(vectors, columns=[f"e{k}" for k in range(vectors.shape[1])])
    with atomic_path(output) as temporary:
        pd.concat([frame, numbers], axis=1).to_parquet(temporary, index=False)
