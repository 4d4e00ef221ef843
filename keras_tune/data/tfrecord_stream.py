"""The `tf.data` pipeline from shards to batches of crops.

The stream depends only on (seed, epoch, position): a run that is resumed at epoch k gets the same
batches as without the interruption.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import types
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_tune.data.dataset import BatchOptions
from keras_tune.data.record_format import (
    decode_clip,
    import_tensorflow_for_reading,
    pipeline_options,
)
from keras_tune.data.schema import DatasetInfo, Shard
from keras_tune.errors import UserError
from keras_tune.storage import FilePath, is_url

if TYPE_CHECKING:
    import tensorflow as tf

    from keras_tune.data.shard_dataset import ShardDataset

# Files read at a time.
CYCLE_LENGTH = 16
# Bytes requested from a store at a time. TensorFlow's default for S3 is 127 MB for each file.
STORE_BYTES = 8 * 2**20
# Memory for the shuffle buffer, which holds crops, not records.
SHUFFLE_BYTES = 256 * 2**20


def tfrecord_batches(
    dataset: ShardDataset, split: str, shards: Sequence[Shard], options: BatchOptions
) -> tf.data.Dataset:
    """Read batches of crops from shards; see `keras_tune.data.AudioDataset.batches`.

    With 16-bit PCM, only the bytes of the crops are decoded. `shards` are those of the split.
    """
    tf = import_tensorflow_for_reading()
    path, (number, of) = dataset.path, options.part
    if of > 1:
        options = _local(options, sum(shard.records for shard in shards))
    parts = _parts(path, shards, of)
    short = dataset.short_ids(split, parts[number], options.clip_samples)
    count = sum(shard.records for shard in parts[number]) - len(short)
    _check_count(path, split, count, short, options)
    steps, weight = options.steps(count), None
    if options.fill_remainder:
        counts = [dataset.count_in(split, part, options.clip_samples) for part in parts]
        steps = options.steps(max(counts))
        weight = options.weight(counts, steps)
    # A smaller last batch needs no second pass.
    only_one = options.steps_per_epoch is None and not options.fill_remainder
    passes = 1 if only_one else math.ceil(steps * (options.batch_size or 1) / count)
    files = [str(path / shard.file) for shard in parts[number]]
    # Two integers, random ones if the seed is None.
    seed = np.random.SeedSequence(options.seed).generate_state(2).tolist()
    plan = _Plan(tf, files, dataset.info, count, bool(short), options, seed, weight)
    last = np.iinfo("int64").max if options.repeat else options.last_epoch

    def one_epoch(epoch):
        # TensorFlow mixes its global seed into each seeded operation. Set within this traced
        # function, it is the function's own, and `tf.random.set_seed` outside has no effect here.
        tf.random.set_seed(plan.seed[0])
        clips = tf.data.Dataset.range(passes).flat_map(lambda turn: plan.clips(epoch, turn))
        if options.batch_size is not None:
            clips = clips.batch(options.batch_size, drop_remainder=not options.smaller_last)
        return clips.take(steps)

    dataset = tf.data.Dataset.range(options.initial_epoch, last).flat_map(one_epoch)
    dataset = dataset.skip(options.initial_step)
    left = options.num_batches(steps)
    length = tf.data.INFINITE_CARDINALITY if left is None else left
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(length))
    pipeline = pipeline_options(tf)
    pipeline.deterministic = plan.deterministic
    return dataset.prefetch(2).with_options(pipeline)


def _local(options: BatchOptions, records: int) -> BatchOptions:
    """Return the options of one of the processes that share the batches of `options`."""
    of = options.part[1]
    size = options.batch_size
    if size is None or size % of:
        raise ValueError(
            f"`batch_size` must be a multiple of the {of} processes. Received: batch_size={size}"
        )
    steps = options.steps_per_epoch
    if steps is None and options.drops_remainder:
        # All processes must have the same number of steps, whatever their shards contain.
        steps = max(1, records // size)
    return dataclasses.replace(options, batch_size=size // of, steps_per_epoch=steps)


def _parts(path: FilePath, shards: Sequence[Shard], of: int) -> list[list[Shard]]:
    """Return the shards that each of the processes reads."""
    filled = [shard for shard in shards if shard.records]
    if len(filled) < of:
        raise UserError(
            f"{path}: {len(filled)} shards cannot be shared by {of} processes. Prepare it again "
            f"with at least {of} shards."
        )
    return [filled[number::of] for number in range(of)]


def _check_count(
    path: FilePath, split: str, count: int, short: list[str], options: BatchOptions
) -> None:
    if short:
        named = ", ".join(short[:5]) + (", ..." if len(short) > 5 else "")
        message = (
            f"{path}: {len(short)} clips of {split} are shorter than {options.clip_samples} samples"
        )
        if not count:
            raise UserError(f"{message}, which is all of them. Choose shorter windows.")
        warnings.warn(f"{message} and are left out: {named}", stacklevel=5)
    if not options.steps(count):
        raise UserError(
            f"{path}: batch_size {options.batch_size} is more than the {count} clips of {split}. "
            "Choose a smaller `batch_size`, or give `steps_per_epoch`."
        )


@dataclasses.dataclass(frozen=True)
class _Plan:
    """How one pass over a split is read."""

    tf: types.ModuleType
    files: list[str]
    info: DatasetInfo
    count: int
    filtering: bool
    options: BatchOptions
    seed: list[int]
    weight: float | None

    @property
    def deterministic(self) -> bool:
        """Whether the order must be the same every time."""
        return self.options.seed is not None or not self.options.shuffle

    def clips(self, epoch: Any, turn: Any) -> Any:
        """Return the dataset of all clips, once, in pass `turn` of `epoch`."""
        tf, options = self.tf, self.options
        fold_in = tf.random.experimental.stateless_fold_in
        seed = fold_in(fold_in(tf.constant(self.seed, "int64"), epoch), turn)
        files = tf.constant(self.files)
        if options.shuffle:
            order = tf.random.stateless_uniform([len(self.files)], seed)
            files = tf.gather(files, tf.argsort(order))
        records = tf.data.Dataset.from_tensor_slices(files)
        buffer_size = STORE_BYTES if is_url(self.files[0]) else None
        records = records.interleave(
            functools.partial(tf.data.TFRecordDataset, buffer_size=buffer_size),
            cycle_length=min(CYCLE_LENGTH, len(self.files)) if options.shuffle else 1,
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=self.deterministic,
        )
        clips = records.map(self.parse, tf.data.AUTOTUNE)
        if self.filtering:
            clips = clips.filter(lambda clip, labels: clip["samples"] >= options.clip_samples)
        clips = clips.enumerate().map(
            lambda index, clip: self.cut(clip[0], clip[1], fold_in(seed, index), turn),
            tf.data.AUTOTUNE,
        )
        if options.shuffle:
            # As many clips as fit into the memory of the shuffle buffer, at least 16.
            samples = options.clip_samples or 30 * self.info.sample_rate
            size = min(self.count, max(16, SHUFFLE_BYTES // (2 * samples * options.crops)))
            # The number that was folded in last, that of the pass, is only in the second word.
            mixed = tf.cast(fold_in(seed, 0)[0], "int64")
            clips = clips.shuffle(size, seed=mixed, reshuffle_each_iteration=False)
        return clips

    def parse(self, record: Any) -> tuple[dict, Any]:
        """Parse a record into the clip, encoded if that is PCM, and its labels."""
        tf = self.tf
        features = {
            "id": tf.io.FixedLenFeature([], tf.string),
            "audio": tf.io.FixedLenFeature([], tf.string),
            "encoding": tf.io.FixedLenFeature([], tf.string),
            "sample_rate": tf.io.FixedLenFeature([], tf.int64),
            "num_samples": tf.io.FixedLenFeature([], tf.int64),
        }
        if self.info.labels:
            features["labels"] = tf.io.FixedLenFeature([len(self.info.labels)], tf.float32)
        parsed = tf.io.parse_single_example(record, features)
        labels = parsed.pop("labels", tf.zeros([0]))
        audio, samples = parsed["audio"], parsed["num_samples"]
        if self.info.encoding != "pcm16":
            rates = parsed["sample_rate"], self.info.sample_rate
            audio = decode_clip(tf, audio, parsed["encoding"], *rates)
            samples = tf.size(audio, "int64")
        return {"id": parsed["id"], "audio": audio, "samples": samples}, labels

    def cut(self, clip: dict, labels: Any, seed: Any, turn: Any) -> dict:
        """Cut the crops out of a parsed clip in pass `turn`."""
        tf, options = self.tf, self.options
        audio = clip["audio"]
        if options.clip_samples is None:
            whole = tf.io.decode_raw(audio, "int16") if self.info.encoding == "pcm16" else audio
            crops = [whole] * options.crops
        else:
            latest = clip["samples"] - options.clip_samples
            if options.shuffle:
                starts = tf.random.stateless_uniform([options.crops], seed, 0, latest + 1, "int64")
            else:
                latest = tf.cast(latest, "float64")
                starts = tf.cast(options.crop_fractions * latest, "int64")
            crops = [self.crop(audio, start, options.clip_samples) for start in tf.unstack(starts)]
        batch = {"audio": crops[0] if options.crops == 1 else tf.stack(crops)}
        if options.group_by is not None:
            batch["group"] = self.group(clip["id"], labels, options.group_by)
        if self.weight is not None:
            batch["weight"] = tf.where(turn == 0, tf.constant(self.weight, "float32"), 0.0)
        if options.labels:
            batch["labels"] = labels
        if options.ids:
            batch["id"] = clip["id"]
        return batch

    def crop(self, audio: Any, start: Any, size: int) -> Any:
        """Return `size` samples from `start`."""
        tf = self.tf
        if self.info.encoding == "pcm16":
            crop = tf.io.decode_raw(tf.strings.substr(audio, start * 2, size * 2), "int16")
        else:
            crop = audio[start : start + size]
        crop.set_shape([size])
        return crop

    def group(self, name: Any, labels: Any, group_by: str) -> Any:
        """The number of a clip's group; see `keras_tune.data.array_dataset.ArrayDataset.groups`."""
        tf = self.tf
        own = tf.cast(tf.strings.to_hash_bucket_fast(name, 2**31 - 1), "int32")
        if group_by == "id":
            return own
        column, index = self.info.label_column(group_by)
        value = labels[index] + 0.0
        missing = value < 0 if column.kind == "category" else tf.math.is_nan(value)
        return tf.where(missing, -1 - own, tf.bitcast(value, "int32"))
