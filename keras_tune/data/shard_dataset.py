"""A folder of prepared shards as a dataset, and the search for damaged ones.

A shard that was cut short is found by its size in `dataset.json`, a flipped byte only when the
record is read: TFRecords contain a CRC-32C of each record's length and content.
"""

import contextlib
import dataclasses
import sys
import types
import warnings
from collections.abc import Iterator, Sequence

import numpy as np

from keras_tune.data.dataset import AudioDataset
from keras_tune.data.record_format import (
    Record,
    import_tensorflow_for_reading,
    serialized_records,
)
from keras_tune.data.schema import DatasetInfo, Shard, shard_fault
from keras_tune.data.tfrecord_stream import tfrecord_batches
from keras_tune.errors import UserError
from keras_tune.storage import AnyPath, is_url, store_error, to_path


class ShardDataset(AudioDataset):
    """A folder that `prepare` has written, on a disk or in an object store.

    Args:
        path: The folder, or its URL.
        exclude: Names of shards that are not read. Defaults to none.
        on_corrupt: "raise" or "skip"; see `open_dataset`. Defaults to "raise".

    Raises:
        UserError: If the folder is not a complete prepared set.
    """

    def __init__(self, path, exclude=(), on_corrupt="raise"):
        self.path = to_path(path)
        exclude = list(exclude)
        if on_corrupt == "skip":
            for file, reason in find_damaged_shards(path):
                warnings.warn(f"{file}: {reason}; the shard is left out", stacklevel=3)
                exclude.append(to_path(file).name)
        self.exclude = tuple(dict.fromkeys(exclude))
        self._described = DatasetInfo.load(path, exclude=self.exclude)
        shards = (shard for shard in self._described.shards if shard.file not in self.exclude)
        self.info = dataclasses.replace(self._described, shards=tuple(shards))

    def records(self, split, shards=None):
        info = self.info
        names = [shard.file for shard in self._shards(split)]
        names = [name for name in names if shards is None or name in shards]
        tf = import_tensorflow_for_reading()
        files = [str(self.path / name) for name in names]
        for file in files:
            broken = broken_frame(file)
            if broken:
                raise UserError(f"{file}: record {broken} is damaged. Run prepare again.")
        serialized = serialized_records(tf, files)
        while True:
            # The yield is outside, because errors of the caller do not come from shards.
            with naming_damaged_shards(self.path, split):
                content = next(serialized, None)
            if content is None:
                return
            try:
                record = Record.parse(content, tf)
                audio = record.samples(info.sample_rate)
            except UserError as error:
                raise UserError(f"{self.path}, {split}: {error}. Run prepare again.") from error
            if len(record.labels) != len(info.labels):
                raise UserError(
                    f"{self.path}, {split}: {record.id} has {len(record.labels)} labels instead of "
                    f"{len(info.labels)}. Run prepare again."
                )
            yield {
                "id": record.id,
                "audio": audio,
                "labels": info.decode_labels(record.labels),
            }

    def label_vectors(self, split):
        # Only a single sample of each clip is read, because only the labels are needed.
        options = {"clip_samples": 1, "batch_size": 256, "shuffle": False, "drop_remainder": False}
        batches = self.batches(split, labels=True, **options).as_numpy_iterator()
        return np.concatenate([batch["labels"] for batch in batches])

    def count(self, split, clip_samples=None):
        return self.count_in(split, self._shards(split), clip_samples)

    def count_in(self, split: str, shards: Sequence[Shard], clip_samples: int | None) -> int:
        """Return how many clips in shards of a split have at least `clip_samples` samples."""
        short = self.short_ids(split, shards, clip_samples)
        return sum(shard.records for shard in shards) - len(short)

    def short_ids(self, split: str, shards: Sequence[Shard], clip_samples: int | None) -> list[str]:
        """Return the ids of the clips in shards of a split that are shorter than `clip_samples`.

        The length of the shortest clip of each shard is known, so only shards with one are read.
        """
        if clip_samples is None:
            return []
        names = [shard.file for shard in shards if shard.records and shard.shortest < clip_samples]
        records = self.records(split, names) if names else ()
        return [record["id"] for record in records if len(record["audio"]) < clip_samples]

    def _shards(self, split):
        """Return the shards of a split that are not excluded; there must be at least one."""
        shards = self._described.split_shards(split)
        shards = [shard for shard in shards if shard.file not in self.exclude]
        if not sum(shard.records for shard in shards):
            raise UserError(f"{self.path}: all shards of {split} are excluded. Run prepare again.")
        return shards

    def _batches(self, split, options):
        return tfrecord_batches(self, split, self._shards(split), options)

    def _whole_clips(self, split, clip_samples, group_by):
        if clip_samples is not None:
            # Warns of clips that are too short.
            self.batches(split, clip_samples=clip_samples, batch_size=None)
        clips, ids, groups = [], [], []
        with naming_damaged_shards(self.path, split):
            options = {"shuffle": False, "batch_size": None, "group_by": group_by, "ids": True}
            for record in self.batches(split, **options).as_numpy_iterator():
                if clip_samples is None or len(record["audio"]) >= clip_samples:
                    clips.append(record["audio"])
                    ids.append(record["id"].decode())
                    groups.append(record["group"])
        return clips, ids, groups


def find_damaged_shards(path: AnyPath, split: str | None = None) -> list[tuple[str, str]]:
    """Read every record of a prepared set and list the shards that are damaged.

    Args:
        path: Folder that `prepare` has written, or its URL in a store.
        split: Split to check. Defaults to all.

    Returns:
        List of pairs of a shard's path and what is wrong with it.

    Raises:
        UserError: If the folder is not a prepared set.

    Example:

    ```python
    from keras_tune.data import find_damaged_shards, write_demo

    write_demo("demo", num_clips={"train": 8, "test": 8}, seconds=3.0)
    find_damaged_shards("demo")  # []
    ```
    """
    tf = import_tensorflow_for_reading()
    damaged = []
    for shard in DatasetInfo.load(path, check_shards=False).shards:
        if split is not None and shard.split != split:
            continue
        file = str(to_path(path) / shard.file)
        wrong = shard_fault(path, shard) or _record_fault(tf, file, shard.records)
        if wrong:
            damaged.append((file, wrong))
    return damaged


def _record_fault(tf: types.ModuleType, file: str, expected: int) -> str | None:
    """Read all records of a shard; return what is wrong with them, or None."""
    broken, records = broken_frame(file), 0
    if not broken:
        try:
            for _ in serialized_records(tf, [file]):
                records += 1
        except tf.errors.DataLossError:
            broken = records + 1
    if broken:
        return f"record {broken} of {expected} is damaged"
    return None if records == expected else f"has {records} records instead of {expected}"


def broken_frame(file: AnyPath) -> int | None:
    """Find a record that claims to be longer than what is left of its file.

    TensorFlow allocates the claimed length without checking the size of the file, which may crash
    the process. A flipped byte cannot cause this, because lengths have their own checksum, but a
    malicious file can.

    Returns:
        The number of the record, from 1, or None.

    Source: the format of TFRecords, https://www.tensorflow.org/tutorials/load_data/tfrecord
    """
    file = to_path(file)
    size = file.stat().st_size
    offset = number = 0
    with file.open("rb") as content:
        while offset < size:
            number += 1
            # Eight bytes of length and four of its checksum; the record; four of its checksum.
            header = content.read(12)
            offset += 16 + int.from_bytes(header[:8], "little")
            if len(header) < 12 or offset > size:
                return number
            content.seek(offset)
    return None


@contextlib.contextmanager
def naming_damaged_shards(path: AnyPath | None, split: str | None = None) -> Iterator[None]:
    """Turn the error that a damaged shard causes within the block into one that names the shard.

    Errors of an object store are handled in the same way.

    Args:
        path: Folder that `prepare` has written, or None or any other dataset.
        split: Split that is read within the block. Defaults to any.

    Raises:
        UserError: If a shard is damaged or cannot be read.

    Example:

    ```python
    from keras_tune.data import naming_damaged_shards, open_dataset, write_demo

    write_demo("demo", num_clips={"train": 8, "test": 8}, seconds=3.0)
    stream = open_dataset("demo").batches("train", clip_samples=22050, batch_size=4)
    with naming_damaged_shards("demo"):
        batches = list(stream)
    ```
    """
    try:
        yield
    except Exception as error:
        tf = sys.modules.get("tensorflow")
        if tf is None:
            raise
        answers = (
            tf.errors.NotFoundError,
            tf.errors.PermissionDeniedError,
            tf.errors.UnauthenticatedError,
            tf.errors.UnavailableError,
        )
        if path is not None and is_url(path) and isinstance(error, answers):
            raise store_error(path, error) from error
        if not isinstance(error, tf.errors.DataLossError):
            raise
        damaged = [] if path is None else find_damaged_shards(path, split)
        if not damaged:
            raise
        file, reason = damaged[0]
        others = f" ({len(damaged)} shards are damaged in all)" if len(damaged) > 1 else ""
        raise UserError(
            f"{file}: {reason}{others}. Delete it and run prepare again to write it."
        ) from error
