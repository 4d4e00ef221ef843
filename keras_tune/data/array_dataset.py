"""The stream of batches behind `keras_tune.data.array_clips`."""

import numpy as np

from keras_tune.data.crop_places import CropPlaces


class ArrayDataset(CropPlaces):
    """Batches of crops from an array of clips; `array_clips` explains the arguments.

    Args:
        audio: Array of shape (clips, samples).
        labels: Array of shape (clips, ...), or None.
        groups: Integer array of shape (clips,), or None.
        **options: Arguments of `CropPlaces`, all but the lengths.

    Example:

    ```python
    stream = ArrayDataset(audio, None, None, clip_samples=59049, crops=2, batch_size=48, seed=1)
    stream[0].shape  # (48, 2, 59049)
    ```
    """

    def __init__(self, audio, labels, groups, **options):
        super().__init__(np.full(len(audio), audio.shape[1]), **options)
        self.audio = audio
        self.labels = labels
        self.groups = None if groups is None else np.asarray(groups, "int32")

    def __getitem__(self, index):
        """Return batch `index` of the stream."""
        rows, starts = self.places(index)
        samples = starts[:, :, None] + np.arange(self.clip_samples)
        clips = self.audio[rows[:, None, None], samples]
        clips = clips[:, 0] if self.crops == 1 else clips
        if self.groups is not None or self.fill_remainder:
            clips = {"audio": clips}
        if self.groups is not None:
            clips["group"] = self.groups[rows]
        if self.fill_remainder:
            clips["weight"] = self.weights(index)
        return clips if self.labels is None else (clips, self.labels[rows])
