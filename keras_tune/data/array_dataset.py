"""The stream of batches behind `keras_tune.data.array_clips`."""

import functools

import keras
import numpy as np


class ArrayDataset(keras.utils.PyDataset):
    """Batches of crops from an array of clips; `array_clips` explains the arguments.

    Batch i is a function of the seed and i alone: it belongs to the epoch that i falls into.

    Args:
        audio: Array of shape (clips, samples).
        labels: Array of shape (clips, ...), or None.
        clip_samples: Samples of a crop.
        crops: Crops of each clip.
        batch_size: Clips of a batch.
        shuffle: Whether order and crops are drawn at random.
        seed: Integer.
        steps_per_epoch: Batches of an epoch.
        steps: Batches in all, None for a stream without end.
        initial_epoch: Epoch of batch 0.
        initial_step: Step of batch 0 within its epoch. Defaults to 0.
        part: Pair (k, n): of each batch only every n-th row, from the k-th on. Defaults to all.

    Example:

    ```python
    stream = ArrayDataset(audio, None, 59049, 2, 48, True, 1, 100, None, 0)
    stream[0].shape  # (48, 2, 59049)
    ```
    """

    def __init__(
        self,
        audio,
        labels,
        clip_samples,
        crops,
        batch_size,
        shuffle,
        seed,
        steps_per_epoch,
        steps,
        initial_epoch,
        initial_step=0,
        part=(0, 1),
    ):
        super().__init__()
        self.audio = audio
        self.labels = labels
        self.clip_samples = clip_samples
        self.crops = crops
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.steps_per_epoch = steps_per_epoch
        self.steps = steps
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
        rows = self.rows(index)
        starts = self._starts(*self._place(index))[self.part[0] :: self.part[1]]
        samples = starts[:, :, None] + np.arange(self.clip_samples)
        clips = self.audio[rows[:, None, None], samples]
        clips = clips[:, 0] if self.crops == 1 else clips
        return clips if self.labels is None else (clips, self.labels[rows])

    def rows(self, index):
        """Return the rows of the array that batch `index` is made of."""
        epoch, step = self._place(index)
        places = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        turns, places = np.divmod(places[self.part[0] :: self.part[1]], len(self.audio))
        return np.array(
            [self._order(epoch, turn)[place] for turn, place in zip(turns, places, strict=True)]
        )

    def _place(self, index):
        """The epoch and the step within it."""
        epochs, step = divmod(index + self.initial_step, self.steps_per_epoch)
        return self.initial_epoch + epochs, step

    def _drawn_order(self, epoch, turn):
        if not self.shuffle:
            return np.arange(len(self.audio))
        generator = np.random.default_rng([self.seed, epoch, turn, 0])
        return generator.permutation(len(self.audio))

    def _starts(self, epoch, step):
        """First samples of the crops, of shape (batch_size, crops)."""
        room = self.audio.shape[1] - self.clip_samples
        if self.shuffle:
            generator = np.random.default_rng([self.seed, epoch, step, 1])
            return generator.integers(0, room, (self.batch_size, self.crops), endpoint=True)
        places = (np.arange(self.crops) + 0.5) / self.crops
        return np.tile((places * room).astype(int), (self.batch_size, 1))
