"""Batches of crops whose order and positions depend only on a seed and the batch number."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np

from keras_tune.data.dataset import BatchOptions


class CropStream(keras.utils.PyDataset):
    """Batches of crops. Batch i depends only on the seed and i, which determines its epoch.

    Args:
        lengths: Integer array of shape (clips,), samples of each clip.
        cut: Function that makes the dict of a batch from the numbers of its clips, (batch,), and
            the crops' first samples in their clips, (batch, crops).
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
        cut: Callable[[np.ndarray, np.ndarray], dict],
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
        self.steps_per_epoch = options.steps(len(lengths))
        if not self.steps_per_epoch:
            raise ValueError(
                f"`batch_size` must not exceed the {len(lengths)} clips, unless `steps_per_epoch` "
                f"is given. Received: batch_size={options.batch_size}"
            )
        self.lengths = lengths
        self.cut = cut
        self.options = options
        self.batch_size = options.batch_size
        self.columns = columns or {}
        self.clip_samples = options.clip_samples or samples
        self.seed: Any = np.random.SeedSequence(options.seed).entropy
        self.weight = options.weight([len(lengths)], self.steps_per_epoch)
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
        rows, starts, passes = self.positions(index)
        batch = self.cut(rows, starts)
        batch.update((key, values[rows]) for key, values in self.columns.items())
        if self.options.fill_remainder:
            # Clips that the epoch already contains do not count.
            batch["weight"] = ((passes == 0) * self.weight).astype("float32")
        return batch

    def positions(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the clips of batch `index`, the first samples of their crops and their passes.

        They are integer arrays of shapes (batch_size,), (batch_size, crops) and (batch_size,).
        """
        options, clips = self.options, len(self.lengths)
        epochs, step = divmod(index + options.initial_step, self.steps_per_epoch)
        epoch = options.initial_epoch + epochs
        end = (step + 1) * self.batch_size
        if options.smaller_last:
            end = min(end, clips)
        passes, places = np.divmod(np.arange(step * self.batch_size, end), clips)
        # Including those of other processes.
        pairs = zip(passes, places, strict=True)
        rows = np.array([self._order(epoch, number)[place] for number, place in pairs])
        latest = (self.lengths[rows] - self.clip_samples)[:, None]
        if options.shuffle:
            generator = np.random.default_rng([self.seed, epoch, step, 1])
            starts = generator.integers(0, latest, (len(rows), options.crops), endpoint=True)
        else:
            starts = (options.crop_fractions * latest).astype(int)
        number, of = options.part
        return rows[number::of], starts[number::of], passes[number::of]

    def _draw_order(self, epoch, number):
        if not self.options.shuffle:
            return np.arange(len(self.lengths))
        generator = np.random.default_rng([self.seed, epoch, number, 0])
        return generator.permutation(len(self.lengths))


def array_stream(
    audio: np.ndarray, options: BatchOptions, columns: dict[str, np.ndarray]
) -> CropStream:
    """Return batches of crops from an array of clips (clips, samples); see `CropStream`."""
    clip_samples = options.clip_samples or audio.shape[1]

    def cut(rows, starts):
        samples = starts[:, :, None] + np.arange(clip_samples)
        crops = audio[rows[:, None, None], samples]
        return {"audio": crops[:, 0] if options.crops == 1 else crops}

    return CropStream(np.full(len(audio), audio.shape[1]), cut, options, columns)


def array_clips(
    audio: np.ndarray,
    clip_samples: int | None = None,
    labels: np.ndarray | None = None,
    groups: np.ndarray | None = None,
    **options: Any,
) -> CropStream:
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
    return array_stream(np.asarray(audio), options, columns)
