"""Clips as arrays, for work without TensorFlow.

An `.npz` file of clips (`numpy.savez`) holds

| key | content |
|---|---|
| `audio` | int16, or float with full scale 1, of shape (clips, samples): mono clips of one length |
| `ids` | optional, text of shape (clips,); defaults to the clips' numbers |
| `split` | optional, text of shape (clips,); defaults to "train" for all |
| `sample_rate` | optional, a number in Hz; defaults to 22,050 |
| any other | a label of that name: text of shape (clips,), or numbers of shape (clips,) |

Labels of text are categories, "" for a missing one; numbers are numbers, NaN for a missing one.
"""

import dataclasses

import numpy as np

from keras_tune.data.audio import out_of_scale, to_float
from keras_tune.data.paths import to_path
from keras_tune.data.schema import (
    SAMPLE_RATES,
    DatasetInfo,
    LabelColumn,
    Shard,
    check_names,
    fingerprint,
)
from keras_tune.errors import UserError
from keras_tune.files import read_npz, text_fault


@dataclasses.dataclass(frozen=True)
class Arrays:
    """The clips of an `.npz` file.

    Attributes:
        audio: int16 or float32 array of shape (clips, samples).
        labels: float32 array of shape (clips, label columns), encoded as in records.
        ids: Text array of shape (clips,).
        split: Text array of shape (clips,).
        info: `DatasetInfo`.
    """

    audio: np.ndarray
    labels: np.ndarray
    ids: np.ndarray
    split: np.ndarray
    info: DatasetInfo

    def of_split(self, split):
        """Return the clips and the label vectors of a split, two arrays."""
        self.info.split_shards(split)
        rows = self.split == split
        return self.audio[rows], self.labels[rows]

    def groups_of_split(self, split, group_by="id"):
        """Return which clips of a split belong together, an int32 array (clips,).

        Args:
            split: The split.
            group_by: "id", each clip in a group of its own, or the name of a label, by whose value
                clips are grouped. Clips without one have groups of their own.

        Raises:
            UserError: There is no such split or label.
        """
        self.info.split_shards(split)
        rows = np.flatnonzero(self.split == split)
        return group_numbers(self.info, group_by, rows, self.labels[rows])

    def records(self, split):
        """Iterate over the clips of a split as `keras_tune.data.read_records` does."""
        self.info.split_shards(split)
        for row in np.flatnonzero(self.split == split):
            yield {
                "id": str(self.ids[row]),
                "audio": to_float(self.audio[row]),
                "labels": {
                    column.name: column.decode(value)
                    for column, value in zip(self.info.labels, self.labels[row], strict=True)
                },
            }


def group_numbers(info, group_by, own, labels):
    """Number the groups of clips, the same for the same label wherever the clips are read.

    Args:
        info: `DatasetInfo`.
        group_by: "id" or the name of a label.
        own: Integer array (clips,) from 0 on, a number for each clip alone.
        labels: float32 array (clips, label columns).

    Returns:
        int32 array (clips,).

    Raises:
        UserError: There is no such label.
    """
    own = np.asarray(own, "int32")
    if group_by == "id":
        return own
    column, place = info.label_column(group_by)
    # There are two zeros, of different bits.
    values = np.ascontiguousarray(labels[:, place], "float32") + np.float32(0)
    missing = values < 0 if column.kind == "category" else np.isnan(values)
    # The bits of a number tell equal from different; negative ones are for clips by themselves.
    return np.where(missing, -1 - own, values.view("int32"))


def load_arrays(path):
    """Load the clips of an `.npz` file.

    Args:
        path: The file, or its URL in a store. Its keys are listed at the top of this module.

    Returns:
        `Arrays`.

    Raises:
        UserError: If the file is missing, not an npz file, a key is missing or malformed, or the
            audio is not finite or out of scale (peak above 4 times full scale).

    Example:

    ```python
    import numpy as np
    from keras_tune.data import load_arrays

    audio = np.random.default_rng(0).normal(0, 0.1, (2, 22050)).astype("float32")
    np.savez("/tmp/clips.npz", audio=audio, genre=["jazz", "rock"])
    clips = load_arrays("/tmp/clips.npz")
    ```
    """
    path = to_path(path)
    content = read_npz(path)
    audio = content.pop("audio", None)
    if audio is None or audio.ndim != 2 or audio.dtype.kind not in "if" or not audio.size:
        raise UserError(f"{path}: needs a key `audio`, numbers of shape (clips, samples).")
    if audio.dtype.kind == "i" and audio.dtype != np.int16:
        raise UserError(f"{path}: audio is {audio.dtype}. Give int16, or float with full scale 1.")
    audio = audio if audio.dtype == np.int16 else audio.astype("float32", copy=False)
    if not np.isfinite(audio).all():
        raise UserError(f"{path}: audio is not finite (holds NaN or infinity).")
    reason = None if audio.dtype == np.int16 else out_of_scale(audio)
    if reason:
        raise UserError(f"{path}: audio is {reason}.")
    count = len(audio)
    sample_rate = _sample_rate(path, content.pop("sample_rate", np.array(22050)))
    for key, values in content.items():
        if values.shape != (count,):
            raise UserError(f"{path}: {key} has shape {values.shape} for {count} clips.")
        if values.dtype.kind not in "SUTbiuf" or (values.dtype.kind == "f" and _infinite(values)):
            raise UserError(f"{path}: {key} holds neither texts nor finite numbers.")
    content = {name: _decoded(path, name, values) for name, values in content.items()}
    ids = content.pop("ids", np.arange(count)).astype(str)
    if len(set(ids)) < count:
        raise UserError(f"{path}: ids must be unique.")
    for text in ids:
        wrong = text_fault(text)
        if wrong:
            raise UserError(f"{path}: the id {str(text)!r} {wrong}. Rename it.")
    split = content.pop("split", np.full(count, "train")).astype(str)
    columns = tuple(_column(name, values) for name, values in content.items())
    check_names(split.tolist(), columns, path)
    labels = np.zeros((count, len(columns)), "float32")
    for place, column in enumerate(columns):
        values = content[column.name].tolist()
        labels[:, place] = [column.encode(None if value == "" else value) for value in values]
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
    return Arrays(audio, labels, ids, split, info)


def array_clips(
    audio,
    clip_samples=None,
    crops=1,
    batch_size=32,
    shuffle=True,
    repeat=False,
    seed=None,
    labels=None,
    steps_per_epoch=None,
    epochs=None,
    initial_epoch=0,
    initial_step=0,
    part=(0, 1),
    drop_remainder=True,
    fill_remainder=False,
    groups=None,
):
    """Read clips from an array, as `keras_tune.data.read_clips` does from shards.

    Order and crops of epoch e follow from the seed and e alone, so that a stream that begins at
    `initial_epoch` k goes on exactly as the whole one does. Train with `repeat=True` and
    `fit(steps_per_epoch=...)`: batches of a stream that ends are shuffled by `fit` once more,
    across epochs, unless it is told `shuffle=False`.

    Args:
        audio: int16 or float array of shape (clips, samples).
        clip_samples: Samples of a crop. Defaults to None: whole clips.
        crops: Crops of each clip, drawn independently. Defaults to 1.
        batch_size: Clips of a batch. Defaults to 32.
        shuffle: Whether order and crops are drawn at random. Without, clips come in order and crops
            are spread evenly over the clip (a single one is its middle). Defaults to True.
        repeat: Whether the stream goes on for ever. Defaults to False.
        seed: Integer from which all randomness follows. Defaults to None: another stream each time.
        labels: Array of shape (clips, ...) to yield beside the clips. Defaults to None.
        steps_per_epoch: Batches of an epoch. Defaults to None: one pass.
        epochs: Epoch before which the stream ends. Defaults to one epoch, `initial_epoch + 1`.
        initial_epoch: Epoch at which the stream begins. Defaults to 0.
        initial_step: Batches of that epoch that are left out. Defaults to 0.
        part: Pair (k, n): of each batch only every n-th clip, from the k-th on, for the k-th of n
            processes that share the work. Defaults to (0, 1), all of them.
        drop_remainder: Whether the last batch of a pass is dropped if it is not full, rather than
            smaller. Defaults to True.
        fill_remainder: Whether the last batch of a pass is filled up from the beginning of another
            pass instead, and weights tell which clips count. Defaults to False.
        groups: Integer array of shape (clips,), at most 32 bits, to yield with the clips, or None.
            See `keras_tune.training.ContrastiveModel`. Defaults to None.

    Returns:
        `keras.utils.PyDataset` of batches of shape (batch_size, clip_samples), or (batch_size,
        crops, clip_samples) if `crops` is more than 1, of the type of `audio`. With `groups` or
        `fill_remainder`, dicts of these as `audio`, int32 `group` and float32 `weight`, both of
        shape (batch_size,): a weight is 0 for a clip that fills up, and their mean over an epoch is
        1. With `labels`, pairs of these and the labels.

    Raises:
        ValueError: If the clips are shorter than `clip_samples`, or fewer than a batch.

    Example:

    ```python
    import numpy as np
    from keras_tune.data import array_clips

    audio = np.random.default_rng(0).normal(0, 0.1, (8, 44100)).astype("float32")
    stream = array_clips(audio, clip_samples=22050, crops=2, batch_size=4, seed=1)
    stream[0].shape  # (4, 2, 22050)
    ```
    """
    from keras_tune.data.array_dataset import ArrayDataset

    audio = np.asarray(audio)
    return ArrayDataset(
        audio,
        labels,
        groups,
        clip_samples=clip_samples,
        crops=crops,
        batch_size=batch_size,
        shuffle=shuffle,
        repeat=repeat,
        seed=seed,
        steps_per_epoch=steps_per_epoch,
        epochs=epochs,
        initial_epoch=initial_epoch,
        initial_step=initial_step,
        part=part,
        drop_remainder=drop_remainder,
        fill_remainder=fill_remainder,
    )


def _sample_rate(path, value):
    low, high = SAMPLE_RATES
    if value.shape == () and value.dtype.kind in "iuf" and low <= value <= high:
        return int(value)
    raise UserError(f"{path}: sample_rate must be a number from {low:,} to {high:,}.")


def _infinite(values):
    return np.isinf(values).any()


def _decoded(path, name, values):
    """Bytes as text, which they are of in a file that Python 2 or another program has written."""
    if values.dtype.kind != "S":
        return values
    try:
        return np.char.decode(values, "utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: {name} is not in UTF-8 ({error.reason}).") from error


def _column(name, values):
    if values.dtype.kind in "UT":
        return LabelColumn(name, "category", tuple(sorted(set(values.tolist()) - {""})))
    return LabelColumn(name, "number")
