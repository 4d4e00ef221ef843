"""The options of a stream of batches, and the number of batches that follows from them.

Streams from TFRecords, from arrays and from clips on the device share these options and rules.
"""

import dataclasses
import math

import numpy as np


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
    from keras_tune.data.batch_options import BatchOptions

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

        Args:
            counts: Number of clips of each process.
            steps: Batches of an epoch.

        Returns:
            Float such that the mean over an epoch is 1 where all other clips have the weight 0.
        """
        slots = steps * (self.batch_size or 1)
        return slots * len(counts) / sum(min(slots, count) for count in counts)
