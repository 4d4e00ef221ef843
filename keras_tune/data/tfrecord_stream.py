"""The `tf.data` pipeline from shards to batches of crops.

The stream depends only on (seed, epoch, position): a run that is resumed at epoch k gets the same
batches as without the interruption.
"""

import dataclasses
import functools
import math
import warnings

import numpy as np

from keras_tune.data.batch_options import BatchOptions
from keras_tune.data.decode import decode_clip
from keras_tune.data.record_format import Record
from keras_tune.data.schema import DatasetInfo
from keras_tune.data.tensorflow import import_tensorflow_for_reading, pipeline_options
from keras_tune.errors import UserError
from keras_tune.storage import is_url

# Files read at a time.
CYCLE_LENGTH = 16
# Bytes requested from a store at a time. TensorFlow's default for S3 is 127 MB for each file.
STORE_BYTES = 8 * 2**20
# Memory for the shuffle buffer, which holds crops, not records.
SHUFFLE_BYTES = 256 * 2**20


def tfrecord_batches(path, info, split, shards, options):
    """Read batches of crops from shards; see `keras_tune.data.AudioDataset.batches`.

    With 16-bit PCM, only the bytes of the crops are decoded.

    Args:
        path: Folder of the shards.
        info: Its `DatasetInfo`.
        split: The split, for errors.
        shards: `Shard` list, those of the split.
        options: `BatchOptions`.

    Returns:
        `tf.data.Dataset` of dicts.

    Raises:
        UserError: If TensorFlow is not installed, no clip is long enough, or there are too few for
            a batch.
        ValueError: If a batch cannot be shared by the processes.
    """
    tf = import_tensorflow_for_reading()
    everything = shards
    of = options.part[1]
    if of > 1:
        options = _local(options, sum(shard.records for shard in shards))
    shards = _part(path, shards, options.part)
    short = _short_records(tf, path, shards, options.clip_samples, info.sample_rate)
    count = sum(shard.records for shard in shards) - len(short)
    one_pass = options.steps_per_epoch is None
    _check_count(path, split, count, short, options, one_pass and options.drops_remainder)
    steps, weight = options.steps(count), None
    if options.fill_remainder:
        counts = _counts_of_parts(tf, path, everything, of, options.clip_samples, info.sample_rate)
        steps = options.steps(max(counts))
        weight = options.weight(counts, steps)
    # A smaller last batch needs no second pass.
    only_one = one_pass and not options.fill_remainder
    passes = 1 if only_one else math.ceil(steps * (options.batch_size or 1) / count)
    plan = _Plan(
        files=tuple(str(path / shard.file) for shard in shards if shard.records),
        info=info,
        count=count,
        filtering=bool(short),
        options=options,
        seed=_seed(options.seed),
        weight=weight,
    )
    last = np.iinfo("int64").max if options.repeat else options.last_epoch

    def one_epoch(epoch):
        # TensorFlow mixes its global seed into each seeded operation. Set within this traced
        # function, it is the function's own, and `tf.random.set_seed` outside has no effect here.
        tf.random.set_seed(plan.seed[0])
        clips = tf.data.Dataset.range(passes).flat_map(lambda turn: plan.clips(tf, epoch, turn))
        if options.batch_size is not None:
            drop = options.drop_remainder or options.fill_remainder
            clips = clips.batch(options.batch_size, drop_remainder=drop)
        return clips.take(steps)

    dataset = tf.data.Dataset.range(options.initial_epoch, last).flat_map(one_epoch)
    dataset = dataset.skip(options.initial_step)
    left = options.num_batches(steps)
    length = tf.data.INFINITE_CARDINALITY if left is None else left
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(length))
    pipeline = pipeline_options(tf)
    pipeline.deterministic = plan.deterministic
    return dataset.prefetch(2).with_options(pipeline)


def count_records(path, shards, clip_samples, sample_rate):
    """Count the records in shards that have at least `clip_samples` samples (None: any)."""
    tf = import_tensorflow_for_reading()
    (count,) = _counts_of_parts(tf, path, shards, 1, clip_samples, sample_rate)
    return count


def _local(options, records):
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


@dataclasses.dataclass(frozen=True)
class _Plan:
    """How one pass over a split is read."""

    files: tuple
    info: DatasetInfo
    count: int
    filtering: bool
    options: BatchOptions
    seed: tuple
    weight: float | None = None

    @property
    def deterministic(self):
        """Whether the order must be the same every time."""
        return self.options.seed is not None or not self.options.shuffle

    @property
    def clip_samples(self):
        """Samples of a crop, or None."""
        return self.options.clip_samples

    def clips(self, tf, epoch, turn):
        """Return the dataset of all clips, once, in pass `turn` of `epoch`."""
        seed = tf.constant(self.seed, "int64")
        for number in (epoch, turn):
            seed = tf.random.experimental.stateless_fold_in(seed, number)
        files = tf.constant(self.files)
        if self.options.shuffle:
            order = tf.random.stateless_uniform([len(self.files)], seed)
            files = tf.gather(files, tf.argsort(order))
        records = tf.data.Dataset.from_tensor_slices(files)
        buffer_size = STORE_BYTES if is_url(self.files[0]) else None
        records = records.interleave(
            functools.partial(tf.data.TFRecordDataset, buffer_size=buffer_size),
            cycle_length=min(CYCLE_LENGTH, len(self.files)) if self.options.shuffle else 1,
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=self.deterministic,
        )
        clips = records.map(lambda record: self.parse(tf, record), tf.data.AUTOTUNE)
        if self.filtering:
            clips = clips.filter(lambda clip, labels: clip["samples"] >= self.clip_samples)
        fold_in = tf.random.experimental.stateless_fold_in
        clips = clips.enumerate().map(
            lambda index, clip: self.cut(tf, *clip, fold_in(seed, index), turn), tf.data.AUTOTUNE
        )
        if self.options.shuffle:
            # The number that was folded in last, that of the pass, is only in the second word.
            mixed = tf.cast(fold_in(seed, 0)[0], "int64")
            clips = clips.shuffle(self.buffer_size, seed=mixed, reshuffle_each_iteration=False)
        return clips

    @property
    def buffer_size(self):
        """Clips that fit into the memory of the shuffle buffer, at least 16."""
        samples = self.clip_samples or 30 * self.info.sample_rate
        return min(self.count, max(16, SHUFFLE_BYTES // (2 * samples * self.options.crops)))

    def parse(self, tf, record):
        """Parse a record into the clip, encoded if that is PCM, and its labels."""
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
        clip = {"id": parsed["id"], "audio": parsed["audio"], "samples": parsed["num_samples"]}
        if self.info.encoding == "pcm16":
            return clip, labels
        audio = decode_clip(
            tf, parsed["audio"], parsed["encoding"], parsed["sample_rate"], self.info.sample_rate
        )
        return {**clip, "audio": audio, "samples": tf.size(audio, "int64")}, labels

    def cut(self, tf, clip, labels, seed, turn):
        """Cut the crops out of a parsed clip in pass `turn`."""
        audio = clip["audio"]
        if self.clip_samples is None:
            crops = tf.stack([self.samples(tf, audio)] * self.options.crops)
        else:
            latest = clip["samples"] - self.clip_samples
            if self.options.shuffle:
                starts = tf.random.stateless_uniform(
                    [self.options.crops], seed, 0, latest + 1, "int64"
                )
            else:
                latest = tf.cast(latest, "float64")
                starts = tf.cast(self.options.crop_fractions * latest, "int64")
            crops = tf.stack([self.samples(tf, audio, start) for start in tf.unstack(starts)])
        batch = {"audio": crops[0] if self.options.crops == 1 else crops}
        if self.options.group_by is not None:
            batch["group"] = self.group(tf, clip, labels)
        if self.weight is not None:
            batch["weight"] = tf.where(turn == 0, tf.constant(self.weight, "float32"), 0.0)
        if self.options.labels:
            batch["labels"] = labels
        if self.options.ids:
            batch["id"] = clip["id"]
        return batch

    def group(self, tf, clip, labels):
        """The number of a clip's group; see `keras_tune.data.array_dataset.group_numbers`."""
        own = tf.cast(tf.strings.to_hash_bucket_fast(clip["id"], 2**31 - 1), "int32")
        if self.options.group_by == "id":
            return own
        column, index = self.info.label_column(self.options.group_by)
        value = labels[index] + 0.0
        missing = value < 0 if column.kind == "category" else tf.math.is_nan(value)
        return tf.where(missing, -1 - own, tf.bitcast(value, "int32"))

    def samples(self, tf, audio, start=None):
        """Return `clip_samples` samples from `start`, or all of them."""
        if self.info.encoding != "pcm16":
            return audio if start is None else self.sized(audio[start : start + self.clip_samples])
        if start is None:
            return tf.io.decode_raw(audio, "int16")
        return self.sized(
            tf.io.decode_raw(tf.strings.substr(audio, start * 2, self.clip_samples * 2), "int16")
        )

    def sized(self, samples):
        """Set the static shape of a crop."""
        samples.set_shape([self.clip_samples])
        return samples


def _counts_of_parts(tf, path, shards, parts, clip_samples, sample_rate):
    """Return the number of clips that each of the processes reads."""
    counts = []
    for number in range(parts):
        own = _part(path, shards, (number, parts))
        short = _short_records(tf, path, own, clip_samples, sample_rate)
        counts.append(sum(shard.records for shard in own) - len(short))
    return counts


def _check_count(path, split, count, short, options, needs_a_batch):
    if short:
        named = ", ".join(short[:5]) + (", ..." if len(short) > 5 else "")
        message = (
            f"{path}: {len(short)} clips of {split} are shorter than {options.clip_samples} samples"
        )
        if not count:
            raise UserError(f"{message}, which is all of them. Choose shorter windows.")
        warnings.warn(f"{message} and are left out: {named}", stacklevel=5)
    if needs_a_batch and options.batch_size is not None and count < options.batch_size:
        raise UserError(
            f"{path}: batch_size {options.batch_size} is more than the {count} clips of {split}. "
            "Choose a smaller `batch_size`, or give `steps_per_epoch`."
        )


def _seed(seed):
    """Turn an integer, or None for a random seed, into the two integers that TensorFlow takes."""
    state = np.random.SeedSequence(seed).generate_state(2)
    return tuple(int(word) for word in state)


def _part(path, shards, part):
    number, of = part
    filled = [shard for shard in shards if shard.records]
    if len(filled) < of:
        raise UserError(
            f"{path}: {len(filled)} shards cannot be shared by {of} processes. Prepare it again "
            f"with at least {of} shards."
        )
    return filled[number::of]


def _short_records(tf, path, shards, clip_samples, sample_rate):
    """Return the ids of the records that are shorter than `clip_samples`.

    The length of the shortest record of each shard is known, so only shards with one are read.
    """
    short = []
    for shard in shards:
        if clip_samples is None or not shard.records or shard.shortest >= clip_samples:
            continue
        for serialized in tf.data.TFRecordDataset(str(path / shard.file)).as_numpy_iterator():
            record = Record.parse(serialized, tf)
            if len(record.samples(sample_rate)) < clip_samples:
                short.append(record.id)
    return short
