"""Clips as arrays, for work without TensorFlow.

An `.npz` file of clips (`numpy.savez`) contains

| key | content |
|---|---|
| `audio` | int16, or float with full scale 1, of shape (clips, samples): mono clips of one length |
| `ids` | optional, text of shape (clips,); defaults to the clips' numbers |
| `split` | optional, text of shape (clips,); defaults to "train" for all |
| `sample_rate` | optional, a number in Hz; defaults to 22,050 |
| any other | a label of that name: text of shape (clips,), or numbers of shape (clips,) |

Labels of text are categories, "" for a missing one; numbers are numbers, NaN for a missing one.
Whole numbers that single precision cannot tell apart are categories.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator

import numpy as np

from keras_tune.data.audio import out_of_scale, to_float
from keras_tune.data.dataset import AudioDataset
from keras_tune.data.schema import (
    DatasetInfo,
    LabelColumn,
    Shard,
    check_names,
    fingerprint,
    merged_by_storage,
)
from keras_tune.errors import UserError
from keras_tune.files import read_npz, text_fault
from keras_tune.storage import AnyPath, to_path
from keras_tune.types import SAMPLE_RATES


class ArrayDataset(AudioDataset):
    """The clips of an `.npz` file, which are all in memory.

    Args:
        path: The file, or its URL in a store. Its keys are listed at the top of this module.

    Attributes:
        audio: int16 or float32 array of shape (clips, samples).
        labels: float32 array of shape (clips, label columns), encoded as in records.
        ids: Text array of shape (clips,).
        split: Text array of shape (clips,).
        info: `DatasetInfo`.

    Raises:
        UserError: If the file is missing or not an npz file, a key is missing or malformed, or the
            audio is not finite or out of scale (peak above 4 times full scale).
    """

    def __init__(self, path: AnyPath):
        self.path = to_path(path)
        self.audio, self.labels, self.ids, self.split, self.info = _load(self.path)

    def records(self, split: str, shards: Collection[str] | None = None) -> Iterator[dict]:
        for row in self._rows(split):
            yield {
                "id": str(self.ids[row]),
                "audio": to_float(self.audio[row]),
                "labels": self.info.decode_labels(self.labels[row]),
            }

    def label_vectors(self, split: str) -> np.ndarray:
        return self.labels[self._rows(split)]

    def count(self, split: str, clip_samples: int | None = None) -> int:
        return len(self._rows(split)) * (self.audio.shape[1] >= (clip_samples or 0))

    def groups(self, split: str, group_by: str = "id") -> np.ndarray:
        """Return which clips of a split belong together, an int32 array (clips,).

        Equal labels have equal numbers in all splits, and in shards as well.

        Args:
            split: The split.
            group_by: As in `BatchOptions`. Defaults to "id".

        Raises:
            UserError: There is no such split or label.
        """
        rows = self._rows(split).astype("int32")
        if group_by == "id":
            return rows
        column, index = self.info.label_column(group_by)
        # Adding 0 turns -0.0 into 0.0: their bits differ.
        values = self.labels[rows, index] + np.float32(0)
        missing = values < 0 if column.kind == "category" else np.isnan(values)
        # Equal numbers have equal bits. Clips without a label are groups of their own, below 0.
        return np.where(missing, -1 - rows, values.view("int32"))

    def _rows(self, split):
        self.info.split_shards(split)
        return np.flatnonzero(self.split == split)

    def _batches(self, split, options):
        from keras_tune.data.crop_stream import array_stream

        rows = self._rows(split)
        columns = {}
        if options.group_by is not None:
            columns["group"] = self.groups(split, options.group_by)
        if options.labels:
            columns["labels"] = self.labels[rows]
        if options.ids:
            columns["id"] = self.ids[rows]
        return array_stream(self.audio[rows], options, columns)

    def _whole_clips(self, split, clip_samples, group_by):
        rows = self._rows(split)
        clips = [self.audio[row] for row in rows]
        return clips, self.ids[rows].tolist(), self.groups(split, group_by)


def _load(path):
    """Read and check a file of clips; return audio, labels, ids, splits and the description."""
    content = read_npz(path)
    audio = content.pop("audio", None)
    if audio is None or audio.ndim != 2 or audio.dtype.kind not in "if" or not audio.size:
        raise UserError(f"{path}: must contain numbers `audio`, of the shape (clips, samples).")
    if audio.dtype.kind == "i" and audio.dtype != np.int16:
        raise UserError(f"{path}: audio is {audio.dtype}. Give int16, or float with full scale 1.")
    audio = audio if audio.dtype == np.int16 else audio.astype("float32", copy=False)
    if not np.isfinite(audio).all():
        raise UserError(f"{path}: audio is not finite (contains NaN or infinity).")
    reason = None if audio.dtype == np.int16 else out_of_scale(audio)
    if reason:
        raise UserError(f"{path}: audio is {reason}.")
    count = len(audio)
    sample_rate = _sample_rate(path, content.pop("sample_rate", np.array(22050)))
    for key, values in content.items():
        if values.shape != (count,):
            raise UserError(f"{path}: {key} has shape {values.shape} for {count} clips.")
        kind = values.dtype.kind
        if kind not in "SUTbiuf" or (kind == "f" and np.isinf(values).any()):
            raise UserError(f"{path}: {key} must contain text or finite numbers.")
    content = {name: _decoded(path, name, values) for name, values in content.items()}
    ids = content.pop("ids", np.arange(count)).astype(str)
    if len(set(ids)) < count:
        raise UserError(f"{path}: ids must be unique.")
    for text in ids:
        wrong = text_fault(text)
        if wrong:
            raise UserError(f"{path}: the id {str(text)!r} {wrong}. Rename it.")
    split = content.pop("split", np.full(count, "train")).astype(str)
    columns = tuple(_column(path, name, values) for name, values in content.items())
    check_names(split.tolist(), columns, path)
    labels = np.zeros((count, len(columns)), "float32")
    for index, column in enumerate(columns):
        values = content[column.name].tolist()
        labels[:, index] = [column.encode(None if value == "" else value) for value in values]
    splits = sorted(set(split))
    info = DatasetInfo(
        name=path.stem,
        sample_rate=sample_rate,
        encoding="arrays",
        labels=columns,
        shards=tuple(
            Shard(path.name, name, int((split == name).sum()), 0, audio.shape[1]) for name in splits
        ),
        fingerprints={name: fingerprint(ids[split == name]) for name in splits},
    )
    return audio, labels, ids, split, info


def _sample_rate(path, value):
    low, high = SAMPLE_RATES
    if value.shape == () and value.dtype.kind in "iuf" and low <= value <= high:
        return int(value)
    raise UserError(f"{path}: sample_rate must be a number from {low:,} to {high:,}.")


def _decoded(path, name, values):
    """Decode bytes, which Python 2 and other programs write instead of text."""
    if values.dtype.kind != "S":
        return values
    try:
        return np.char.decode(values, "utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: {name} is not in UTF-8 ({error.reason}).") from error


def _column(path, name, values):
    if values.dtype.kind in "iuf" and merged_by_storage(values):
        warnings.warn(
            f"{path}: {name} is read as categories, since single precision, in which numbers are "
            "stored, would make some of its values equal",
            stacklevel=4,
        )
        names = {str(value) for value in values.tolist() if value == value}
        return LabelColumn(name, "category", tuple(sorted(names)))
    if values.dtype.kind in "UT":
        return LabelColumn(name, "category", tuple(sorted(set(values.tolist()) - {""})))
    return LabelColumn(name, "number")
