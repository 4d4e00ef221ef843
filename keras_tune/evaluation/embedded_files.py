"""Embeddings of thousands of files, or of a prepared set, written to one file: `embed_files`.

Files are decoded in parallel with the encoding. Finished parts are kept beside the output until the
end, so that a killed run continues when it is started again with the same arguments. Files that
have changed since (by size or modification time), and files that could not be used, are read again.
"""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
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
from keras_tune.storage import file_stamp, local_output, to_path
from keras_tune.types import DEFAULT_ENCODER

if TYPE_CHECKING:
    import keras

# The clips of one part, which are lost if a run is killed.
PART = 64
TOO_SHORT = "shorter than a window"


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
    if pool not in POOLS:
        raise ValueError(f"`pool` must be one of {', '.join(POOLS)}. Received: pool={pool}")
    path = to_path(source)
    clips_of: Any = _Set(path) if is_dataset(path) else _Files(path, workers)
    model: Any = encoder
    if isinstance(encoder, (str, os.PathLike)):
        in_keras = in_keras or bool(layers)
        model = fast_encoder(os.fspath(encoder), clips_of.sample_rate, in_keras)
    else:
        check_encoder("the encoder", model, clips_of.sample_rate)
    sample_rate = clips_of.sample_rate = clips_of.sample_rate or sample_rate_of(model)
    stages = embedding_model(model, layers, layer_pooling)
    hop_samples = hop_in_samples(hop, sample_rate)
    what = [encoder_fingerprint(model), list(layers), layer_pooling, hop_samples]
    what += [sample_rate, clips_of.name]
    folder = output.with_name(f".{output.name}.parts")

    def encode(records):
        return embed_clips(stages, records, hop_samples=hop_samples, batch_size=batch_size)

    parts = []
    with progress_bar(len(clips_of), "embedding") as bar:
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
    """Embed the clips of a part that an earlier run has not embedded.

    Files that could not be used are tried again.

    Returns:
        Path of the file with the embeddings, None if there are none, and the clips left out, a list
        of lists of name and reason.
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
        clips = encode(source.records(todo, left_out, progress))
        short += clips.skipped
    except TooShortError as error:
        # No clip of this part is long enough, while those of other parts may be.
        clips = None
        short += error.skipped
    if clips is not None:
        known = clips if known is None else _in_order(names, known, clips)
        known.save(file)
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

    sample_rate = None

    def __init__(self, path, workers):
        from keras_tune.data.datasets.folder import SUFFIXES, audio_files

        # The source as a whole, whose parts are below `folder`.
        self.name, self.folder = str(path.resolve()), path
        self.workers = workers or os.cpu_count() or 1
        if path.is_dir():
            self.names = sorted(file.as_posix() for file in audio_files(path))
            if not self.names:
                raise ValueError(
                    f"`source` contains no audio files ({', '.join(sorted(SUFFIXES))}). "
                    f"Received: source={path}"
                )
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
        return [self.names[start : start + PART] for start in range(0, len(self.names), PART)]

    def stamps(self, names):
        """Size and time of change of the files of a part, None for one that is missing."""
        return [file_stamp(self.folder / name) for name in names]

    def records(self, names, left_out, progress) -> Iterator[dict[str, Any]]:
        """Decode the clips of a part, a few of them in advance."""
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
                progress(1)
                try:
                    yield {"id": name, "audio": future.result(), "labels": {}}
                except AudioError as error:
                    left_out.append([name, error.reason])


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

    def records(self, names, left_out, progress) -> Iterator[dict[str, Any]]:
        """Read the clips of a part."""
        split, *shards = names
        for record in self.dataset.records(split, shards or None):
            progress(1)
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
        counts = np.bincount(clips.owners, minlength=len(ids))
        within = np.concatenate([np.arange(count) for count in counts])
        windows = {"owners": clips.owners, "starts": within * hop_seconds}
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
