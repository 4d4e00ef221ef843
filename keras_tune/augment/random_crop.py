from typing import Any

import keras
from keras import ops

from keras_tune.augment.augmentation import Augmentation, derive_seed
from keras_tune.types import Shape, Tensor, TensorLike


@keras.saving.register_keras_serializable(package="keras_tune")
class RandomCrop(Augmentation):
    """Cut a window of fixed length out of each clip, at a random offset for each.

    Integer PCM (int16) is cut before it is converted to float32 in [-1, 1), so that only the crop
    is converted.

    With `training=False` the offsets come from a fixed seed (derived from `seed`, or from 0 if that
    is None), so that an evaluation is repeatable. They still differ between the examples.

    Args:
        samples: Integer, the length of the crop in samples.
        seed: Integer, the seed of the offsets, or None for a random one. Defaults to None.
        **kwargs: Arguments of `keras.layers.Layer`.

    Input shape: (batch, T) with T of at least `samples`, float or int16.
    Output shape: (batch, samples), float32.

    Raises:
        ValueError: If `samples` is not a positive integer, or clips are shorter than the crop.

    Source: Spijkervet and Burgoyne, Contrastive Learning of Musical Representations (ISMIR 2021).

    Example:

    ```python
    crop = keras_tune.augment.RandomCrop(59049, seed=1)
    clips = np.random.normal(0, 0.1, (4, 66150))
    first, second = crop(clips, training=True), crop(clips, training=True)
    ```
    """

    def __init__(self, samples: int, seed: int | None = None, **kwargs: Any):
        super().__init__(seed=seed, **kwargs)
        if int(samples) != samples or samples < 1:
            raise ValueError(f"`samples` must be a positive integer. Received: samples={samples}")
        self.samples = int(samples)

    def draw_parameters(self, batch: int, samples: int) -> dict[str, Any]:
        return {"offset": self._offsets(batch, samples, self.seed_generator)}

    def _offsets(self, batch, samples, seed):
        fraction = keras.random.uniform((batch,), dtype="float32", seed=seed)
        choices = samples - self.samples + 1
        # The product can round up to `choices` itself.
        offsets = ops.cast(fraction * ops.cast(choices, "float32"), "int32")
        return ops.minimum(offsets, choices - 1)

    def apply(self, waveforms: TensorLike, parameters: dict[str, Any]) -> Tensor:
        """Cut `samples` samples out of each waveform, starting at its `offset` (batch,)."""
        positions = parameters["offset"][:, None] + ops.arange(self.samples, dtype="int32")[None]
        return self._to_float(ops.take_along_axis(waveforms, positions, axis=1))

    def _to_float(self, waveforms):
        if keras.backend.standardize_dtype(waveforms.dtype) == "int16":
            return ops.cast(waveforms, "float32") / 32768.0
        return ops.cast(waveforms, "float32")

    def call(self, waveforms: Tensor, training: bool = False) -> Tensor:
        available = waveforms.shape[1]
        if available == self.samples:
            return self._to_float(waveforms)
        if available is not None and available < self.samples:
            raise ValueError(
                f"The clips must have at least {self.samples} samples. "
                f"Received: shape={tuple(waveforms.shape)}"
            )
        batch, available = ops.shape(waveforms)
        seed = self.seed_generator if training else derive_seed(self.seed or 0, 1)
        return self.apply(waveforms, {"offset": self._offsets(batch, available, seed)})

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (input_shape[0], self.samples)

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        del config["probability"]
        return config
