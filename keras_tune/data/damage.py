"""Finding damaged shards by their checksums, and naming them in the error they cause.

A shard that was cut short is found by its size in `dataset.json`, a flipped byte only when the
record is read: TFRecords contain a CRC-32C of each record's length and content.
"""

import contextlib
import sys
import types
from collections.abc import Iterator

from keras_tune.data.record_format import import_tensorflow_for_reading, serialized_records
from keras_tune.data.schema import DatasetInfo, shard_fault
from keras_tune.errors import UserError
from keras_tune.storage import AnyPath, is_url, store_error, to_path


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

    Args:
        file: Path of a TFRecord file.

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
