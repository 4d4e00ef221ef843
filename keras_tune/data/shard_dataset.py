"""A folder of prepared shards as a dataset."""

import dataclasses
import warnings
from collections.abc import Sequence

import numpy as np

from keras_tune.data.damage import broken_frame, find_damaged_shards, naming_damaged_shards
from keras_tune.data.dataset import AudioDataset
from keras_tune.data.record_format import (
    Record,
    import_tensorflow_for_reading,
    serialized_records,
)
from keras_tune.data.schema import DatasetInfo, Shard
from keras_tune.data.tfrecord_stream import tfrecord_batches
from keras_tune.errors import UserError
from keras_tune.storage import to_path


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
        shards = self._shards(split)
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
