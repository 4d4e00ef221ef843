"""Batches of crops whose order and positions depend only on a seed and the batch number."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from keras_tune.data.batch_options import BatchOptions


class CropStream(keras.utils.PyDataset):
    """Batches of crops; subclasses define `cut`.

    Batch i depends only on the seed and i, which determines its epoch.

    Args:
        lengths: Integer array of shape (clips,), samples of each clip.
        options: `BatchOptions`. Without `clip_samples`, crops have as many samples as the shortest
            clip.
        columns: Dict from a key of the batches to an array (clips, ...) whose rows go with the
            clips. Defaults to none.

    Raises:
        ValueError: If a clip is shorter than `clip_samples`, or there are too few for a batch.
    """

    def __init__(
        self,
        lengths: np.ndarray,
        options: BatchOptions,
        columns: dict[str, np.ndarray] | None = None,
    ):
        super().__init__()
        if options.batch_size is None:
            raise ValueError(
                "`batch_size` must be an integer for arrays. Received: batch_size=None"
            )
        samples = int(min(lengths))
        if options.clip_samples is not None and options.clip_samples > samples:
            raise ValueError(
                f"`clip_samples` must lie between 1 and the clips' {samples} samples. "
                f"Received: clip_samples={options.clip_samples}"
            )
        short = len(lengths) < options.batch_size and options.drops_remainder
        if options.steps_per_epoch is None and short:
            raise ValueError(
                f"`batch_size` must not exceed the {len(lengths)} clips, unless `steps_per_epoch` "
                f"is given. Received: batch_size={options.batch_size}"
            )
        self.lengths = lengths
        self.options = options
        self.columns = columns or {}
        self.clip_samples = options.clip_samples or samples
        self.seed = np.random.SeedSequence(options.seed).entropy
        # In all other cases, all batches are full.
        self.smaller_last = options.steps_per_epoch is None and not (
            options.drop_remainder or options.fill_remainder
        )
        self.steps_per_epoch = options.steps(len(lengths))
        # Several epochs, because batch 0 may be read again while `fit` is in a later epoch.
        self._order = functools.lru_cache(maxsize=4)(self._draw_order)

    @property
    def num_batches(self) -> int | None:
        """The number of batches, None for an endless stream."""
        return self.options.num_batches(self.steps_per_epoch)

    def __len__(self):
        if self.num_batches is None:
            raise TypeError("an endless stream has no length")
        return self.num_batches

    def __bool__(self):
        return True

    def __iter__(self):
        index = 0
        while self.num_batches is None or index < self.num_batches:
            yield self[index]
            index += 1

    def as_numpy_iterator(self) -> Iterator[dict[str, np.ndarray]]:
        """Iterate over the batches, like `tf.data.Dataset.as_numpy_iterator`."""
        return iter(self)

    def __getitem__(self, index):
        """Return batch `index` of the stream, a dict."""
        rows, starts = self.positions(index)
        batch = self.cut(rows, starts)
        batch.update((key, values[rows]) for key, values in self.columns.items())
        if self.options.fill_remainder:
            batch["weight"] = self.weights(index)
        return batch

    def cut(self, rows: np.ndarray, starts: np.ndarray) -> dict[str, np.ndarray]:
        """Return the crops of a batch.

        Args:
            rows: Integer array (batch,), numbers of clips.
            starts: Integer array (batch, crops), the crops' first samples in their clips.

        Returns:
            Dict.
        """
        raise NotImplementedError

    def positions(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the clips of batch `index` and the first samples of their crops.

        Args:
            index: Integer.

        Returns:
            Integer arrays of shapes (batch_size,) and (batch_size, crops).
        """
        epoch, _ = self._epoch_and_step(index)
        pairs = zip(*self._passes_and_indices(index), strict=True)
        # Including those of other processes.
        rows = np.array([self._order(epoch, number)[i] for number, i in pairs])
        part = self._part
        return rows[part], self._starts(index, self.lengths[rows] - self.clip_samples)[part]

    def weights(self, index: int) -> np.ndarray:
        """Return the weights of the clips of batch `index`, with `fill_remainder`.

        Returns:
            Float32 array (batch_size,): 0 for clips that the epoch already contains, and the same
            number for all others, so that the mean over all batches of an epoch is 1.
        """
        passes, _ = self._passes_and_indices(index)
        weight = self.options.weight([len(self.lengths)], self.steps_per_epoch)
        return ((passes == 0) * weight).astype("float32")[self._part]

    @property
    def _part(self):
        return slice(self.options.part[0], None, self.options.part[1])

    def _passes_and_indices(self, index):
        """Return the number of the pass and the index within it for each clip of a batch."""
        _, step = self._epoch_and_step(index)
        end = (step + 1) * self.options.batch_size
        if self.smaller_last:
            end = min(end, len(self.lengths))
        return np.divmod(np.arange(step * self.options.batch_size, end), len(self.lengths))

    def _epoch_and_step(self, index):
        epochs, step = divmod(index + self.options.initial_step, self.steps_per_epoch)
        return self.options.initial_epoch + epochs, step

    def _draw_order(self, epoch, number):
        if not self.options.shuffle:
            return np.arange(len(self.lengths))
        generator = np.random.default_rng([self.seed, epoch, number, 0])
        return generator.permutation(len(self.lengths))

    def _starts(self, index, latest):
        """Return the first samples of the crops, (batch_size, crops), from 0 to `latest`."""
        latest = latest[:, None]
        if self.options.shuffle:
            generator = np.random.default_rng([self.seed, *self._epoch_and_step(index), 1])
            shape = (len(latest), self.options.crops)
            return generator.integers(0, latest, shape, endpoint=True)
        return (self.options.crop_fractions * latest).astype(int)


class ArrayStream(CropStream):
    """Batches of crops from an array of clips.

    Args:
        audio: Array of shape (clips, samples).
        options: `BatchOptions`.
        columns: As for `CropStream`. Defaults to None.
    """

    def __init__(
        self,
        audio: np.ndarray,
        options: BatchOptions,
        columns: dict[str, np.ndarray] | None = None,
    ):
        super().__init__(np.full(len(audio), audio.shape[1]), options, columns)
        self.audio = audio

    def cut(self, rows: np.ndarray, starts: np.ndarray) -> dict[str, np.ndarray]:
        samples = starts[:, :, None] + np.arange(self.clip_samples)
        crops = self.audio[rows[:, None, None], samples]
        return {"audio": crops[:, 0] if self.options.crops == 1 else crops}


def array_clips(
    audio: np.ndarray,
    clip_samples: int | None = None,
    labels: np.ndarray | None = None,
    groups: np.ndarray | None = None,
    **options: Any,
) -> ArrayStream:
    """Return batches of crops from an array, like `AudioDataset.batches` for a dataset.

    Train with `repeat=True` and `fit(steps_per_epoch=...)`: `fit` shuffles the batches of a finite
    stream again, across epochs, unless it gets `shuffle=False`.

    Args:
        audio: int16 or float array of shape (clips, samples).
        clip_samples: Samples of a crop. Defaults to None: whole clips.
        labels: Array of shape (clips, ...) for the key `labels`. Defaults to None: no labels.
        groups: Integer array of shape (clips,), at most 32 bits, for the key `group`. See
            `keras_tune.training.ContrastiveModel`. Defaults to None: no groups.
        **options: Fields of `keras_tune.data.BatchOptions`, such as `crops`, `batch_size` and
            `seed`.

    Returns:
        `keras.utils.PyDataset` of dicts as `AudioDataset.batches` describes them, with audio of the
        type of `audio`.

    Raises:
        ValueError: If the clips are shorter than `clip_samples`, or too few for a batch.

    Example:

    ```python
    import numpy as np
    from keras_tune.data import array_clips

    audio = np.random.default_rng(0).normal(0, 0.1, (8, 44100)).astype("float32")
    stream = array_clips(audio, clip_samples=22050, crops=2, batch_size=4, seed=1)
    stream[0]["audio"].shape  # (4, 2, 22050)
    ```
    """
    columns = {}
    if groups is not None:
        columns["group"] = np.asarray(groups, "int32")
    if labels is not None:
        columns["labels"] = np.asarray(labels)
    options = BatchOptions(clip_samples=clip_samples, **options)
    if options.group_by is not None or options.ids:
        raise ValueError(
            "`group_by` and `ids` need a dataset; an array takes `groups`. "
            f"Received: group_by={options.group_by}, ids={options.ids}"
        )
    return ArrayStream(np.asarray(audio), options, columns)
