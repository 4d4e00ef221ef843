"""Reading prepared shards as a stream of training clips.

The stream is a function of (seed, epoch, position) alone: a run that goes on at epoch k gets the
batches that it would have got without the interruption.
"""

import dataclasses
import functools
import math
import warnings

import numpy as np

from keras_tune.data.damage import find_damaged_shards
from keras_tune.data.decode import decode_clip
from keras_tune.data.paths import is_url, to_path
from keras_tune.data.record import Record
from keras_tune.data.schema import DatasetInfo
from keras_tune.data.tensorflow import import_tensorflow_for_reading, pipeline_options
from keras_tune.errors import UserError

# Files read at a time.
CYCLE_LENGTH = 16
# Bytes asked of a store at a time. TensorFlow's own choice for S3 is 127 MB, for each of the files.
STORE_BYTES = 8 * 2**20
# Memory for the shuffle buffer, which holds crops, not records.
SHUFFLE_BYTES = 256 * 2**20


def read_clips(
    path,
    split="train",
    clip_samples=None,
    crops=1,
    batch_size=None,
    shuffle=True,
    repeat=False,
    seed=None,
    labels=False,
    steps_per_epoch=None,
    epochs=None,
    initial_epoch=0,
    initial_step=0,
    drop_remainder=True,
    on_corrupt="raise",
    leave_out=(),
    ids=False,
    part=(0, 1),
    fill_remainder=False,
    group_by=None,
):
    """Read the clips of a split as a `tf.data.Dataset`.

    Of 16-bit PCM only the bytes of the crops are decoded. Clips come as int16, four times lighter
    to move than to compute with: divide by 32,768 on the device.

    One epoch is one pass over the split, in which each clip comes exactly once, or
    `steps_per_epoch` batches of as many passes as that takes. With a `seed`, order and crops of
    epoch e follow from the seed and e alone: they differ from epoch to epoch, and a stream that
    begins at `initial_epoch` k goes on exactly as the whole one does. Train with `repeat=True` and
    `fit(steps_per_epoch=...)`: a stream that ends is begun anew by `fit` for each of its epochs,
    with the same order and the same crops.

    Args:
        path: Folder that `prepare` has written, or its URL in a store.
        split: Split to read. Defaults to "train".
        clip_samples: Samples of a crop. Records that are shorter are left out, with a warning that
            names them. Defaults to None: whole records.
        crops: Crops of each record, drawn independently. Defaults to 1.
        batch_size: Clips of a batch. Defaults to None: single clips.
        shuffle: Whether files, records and crops are drawn at random. Without, records come in the
            order of the files, and crops are spread evenly over the clip (a single one is its
            middle). Defaults to True.
        repeat: Whether the stream goes on for ever. Defaults to False.
        seed: Integer from which all randomness follows. Defaults to None: another stream each time.
        labels: Whether to yield the label vectors too. Defaults to False.
        steps_per_epoch: Batches of an epoch. Defaults to None: one pass.
        epochs: Epoch before which the stream ends. Defaults to one epoch, `initial_epoch + 1`.
        initial_epoch: Epoch at which the stream begins. Defaults to 0.
        initial_step: Batches of that epoch that are left out. They are read, and dropped. Defaults
            to 0.
        drop_remainder: Whether the last batch of an epoch is dropped if it is not full. Defaults to
            True.
        on_corrupt: "raise" stops with an error at a damaged shard (`naming_damaged_shards` tells
            which), "skip" reads all shards once beforehand and leaves out the damaged ones, with a
            warning. Defaults to "raise".
        leave_out: Names of shards that are not read, those that `find_damaged_shards` has found for
            one. Defaults to none.
        ids: Whether to yield the ids of the records too, last. Defaults to False.
        part: Pair (k, n): only every n-th shard is read, from the k-th on, by the k-th of n
            processes that share the work. An epoch is one pass over this part, unless
            `steps_per_epoch` is given. Defaults to (0, 1), all of them.
        fill_remainder: Whether the last batch of a pass is filled up from the beginning of another
            pass instead of being dropped, and weights tell which clips count. All processes then
            read as many batches as the one with the most clips. Defaults to False.
        group_by: What tells which clips belong together: "id", only copies of the same clip, or
            the name of a label, by whose value clips are grouped. Clips without one have groups of
            their own. Defaults to None: no groups.

    Returns:
        `tf.data.Dataset` of int16 clips of shape (clip_samples,), (crops, clip_samples) if `crops`
        is more than 1, with the batch in front if there is one. With `group_by` or
        `fill_remainder`, dicts of these as `audio`, an int32 `group` and a float32 `weight`, which
        is 0 for a clip that fills up; over an epoch (of all processes) its mean is 1. With `labels`
        or `ids`, tuples of these, float32 label vectors and strings.

    Raises:
        UserError: If TensorFlow is not installed, the folder is not a whole prepared set, the split
            or the label is not in it, or no clip is long enough.
        ValueError: If an argument is out of its range.

    Example:

    ```python
    dataset = read_clips("tfrecords/mine", clip_samples=59049, batch_size=48, repeat=True, seed=1)
    model.fit(dataset, epochs=10, steps_per_epoch=100)
    ```
    """
    _check_arguments(
        clip_samples, crops, batch_size, epochs, initial_epoch, initial_step, on_corrupt
    )
    tf = import_tensorflow_for_reading()
    path = to_path(path)
    # Shards that are left out may well be of the wrong size, or gone.
    info = DatasetInfo.load(path, check_shards=on_corrupt == "raise", leave_out=leave_out)
    shards = [shard for shard in info.split_shards(split) if shard.file not in leave_out]
    if on_corrupt == "skip":
        shards = _undamaged(path, split, shards)
    everything = shards
    shards = _part(path, shards, part)
    short = _short_records(tf, path, shards, clip_samples, info.sample_rate)
    count = sum(shard.records for shard in shards) - len(short)
    one_batch = (
        batch_size if drop_remainder and not fill_remainder and steps_per_epoch is None else None
    )
    _check_count(path, split, count, short, clip_samples, one_batch)
    if steps_per_epoch is None:
        steps = count if batch_size is None else count / batch_size
        steps = math.floor(steps) if drop_remainder else math.ceil(steps)
    else:
        steps = steps_per_epoch
    weight = None
    if fill_remainder:
        counts = _counts_of_parts(tf, path, everything, part[1], clip_samples, info.sample_rate)
        if steps_per_epoch is None:
            steps = math.ceil(max(counts) / (batch_size or 1))
        slots = steps * (batch_size or 1)
        weight = slots * len(counts) / sum(min(slots, count) for count in counts)
    # A last batch that is smaller takes no second pass.
    only_one = steps_per_epoch is None and not fill_remainder
    passes = 1 if only_one else math.ceil(steps * (batch_size or 1) / count)
    if group_by not in (None, "id"):
        info.label_column(group_by)
    plan = _Plan(
        files=tuple(str(path / shard.file) for shard in shards if shard.records),
        info=info,
        count=count,
        filtering=bool(short),
        clip_samples=clip_samples,
        crops=crops,
        labels=labels,
        ids=ids,
        shuffle=shuffle,
        deterministic=seed is not None or not shuffle,
        seed=_seed(seed),
        group_by=group_by,
        weight=weight,
    )
    last = np.iinfo("int64").max if repeat else (epochs or initial_epoch + 1)

    def one_epoch(epoch):
        # TensorFlow mixes its global seed into each seeded operation. Set within this traced
        # function, it is the function's own, and `tf.random.set_seed` outside has no effect here.
        tf.random.set_seed(plan.seed[0])
        clips = tf.data.Dataset.range(passes).flat_map(lambda turn: plan.clips(tf, epoch, turn))
        if batch_size is not None:
            clips = clips.batch(batch_size, drop_remainder=drop_remainder or fill_remainder)
        return clips.take(steps)

    dataset = tf.data.Dataset.range(initial_epoch, last).flat_map(one_epoch).skip(initial_step)
    left = max(0, steps * (last - initial_epoch) - initial_step)
    length = tf.data.INFINITE_CARDINALITY if repeat else left
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(length))
    options = pipeline_options(tf)
    options.deterministic = plan.deterministic
    return dataset.prefetch(2).with_options(options)


@dataclasses.dataclass(frozen=True)
class _Plan:
    """How one pass over a split is read."""

    files: tuple
    info: DatasetInfo
    count: int
    filtering: bool
    clip_samples: int | None
    crops: int
    labels: bool
    ids: bool
    shuffle: bool
    deterministic: bool
    seed: tuple
    group_by: str | None = None
    weight: float | None = None

    def clips(self, tf, epoch, turn):
        """Return the dataset of all clips, once, in pass `turn` of `epoch`."""
        seed = tf.constant(self.seed, "int64")
        for number in (epoch, turn):
            seed = tf.random.experimental.stateless_fold_in(seed, number)
        files = tf.constant(self.files)
        if self.shuffle:
            order = tf.random.stateless_uniform([len(self.files)], seed)
            files = tf.gather(files, tf.argsort(order))
        records = tf.data.Dataset.from_tensor_slices(files)
        buffer_size = STORE_BYTES if is_url(self.files[0]) else None
        records = records.interleave(
            functools.partial(tf.data.TFRecordDataset, buffer_size=buffer_size),
            cycle_length=min(CYCLE_LENGTH, len(self.files)) if self.shuffle else 1,
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
        if self.shuffle:
            # The number that was folded in last, that of the pass, is in the second word alone.
            mixed = tf.cast(fold_in(seed, 0)[0], "int64")
            clips = clips.shuffle(self.buffer_size, seed=mixed, reshuffle_each_iteration=False)
        return clips

    @property
    def buffer_size(self):
        """Clips that fit into the memory of the shuffle buffer, at least 16."""
        samples = self.clip_samples or 30 * self.info.sample_rate
        return min(self.count, max(16, SHUFFLE_BYTES // (2 * samples * self.crops)))

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
            crops = tf.stack([self.samples(tf, audio)] * self.crops)
        else:
            room = clip["samples"] - self.clip_samples
            if self.shuffle:
                starts = tf.random.stateless_uniform([self.crops], seed, 0, room + 1, "int64")
            else:
                places = (np.arange(self.crops) + 0.5) / self.crops
                starts = tf.cast(places * tf.cast(room, "float64"), "int64")
            crops = tf.stack([self.samples(tf, audio, start) for start in tf.unstack(starts)])
        crops = crops[0] if self.crops == 1 else crops
        more = {}
        if self.group_by is not None:
            more["group"] = self.group(tf, clip, labels)
        if self.weight is not None:
            more["weight"] = tf.where(turn == 0, tf.constant(self.weight, "float32"), 0.0)
        crops = {"audio": crops, **more} if more else crops
        wanted = [crops] + [labels] * self.labels + [clip["id"]] * self.ids
        return tuple(wanted) if len(wanted) > 1 else crops

    def group(self, tf, clip, labels):
        """The number of a clip's group; see `keras_tune.data.arrays.group_numbers`."""
        own = tf.cast(tf.strings.to_hash_bucket_fast(clip["id"], 2**31 - 1), "int32")
        if self.group_by == "id":
            return own
        column, place = self.info.label_column(self.group_by)
        value = labels[place] + 0.0
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
        """Tell the graph how long a crop is."""
        samples.set_shape([self.clip_samples])
        return samples


def _check_arguments(
    clip_samples, crops, batch_size, epochs, initial_epoch, initial_step, on_corrupt
):
    for name, value in (("clip_samples", clip_samples), ("batch_size", batch_size)):
        if value is not None and value < 1:
            raise ValueError(f"`{name}` must be positive or None. Received: {name}={value}")
    if crops < 1:
        raise ValueError(f"`crops` must be positive. Received: crops={crops}")
    if initial_epoch < 0 or (epochs is not None and epochs < initial_epoch):
        raise ValueError(
            "`initial_epoch` must lie between 0 and `epochs`. "
            f"Received: initial_epoch={initial_epoch}, epochs={epochs}"
        )
    if initial_step < 0:
        raise ValueError(f"`initial_step` must not be negative. Received: {initial_step=}")
    if on_corrupt not in ("raise", "skip"):
        raise ValueError(
            f"`on_corrupt` must be 'raise' or 'skip'. Received: on_corrupt={on_corrupt}"
        )


def count_clips(path, split="train", clip_samples=None, leave_out=()):
    """Count the clips of a split that are long enough.

    Args:
        path: Folder that `prepare` has written, or its URL in a store.
        split: Defaults to "train".
        clip_samples: Samples that a clip must have. Defaults to None: any number.
        leave_out: Names of shards that are not read. Defaults to none.

    Returns:
        Integer.

    Raises:
        UserError: As `read_clips`.

    Example:

    ```python
    count_clips("tfrecords/mine", "valid", clip_samples=59049)
    ```
    """
    tf = import_tensorflow_for_reading()
    path = to_path(path)
    info = DatasetInfo.load(path, leave_out=leave_out)
    shards = [shard for shard in info.split_shards(split) if shard.file not in leave_out]
    (count,) = _counts_of_parts(tf, path, shards, 1, clip_samples, info.sample_rate)
    return count


def _counts_of_parts(tf, path, shards, parts, clip_samples, sample_rate):
    """How many clips each of the processes reads that share the shards."""
    counts = []
    for number in range(parts):
        own = _part(path, shards, (number, parts))
        short = _short_records(tf, path, own, clip_samples, sample_rate)
        counts.append(sum(shard.records for shard in own) - len(short))
    return counts


def _check_count(path, split, count, short, clip_samples, batch_size):
    if short:
        named = ", ".join(short[:5]) + (", ..." if len(short) > 5 else "")
        message = f"{path}: {len(short)} clips of {split} are shorter than {clip_samples} samples"
        if not count:
            raise UserError(f"{message}, which is all of them. Choose shorter windows.")
        warnings.warn(f"{message} and are left out: {named}", stacklevel=3)
    if not count:
        raise UserError(f"{path}: all shards of {split} are damaged. Run prepare again.")
    if batch_size is not None and count < batch_size:
        raise UserError(
            f"{path}: batch_size {batch_size} is more than the {count} clips of {split}. "
            "Choose a smaller batch_size, or give steps_per_epoch."
        )


def _seed(seed):
    """Spread any integer, or fresh entropy, over the two integers that TensorFlow takes."""
    state = np.random.SeedSequence(seed).generate_state(2)
    return tuple(int(word) for word in state)


def _undamaged(path, split, shards):
    damaged = dict(find_damaged_shards(path, split))
    for file, reason in damaged.items():
        warnings.warn(f"{file}: {reason}. The shard is left out.", stacklevel=3)
    return [shard for shard in shards if str(path / shard.file) not in damaged]


def _part(path, shards, part):
    number, of = part
    if not 0 <= number < of:
        raise ValueError(f"`part` must be a pair (k, n) with 0 <= k < n. Received: part={part}")
    filled = [shard for shard in shards if shard.records]
    if len(filled) < of:
        raise UserError(
            f"{path}: {len(filled)} shards cannot be dealt to {of} processes. Prepare it with "
            f"--shards {of} or more."
        )
    return filled[number::of]


def _short_records(tf, path, shards, clip_samples, sample_rate):
    """Name the records that are shorter than `clip_samples`.

    Shards say how short their shortest record is, so that only those that hold one are looked at.
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
