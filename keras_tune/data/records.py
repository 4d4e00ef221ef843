"""Reading the clips of a set one by one, whole and with their labels, as evaluation does."""

import dataclasses

from keras_tune.data.arrays import load_arrays
from keras_tune.data.damage import broken_frame, naming_damaged_shards
from keras_tune.data.paths import to_path
from keras_tune.data.record import Record
from keras_tune.data.schema import DatasetInfo
from keras_tune.data.tensorflow import import_tensorflow_for_reading, pipeline_options
from keras_tune.errors import UserError


def load_info(path, leave_out=()):
    """Describe a prepared set or an `.npz` file of clips.

    Args:
        path: Folder that `prepare` has written, or `.npz` file (see `load_arrays`); a URL, too.
        leave_out: Names of shards that do not count, those that `find_damaged_shards` has found for
            one. Defaults to none.

    Returns:
        `DatasetInfo`.

    Raises:
        UserError: If there is no such thing, or it is not whole.

    Example:

    ```python
    load_info("tfrecords/mine").counts
    ```
    """
    if to_path(path).suffix == ".npz":
        return load_arrays(path).info
    info = DatasetInfo.load(path, leave_out=leave_out)
    shards = tuple(shard for shard in info.shards if shard.file not in leave_out)
    return dataclasses.replace(info, shards=shards)


def read_records(path, split, leave_out=()):
    """Iterate over the clips of a split, in the order in which they are stored.

    Args:
        path: Folder that `prepare` has written, or `.npz` file (see `load_arrays`); a URL, too.
        split: Split to read.
        leave_out: Names of shards that are not read. Defaults to none.

    Yields:
        Dicts of `id` (text), `audio` (float32 array of shape (samples,) at the set's sample rate,
        full scale being 1) and `labels` (dict from label to the name of a category, None where it
        is missing, or to a number, NaN where it is missing).

    Raises:
        UserError: If there is no such set or split, or a shard is damaged.

    Example:

    ```python
    for clip in read_records("tfrecords/mine", "test"):
        print(clip["id"], len(clip["audio"]), clip["labels"])
    ```
    """
    if to_path(path).suffix == ".npz":
        yield from load_arrays(path).records(split)
        return
    info = load_info(path, leave_out)
    shards = info.split_shards(split)
    tf = import_tensorflow_for_reading()
    files = [str(to_path(path) / shard.file) for shard in shards]
    for file in files:
        broken = broken_frame(file)
        if broken:
            raise UserError(f"{file}: record {broken} is damaged. Run prepare again.")
    serialized = tf.data.TFRecordDataset(files).prefetch(2).with_options(pipeline_options(tf))
    serialized = serialized.as_numpy_iterator()
    while True:
        # Not around the yield: what the caller raises is none of our business.
        with naming_damaged_shards(path, split):
            content = next(serialized, None)
        if content is None:
            return
        try:
            record = Record.parse(content, tf)
            audio = record.samples(info.sample_rate)
        except UserError as error:
            raise UserError(f"{path}, {split}: {error}. Run prepare again.") from error
        if len(record.labels) != len(info.labels):
            raise UserError(
                f"{path}, {split}: {record.id} has {len(record.labels)} labels instead of "
                f"{len(info.labels)}. Run prepare again."
            )
        yield {
            "id": record.id,
            "audio": audio,
            "labels": {
                column.name: column.decode(value)
                for column, value in zip(info.labels, record.labels, strict=True)
            },
        }
