"""Clips in the memory of the device, where crops are cut.

A training step then gets only a few integers from the host, and no audio.
"""

from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_tune.data.crop_stream import CropStream
from keras_tune.data.dataset import BatchOptions
from keras_tune.errors import UserError

# Samples of a block. A large set has too many samples for a 32-bit index, which JAX uses, so
# positions are given as a block and an offset.
BLOCK = 1024


class ResidentClips:
    """Clips in one array in the device's memory, int16 if they are int16.

    The array is not part of a model: it is not saved, trained or cast.

    Args:
        clips: Iterable of arrays (samples,), all int16 or all float32 of full scale 1. Their
            lengths may differ.
        clip_samples: Samples of a crop.
        ids: Names of the clips. Defaults to their numbers.
        name: Name of the clips in errors. Defaults to "the clips".
        groups: Integers of up to 32 bits, the group of each clip; see
            `keras_tune.training.ContrastiveModel`. Defaults to a group for each clip.

    Attributes:
        ids: List of texts.
        lengths: Integer array of shape (clips,).
        samples: Tensor on the device, of shape (blocks, 1024).

    Raises:
        UserError: The clips take more memory than the device has, if the backend reports it.

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
        # A crop is cut from whole blocks, the last of which may begin after the last sample.
        blocks = np.zeros((self.lengths.sum() // BLOCK + 2, BLOCK), clips[0].dtype)
        flat = blocks.reshape(-1)
        for number, first in enumerate(self._first):
            flat[first : first + self.lengths[number]] = clips[number]
            # Frees the clip: the memory may be too small for two copies of the set.
            clips[number] = None
        self.samples = _on_device(blocks, name)

    def stream(self, **options: Any) -> CropStream:
        """Return batches for training, as arguments of `crops`.

        Args:
            **options: Fields of `keras_tune.data.BatchOptions`, all but `clip_samples`, `group_by`
                and `labels`: crops and groups are those that the clips were loaded with.

        Returns:
            `keras.utils.PyDataset` of dicts.

        Raises:
            ValueError: Clips are shorter than a crop, or too few for a batch, or it is an option
                that clips on the device do not have.
        """
        options = BatchOptions(clip_samples=self.clip_samples, **options)
        if options.group_by is not None or options.labels:
            raise ValueError(
                "clips have the groups that they were loaded with, and no labels. "
                f"Received: group_by={options.group_by}, labels={options.labels}"
            )
        columns = {"id": np.array(self.ids)} if options.ids else {}
        return CropStream(self.lengths, self.batch, options, columns)

    def batch(self, rows: np.ndarray, starts: np.ndarray) -> dict:
        """Describe crops by their blocks and offsets.

        Args:
            rows: Integer array (batch,), numbers of clips.
            starts: Integer array (batch, crops), the crops' first samples in their clips.

        Returns:
            Dict, the batch of a training step: `block` and `offset`, int32 of shape (batch,
            crops), `group`, int32 of shape (batch,), and on JAX `samples`.
        """
        block, offset = np.divmod(self._first[rows][:, None] + starts, BLOCK)
        batch = {"block": block.astype("int32"), "offset": offset.astype("int32")}
        batch["group"] = self.groups[rows]
        if keras.backend.backend() == "jax":
            # Otherwise the array would become a constant of the compiled program.
            batch["samples"] = self.samples
        return batch

    def crops(self, batch: dict) -> Any:
        """Cut crops on the device.

        Args:
            batch: A batch from `batch` or from a stream.

        Returns:
            Float32 tensor (batch, crops, clip_samples) in [-1, 1), or (batch, clip_samples) for one
            crop of each clip.
        """
        crops = batch["block"].shape[1]
        count = (self.clip_samples + BLOCK - 2) // BLOCK + 1
        blocks = ops.reshape(batch["block"], (-1, 1)) + ops.arange(count, dtype="int32")
        samples = _take(batch.get("samples", self.samples), blocks)
        samples = ops.reshape(samples, (-1, count * BLOCK))
        # Converted before `take_along_axis`, because TensorFlow gathers int16 on the host.
        if keras.backend.standardize_dtype(samples.dtype) == "int16":
            samples = ops.cast(samples, "float32") / 32768.0
        indices = ops.reshape(batch["offset"], (-1, 1)) + ops.arange(
            self.clip_samples, dtype="int32"
        )
        clips = ops.take_along_axis(samples, indices, axis=1)
        shape = (self.clip_samples,) if crops == 1 else (crops, self.clip_samples)
        return ops.reshape(clips, (-1, *shape))


def _on_device(blocks: np.ndarray, name: str) -> Any:
    free = _free_bytes()
    if free is not None and blocks.nbytes > free:
        raise UserError(
            f"{name}: needs {blocks.nbytes / 1e9:.1f} GB of the device's memory, of which "
            f"{free / 1e9:.1f} GB are free; use resident=False"
        )
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        # On a GPU, TensorFlow gathers from int16 variables, but not from int16 tensors.
        return tf.Variable(blocks, trainable=False)
    return ops.convert_to_tensor(blocks)


def _free_bytes() -> int | None:
    """Free memory of the device, or None if the backend does not report it."""
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        stats = jax.local_devices()[0].memory_stats() or {}
        return stats["bytes_limit"] - stats["bytes_in_use"] if "bytes_limit" in stats else None
    if backend == "torch":
        import torch

        return torch.cuda.mem_get_info()[0] if torch.cuda.is_available() else None
    return None


def _take(samples: Any, blocks: Any) -> Any:
    """Gather rows of `samples`."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.gather(samples, blocks)
    return ops.take(samples, blocks, axis=0)
