"""The one way to open data: prepared shards, `.npz` files, in folders and in object stores."""

import abc
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_tune.data.batch_options import BatchOptions
from keras_tune.data.schema import FILE_NAME, DatasetInfo
from keras_tune.storage import AnyPath, FilePath, to_path

if TYPE_CHECKING:
    from keras_tune.data.resident_clips import ResidentClips


class AudioDataset(abc.ABC):
    """Labelled clips in splits, as `open_dataset` opens them.

    Attributes:
        path: Where the dataset is, `pathlib.Path` or `keras_tune.storage.ObjectPath`.
        info: `DatasetInfo`, without the shards that are excluded.
        exclude: Names of shards that are not read, a tuple.

    Example:

    ```python
    import numpy as np
    from keras_tune.data import open_dataset, save_demo

    save_demo("demo.npz", num_clips={"train": 8, "test": 8}, seconds=3.0)
    dataset = open_dataset("demo.npz")
    dataset.info.counts  # {"test": 8, "train": 8}
    batch = dataset.batches("train", clip_samples=22050, batch_size=4, labels=True, seed=1)[0]
    batch["audio"].shape  # (4, 22050)
    ```
    """

    path: FilePath
    info: DatasetInfo
    exclude: tuple[str, ...] = ()

    def batches(self, split: str = "train", **options: Any) -> Any:
        """Return batches of crops, for training.

        Args:
            split: Split to read. Defaults to "train".
            **options: Fields of `keras_tune.data.BatchOptions`, such as `clip_samples`, `crops`,
                `batch_size`, `seed`, `repeat`, `group_by`, `labels` and `ids`.

        Returns:
            `tf.data.Dataset` for shards, `keras.utils.PyDataset` for arrays; both support `len`,
            `iter` and `as_numpy_iterator()`. Each batch is a dict:

            - `audio`: int16 (half the size of float32: divide by 32,768 on the device), or float32
              from an array of floats, of shape (batch, clip_samples), or (batch, crops,
              clip_samples) if `crops` is more than 1.
            - `group`, with `group_by`: int32 (batch,), equal for clips of one group.
            - `weight`, with `fill_remainder`: float32 (batch,), 0 for a clip that fills the last
              batch; the mean over an epoch is 1.
            - `labels`, with `labels`: float32 (batch, label columns), see `DatasetInfo`.
            - `id`, with `ids`: text (batch,), bytes in UTF-8 from shards.

        Raises:
            UserError: If there is no such split or label, or no clip in shards is long enough.
            ValueError: If an option is out of range or does not fit the clips.
        """
        options = BatchOptions(**options)
        if options.group_by not in (None, "id"):
            self.info.label_column(options.group_by)
        return self._batches(split, options)

    @abc.abstractmethod
    def _batches(self, split, options):
        """Return the batches; see `batches`."""

    @abc.abstractmethod
    def records(self, split: str, shards: Collection[str] | None = None) -> Iterator[dict]:
        """Iterate over the clips of a split, whole, in the order in which they are stored.

        Args:
            split: Split to read.
            shards: Names of the shards to read. Defaults to None: all.

        Yields:
            Dicts of `id` (text), `audio` (float32 array of shape (samples,) at the sample rate of
            the dataset, full scale being 1) and `labels` (dict from label to the name of a
            category, None where it is missing, or to a number, NaN where it is missing).

        Raises:
            UserError: If there is no such split, or a shard is damaged.
        """

    @abc.abstractmethod
    def label_vectors(self, split: str) -> np.ndarray:
        """Return the labels of a split, float32 array (clips, label columns); see `DatasetInfo`."""

    @abc.abstractmethod
    def count(self, split: str, clip_samples: int | None = None) -> int:
        """Return how many clips of a split have at least `clip_samples` samples (default: any)."""

    def resident(
        self, split: str = "train", clip_samples: int | None = None, group_by: str = "id"
    ) -> "ResidentClips":
        """Load the clips of a split into the memory of the device.

        Args:
            split: Defaults to "train".
            clip_samples: Samples of a crop. Clips of shards that are shorter are left out, with a
                warning that names them. Defaults to None: as many as the shortest clip has.
            group_by: As in `BatchOptions`. Defaults to "id".

        Returns:
            `ResidentClips`.

        Raises:
            UserError: If there is no such split or label, the data is damaged, no clip is long
                enough, or the clips take more memory than the device has.
        """
        from keras_tune.data.resident_clips import ResidentClips

        clips, ids, groups = self._whole_clips(split, clip_samples, group_by)
        clip_samples = clip_samples or min(map(len, clips))
        name = f"{self.path}, {split}"
        return ResidentClips(_handing_over(clips), clip_samples, ids, name, groups)

    @abc.abstractmethod
    def _whole_clips(self, split, clip_samples, group_by):
        """Return three lists: clips that are long enough, their ids and their groups."""


def open_dataset(
    path: AnyPath, exclude: Collection[str] = (), on_corrupt: str = "raise"
) -> AudioDataset:
    """Open a dataset for training and evaluation.

    Args:
        path: Folder that `prepare` has written, or `.npz` file of clips (see
            `keras_tune.data.array_dataset`), or the URL of one in an object store.
        exclude: Names of shards that are not read. Defaults to none.
        on_corrupt: "raise" raises an error for a shard that is missing or of the wrong size; other
            damage causes an error when the shard is read (see `naming_damaged_shards`). "skip"
            reads all shards once and excludes the damaged ones, with a warning for each. Defaults
            to "raise".

    Returns:
        `AudioDataset`.

    Raises:
        UserError: If there is no such dataset, it is not complete, or TensorFlow is needed and not
            installed.
        ValueError: If `on_corrupt` has another value.

    Example:

    ```python
    from keras_tune.data import open_dataset, write_demo

    write_demo("demo", num_clips={"train": 8, "test": 8}, seconds=3.0)
    dataset = open_dataset("demo")
    stream = dataset.batches("train", clip_samples=59049, crops=2, batch_size=8, seed=1)
    next(stream.as_numpy_iterator())["audio"].shape  # (8, 2, 59049)
    ```
    """
    if on_corrupt not in ("raise", "skip"):
        raise ValueError(
            f"`on_corrupt` must be 'raise' or 'skip'. Received: on_corrupt={on_corrupt}"
        )
    if to_path(path).suffix == ".npz":
        from keras_tune.data.array_dataset import ArrayDataset

        return ArrayDataset(path)
    from keras_tune.data.shard_dataset import ShardDataset

    return ShardDataset(path, exclude, on_corrupt)


def is_dataset(path: AnyPath) -> bool:
    """Whether a path looks like a dataset, by its suffix or its `dataset.json`.

    Args:
        path: Text, `pathlib.Path` or `keras_tune.storage.ObjectPath`.

    Returns:
        Bool.
    """
    path = to_path(path)
    return path.suffix == ".npz" or (path / FILE_NAME).is_file()


def read_clips(
    path: AnyPath,
    split: str = "train",
    exclude: Collection[str] = (),
    on_corrupt: str = "raise",
    **options: Any,
) -> Any:
    """Short for `open_dataset(path, exclude, on_corrupt).batches(split, **options)`.

    Example:

    ```python
    from keras_tune.data import read_clips, save_demo

    save_demo("demo.npz", num_clips={"train": 4}, seconds=0.1)
    read_clips("demo.npz", "train", clip_samples=2187, batch_size=2, seed=1)
    ```
    """
    return open_dataset(path, exclude, on_corrupt).batches(split, **options)


def read_records(path: AnyPath, split: str, exclude: Collection[str] = ()) -> Iterator[dict]:
    """Short for `open_dataset(path, exclude).records(split)`.

    Example:

    ```python
    from keras_tune.data import read_records, save_demo

    save_demo("demo.npz", num_clips={"train": 4}, seconds=0.1)
    next(read_records("demo.npz", "train"))["audio"].shape  # (2205,)
    ```
    """
    return open_dataset(path, exclude).records(split)


def _handing_over(clips):
    """Iterate over a list and empty it, so that the memory of its items can be freed."""
    clips.reverse()
    while clips:
        yield clips.pop()
