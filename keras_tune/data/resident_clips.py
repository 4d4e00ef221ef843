"""Clips that lie in the memory of the device, where their crops are cut.

A training step then gets a few integers from the host, and no audio.
"""

from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_tune.data.batch_options import BatchOptions
from keras_tune.data.crop_stream import CropStream
from keras_tune.errors import UserError

# Samples of a block. Blocks keep every index small: the samples of a large set are more than 32
# bits can count, and JAX counts with 32 bits.
BLOCK = 1024


class ResidentClips:
    """Clips end to end in the device's memory, as int16 where they are int16.

    The array belongs to no model: nothing saves, trains or casts it.

    Args:
        clips: Iterable of arrays (samples,), all int16 or all float32 of full scale 1. Their
            lengths may differ.
        clip_samples: Samples of a crop.
        ids: Names of the clips. Defaults to their numbers.
        name: What errors call the clips. Defaults to "the clips".
        groups: Integers of up to 32 bits, the group of each clip; see
            `keras_tune.training.ContrastiveModel`. Defaults to a group for each clip.

    Attributes:
        ids: List of texts.
        lengths: Integer array of shape (clips,).
        samples: What lies on the device, of shape (blocks, 1024).

    Raises:
        UserError: The clips take more memory than the device has, where the backend tells.

    Example:

    ```python
    import numpy as np
    from keras_tune.data import ResidentClips

    audio = np.random.default_rng(0).integers(-3000, 3000, (8, 4000)).astype("int16")
    clips = ResidentClips(audio, clip_samples=1024)
    stream = clips.stream(crops=2, batch_size=4, seed=1, epochs=10)
    clips.crops(stream[0]).shape  # (4, 2, 1024)
    # model.read_from(clips)
    # model.fit(stream, epochs=10, steps_per_epoch=stream.steps_per_epoch, shuffle=False)
    ```
    """

    def __init__(
        self,
        clips: Iterable[np.ndarray],
        clip_samples: int,
        ids: list | None = None,
        name: str = "the clips",
        groups: Iterable[int] | None = None,
    ):
        clips = list(clips)
        self.lengths = np.array([len(clip) for clip in clips])
        self.clip_samples = clip_samples
        self.ids = list(range(len(clips)) if ids is None else ids)
        groups = range(len(clips)) if groups is None else groups
        self.groups = np.asarray(groups, "int32")
        self._first = np.cumsum(self.lengths) - self.lengths
        # A crop takes whole blocks, the last of which may begin behind the last sample.
        blocks = np.zeros((self.lengths.sum() // BLOCK + 2, BLOCK), clips[0].dtype)
        flat = blocks.reshape(-1)
        for number, first in enumerate(self._first):
            flat[first : first + self.lengths[number]] = clips[number]
            # The set does not fit twice into every memory that it fits into once.
            clips[number] = None
        self.samples = _on_device(blocks, name)

    def stream(self, **options: Any) -> CropStream:
        """Return the batches of a training as what `crops` takes.

        Args:
            **options: Fields of `keras_tune.data.BatchOptions`, all but `clip_samples`, `group_by`
                and `labels`: crops and groups are those that the clips were loaded with.

        Returns:
            `keras.utils.PyDataset` of dicts.

        Raises:
            ValueError: Clips are shorter than a crop, or fewer than a batch.
        """
        options = BatchOptions(clip_samples=self.clip_samples, **options)
        return _ResidentStream(self, options)

    def batch(self, rows: np.ndarray, starts: np.ndarray) -> dict:
        """Say in the terms of the device which crops to cut.

        Args:
            rows: Integer array (batch,), numbers of clips.
            starts: Integer array (batch, crops), the crops' first samples in their clips.

        Returns:
            Dict of what a training step is given: `block` and `offset`, int32 of shape (batch,
            crops), `group`, int32 of shape (batch,), and on JAX `samples`.
        """
        block, offset = np.divmod(self._first[rows][:, None] + starts, BLOCK)
        batch = {"block": block.astype("int32"), "offset": offset.astype("int32")}
        batch["group"] = self.groups[rows]
        if keras.backend.backend() == "jax":
            # What a compiled function does not get as an argument becomes a part of the program.
            batch["samples"] = self.samples
        return batch

    def crops(self, batch: dict) -> Any:
        """Cut crops on the device.

        Args:
            batch: What `batch` gives, or a stream.

        Returns:
            Float32 tensor (batch, crops, clip_samples) in [-1, 1), or (batch, clip_samples) for one
            crop of each clip.
        """
        crops = batch["block"].shape[1]
        count = (self.clip_samples + BLOCK - 2) // BLOCK + 1
        blocks = ops.reshape(batch["block"], (-1, 1)) + ops.arange(count, dtype="int32")
        samples = _take(batch.get("samples", self.samples), blocks)
        samples = ops.reshape(samples, (-1, count * BLOCK))
        # Floats from here on: TensorFlow gathers int16 on the host.
        if keras.backend.standardize_dtype(samples.dtype) == "int16":
            samples = ops.cast(samples, "float32") / 32768.0
        indices = ops.reshape(batch["offset"], (-1, 1)) + ops.arange(
            self.clip_samples, dtype="int32"
        )
        clips = ops.take_along_axis(samples, indices, axis=1)
        shape = (self.clip_samples,) if crops == 1 else (crops, self.clip_samples)
        return ops.reshape(clips, (-1, *shape))


class _ResidentStream(CropStream):
    """Batches that say which crops to cut on the device."""

    def __init__(self, clips, options):
        columns = {"id": np.array(clips.ids)} if options.ids else {}
        super().__init__(clips.lengths, options, columns)
        self.clips = clips

    def cut(self, rows, starts):
        return self.clips.batch(rows, starts)


def _on_device(blocks, name):
    free = _free_bytes()
    if free is not None and blocks.nbytes > free:
        raise UserError(
            f"{name}: takes {blocks.nbytes / 1e9:.1f} GB, and the device has {free / 1e9:.1f} GB "
            "free; read batches of them instead"
        )
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        # Of int16, TensorFlow gathers variables on a GPU, but not tensors.
        return tf.Variable(blocks, trainable=False)
    return ops.convert_to_tensor(blocks)


def _free_bytes():
    """Free memory of the device, or None where the backend does not tell."""
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        stats = jax.local_devices()[0].memory_stats() or {}
        return stats["bytes_limit"] - stats["bytes_in_use"] if "bytes_limit" in stats else None
    if backend == "torch":
        import torch

        return torch.cuda.mem_get_info()[0] if torch.cuda.is_available() else None
    return None


def _take(samples, blocks):
    """Gather rows of `samples`."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.gather(samples, blocks)
    return ops.take(samples, blocks, axis=0)
