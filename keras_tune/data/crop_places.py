"""Which clips the batches of a stream are made of, and where the crops begin."""

import functools
import math

import keras
import numpy as np


class CropPlaces(keras.utils.PyDataset):
    """Batches of pairs: the numbers of the clips, and the first samples of their crops.

    Batch i is a function of the seed and i alone: it belongs to the epoch that i falls into.

    Args:
        lengths: Integer array of shape (clips,), samples of each clip.
        clip_samples: Samples of a crop. Defaults to None: as many as the shortest clip has.
        crops: Crops of each clip. Defaults to 1.
        batch_size: Clips of a batch. Defaults to 32.
        shuffle: Whether order and crops are drawn at random. Defaults to True.
        repeat: Whether the stream goes on for ever. Defaults to False.
        seed: Integer, or None for another stream each time. Defaults to None.
        steps_per_epoch: Batches of an epoch. Defaults to None: one pass.
        epochs: Epoch before which the stream ends. Defaults to one epoch, `initial_epoch + 1`.
        initial_epoch: Epoch of batch 0. Defaults to 0.
        initial_step: Step of batch 0 within its epoch. Defaults to 0.
        part: Pair (k, n): of each batch only every n-th row, from the k-th on. Defaults to all.
        drop_remainder: Whether the last batch of a pass is dropped if it is not full, rather than
            smaller. Defaults to True.
        fill_remainder: Whether it is filled up from the beginning of another pass instead (see
            `weights`). Defaults to False.

    Raises:
        ValueError: If a clip is shorter than `clip_samples`, or there are fewer than a batch.

    Example:

    ```python
    stream = CropPlaces(np.array([70000, 90000]), 59049, crops=2, batch_size=2, seed=1)
    rows, starts = stream[0]  # of shapes (2,) and (2, 2)
    ```
    """

    def __init__(
        self,
        lengths,
        clip_samples=None,
        crops=1,
        batch_size=32,
        shuffle=True,
        repeat=False,
        seed=None,
        steps_per_epoch=None,
        epochs=None,
        initial_epoch=0,
        initial_step=0,
        part=(0, 1),
        drop_remainder=True,
        fill_remainder=False,
    ):
        super().__init__()
        samples = int(min(lengths))
        if clip_samples is not None and not 1 <= clip_samples <= samples:
            raise ValueError(
                f"`clip_samples` must lie between 1 and the clips' {samples} samples. "
                f"Received: clip_samples={clip_samples}"
            )
        if fill_remainder:
            drop_remainder = False
        if steps_per_epoch is None and len(lengths) < batch_size and drop_remainder:
            raise ValueError(
                f"`batch_size` must not exceed the {len(lengths)} clips, unless steps_per_epoch is "
                f"given. Received: batch_size={batch_size}"
            )
        self.lengths = lengths
        self.clip_samples = clip_samples or samples
        self.crops = crops
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = np.random.SeedSequence(seed).entropy
        # Of whole batches in all other cases.
        self.smaller_last = steps_per_epoch is None and not (drop_remainder or fill_remainder)
        self.fill_remainder = fill_remainder
        whole = math.floor if drop_remainder else math.ceil
        self.steps_per_epoch = steps_per_epoch or whole(len(lengths) / batch_size)
        last = epochs if epochs is not None else initial_epoch + 1
        steps = max(0, self.steps_per_epoch * (last - initial_epoch) - initial_step)
        self.steps = None if repeat else steps
        self.initial_epoch = initial_epoch
        self.initial_step = initial_step
        self.part = part
        # A generator may run ahead of another by an epoch, as `fit` and a look at batch 0 do.
        self._order = functools.lru_cache(maxsize=4)(self._drawn_order)

    @property
    def num_batches(self):
        """Batches in all, None for a stream without end."""
        return self.steps

    def __getitem__(self, index):
        """Return batch `index` of the stream."""
        return self.places(index)

    def rows(self, index):
        """Return the numbers of the clips that batch `index` is made of."""
        return self._rows(index)[self.part[0] :: self.part[1]]

    def places(self, index):
        """Return the clips of batch `index` and the first samples of their crops.

        Args:
            index: Integer.

        Returns:
            Integer arrays of shapes (batch_size,) and (batch_size, crops).
        """
        rows = self._rows(index)
        part = slice(self.part[0], None, self.part[1])
        return rows[part], self._starts(index, self.lengths[rows] - self.clip_samples)[part]

    def weights(self, index):
        """Return how much each clip of batch `index` counts where batches are filled up.

        Returns:
            Float32 array (batch_size,): 0 for clips that an epoch has had before, and for the
            others the same number, so that the mean over all batches of an epoch is 1.
        """
        turns, _ = self._turns_and_places(index)
        slots = self.steps_per_epoch * self.batch_size
        first = (turns == 0) * (slots / min(slots, len(self.lengths)))
        return first.astype("float32")[self.part[0] :: self.part[1]]

    def _turns_and_places(self, index):
        """For the clips of a batch the number of the pass, and the place in it."""
        _, step = self._epoch_and_step(index)
        end = (step + 1) * self.batch_size
        if self.smaller_last:
            end = min(end, len(self.lengths))
        return np.divmod(np.arange(step * self.batch_size, end), len(self.lengths))

    def _rows(self, index):
        """The clips of a batch, those of other processes included."""
        epoch, _ = self._epoch_and_step(index)
        turns, places = self._turns_and_places(index)
        return np.array(
            [self._order(epoch, turn)[place] for turn, place in zip(turns, places, strict=True)]
        )

    def _epoch_and_step(self, index):
        epochs, step = divmod(index + self.initial_step, self.steps_per_epoch)
        return self.initial_epoch + epochs, step

    def _drawn_order(self, epoch, turn):
        if not self.shuffle:
            return np.arange(len(self.lengths))
        generator = np.random.default_rng([self.seed, epoch, turn, 0])
        return generator.permutation(len(self.lengths))

    def _starts(self, index, rooms):
        """First samples of the crops, (batch_size, crops), each between 0 and its clip's room."""
        rooms = rooms[:, None]
        if self.shuffle:
            generator = np.random.default_rng([self.seed, *self._epoch_and_step(index), 1])
            return generator.integers(0, rooms, (len(rooms), self.crops), endpoint=True)
        places = (np.arange(self.crops) + 0.5) / self.crops
        return (places * rooms).astype(int)
