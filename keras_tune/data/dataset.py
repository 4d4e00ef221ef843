"""The one way to open data: prepared shards, `.npz` files, in folders and in object stores."""

import abc
import dataclasses
import math
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_tune.data.schema import FILE_NAME, DatasetInfo
from keras_tune.storage import AnyPath, FilePath, to_path

if TYPE_CHECKING:
    from keras_tune.data.resident_clips import ResidentClips


@dataclasses.dataclass(frozen=True)
class BatchOptions:
    """The options of `AudioDataset.batches`, of `array_clips` and of `ResidentClips.stream`.

    An epoch is one pass over the split, with each clip exactly once, or `steps_per_epoch` batches,
    which take as many passes as needed. With a `seed`, the order of the clips and the positions of
    the crops in epoch e depend only on the seed and e: they differ from epoch to epoch, and a
    stream that begins at `initial_epoch` k is the same as the whole stream from epoch k on.

    Args:
        clip_samples: Samples of a crop. Defaults to None: whole clips, which fit into batches only
            if they all have the same length.
        crops: Crops of each clip, drawn independently. Defaults to 1.
        batch_size: Clips of a batch, or None for single clips without a batch axis, which only
            shards support. Defaults to 32.
        shuffle: Whether the order and the crops are random. Otherwise clips come in the order in
            which they are stored, and crops are spread evenly over the clip (a single one is its
            middle). Defaults to True.
        repeat: Whether the stream never ends. Defaults to False.
        seed: Integer, the seed of the stream. Defaults to None: another stream each time.
        steps_per_epoch: Batches of an epoch. Defaults to None: one pass.
        epochs: Epoch before which the stream ends. Defaults to None: `initial_epoch + 1`.
        initial_epoch: Epoch at which the stream begins. Defaults to 0.
        initial_step: Number of batches of that epoch to skip. Defaults to 0.
        part: Pair (k, n): the stream is for the k-th of n processes that share each batch of
            `batch_size` clips. From arrays it gets every n-th clip of the batch; from shards
            `batch_size / n` clips, read from every n-th shard. Defaults to (0, 1), everything.
        drop_remainder: Whether the last batch of a pass is dropped if it is not full. Otherwise it
            is smaller. Defaults to True.
        fill_remainder: Whether the last batch of a pass is filled with clips from the beginning of
            another pass instead; weights tell which clips count. All processes read the same number
            of batches. Defaults to False.
        group_by: "id" to mark copies of the same clip as one group, or the name of a label, by
            whose value clips are grouped; clips without a value are groups of their own. Defaults
            to None: no groups.
        labels: Whether batches have the label vectors. Defaults to False.
        ids: Whether batches have the ids of the clips. Defaults to False.

    Raises:
        ValueError: If a value is out of its range.

    Example:

    ```python
    from keras_tune.data import BatchOptions

    BatchOptions(batch_size=4, epochs=3).num_batches(steps=10)  # 30
    ```
    """

    clip_samples: int | None = None
    crops: int = 1
    batch_size: int | None = 32
    shuffle: bool = True
    repeat: bool = False
    seed: int | None = None
    steps_per_epoch: int | None = None
    epochs: int | None = None
    initial_epoch: int = 0
    initial_step: int = 0
    part: tuple[int, int] = (0, 1)
    drop_remainder: bool = True
    fill_remainder: bool = False
    group_by: str | None = None
    labels: bool = False
    ids: bool = False

    def __post_init__(self):
        for name in ("clip_samples", "batch_size", "steps_per_epoch"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"`{name}` must be positive or None. Received: {name}={value}")
        if self.crops < 1:
            raise ValueError(f"`crops` must be positive. Received: crops={self.crops}")
        if self.initial_epoch < 0 or (self.epochs is not None and self.epochs < self.initial_epoch):
            raise ValueError(
                "`initial_epoch` must lie between 0 and `epochs`. "
                f"Received: initial_epoch={self.initial_epoch}, epochs={self.epochs}"
            )
        if self.initial_step < 0:
            raise ValueError(
                f"`initial_step` must not be negative. Received: initial_step={self.initial_step}"
            )
        number, of = self.part
        if not 0 <= number < of:
            raise ValueError(
                f"`part` must be a pair (k, n) with 0 <= k < n. Received: part={self.part}"
            )

    @property
    def drops_remainder(self) -> bool:
        """Whether a last batch that is not full is dropped."""
        return self.drop_remainder and not self.fill_remainder

    @property
    def smaller_last(self) -> bool:
        """Whether the last batch of an epoch may have fewer clips than the others."""
        return self.steps_per_epoch is None and not (self.drop_remainder or self.fill_remainder)

    @property
    def last_epoch(self) -> int:
        """The epoch before which a stream without `repeat` ends."""
        return self.initial_epoch + 1 if self.epochs is None else self.epochs

    @property
    def crop_fractions(self) -> np.ndarray:
        """Starts of evenly spread crops, float array (crops,), as fractions of the free samples."""
        return (np.arange(self.crops) + 0.5) / self.crops

    def steps(self, clips: int) -> int:
        """Return the number of batches in an epoch over `clips` clips, 0 if there is none."""
        if self.steps_per_epoch is not None:
            return self.steps_per_epoch
        whole = math.floor if self.drops_remainder else math.ceil
        return whole(clips / (self.batch_size or 1))

    def num_batches(self, steps: int) -> int | None:
        """Return the number of batches in a stream with `steps` per epoch, None if endless."""
        if self.repeat:
            return None
        return max(0, steps * (self.last_epoch - self.initial_epoch) - self.initial_step)

    def weight(self, counts: list[int], steps: int) -> float:
        """Return the weight of the clips that count, with `fill_remainder`.

        With it, the mean over an epoch of `steps` batches is 1, where all other clips have the
        weight 0. `counts` has the number of clips of each process.
        """
        slots = steps * (self.batch_size or 1)
        return slots * len(counts) / sum(min(slots, count) for count in counts)


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
    """Whether a path looks like a dataset, by its suffix or its `dataset.json`."""
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
