import math
from typing import Any

import keras
from keras import ops

from keras_tune.augment.augmentation import Augmentation, check_range
from keras_tune.augment.phase_vocoder import PhaseVocoder, check_frame_length
from keras_tune.types import Interval, Tensor


@keras.saving.register_keras_serializable(package="keras_tune")
class TimeStretch(Augmentation):
    """Play each waveform faster or slower by its own factor, and keep its pitch.

    The number of samples stays the same: a waveform that becomes longer is cut off, and one that
    becomes shorter is followed by silence. The method is a phase vocoder.

    Args:
        min_rate: Float, the slowest rate; 0.8 makes a waveform 1.25 times as long. Defaults to 0.8.
        max_rate: Float, the fastest rate. Defaults to 1.25.
        frame_length: Integer, the length of the vocoder's frames in samples, a multiple of 6.
            Defaults to 1152, which is 52 ms at 22,050 Hz.
        probability: Float, the probability that an example is changed. Defaults to 1.
        seed: Integer, the seed of the draws, or None for a random one. Defaults to None.
        **kwargs: Arguments of `keras.layers.Layer`.

    Input shape: (batch, samples), waveforms, full scale is [-1, 1].
    Output shape: the same, float32.

    Raises:
        ValueError: If the rates are not ordered and positive, or `frame_length` is less than 18 or
            not a multiple of 6.

    Source: see `keras_tune.augment.phase_vocoder`.

    Example:

    ```python
    layer = keras_tune.augment.TimeStretch(0.9, 1.1, seed=1)
    stretched = layer(np.random.normal(0, 0.1, (8, 22050)), training=True)
    ```
    """

    costly = True

    def __init__(
        self,
        min_rate: float = 0.8,
        max_rate: float = 1.25,
        frame_length: int = 1152,
        probability: float = 1.0,
        seed: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(probability=probability, seed=seed, **kwargs)
        check_range(Interval(above=0), min_rate=min_rate, max_rate=max_rate)
        check_frame_length(frame_length)
        self.min_rate = min_rate
        self.max_rate = max_rate
        self.frame_length = frame_length

    def draw_parameters(self, batch: int, samples: int) -> dict[str, Any]:
        # Uniform in the logarithm: twice as fast is as likely as twice as slow.
        low, high = math.log(self.min_rate), math.log(self.max_rate)
        return {"rate": ops.exp(self.uniform((batch,), low, high))}

    def transform(self, waveforms: Tensor, parameters: dict[str, Any]) -> Tensor:
        samples = waveforms.shape[1]
        peak = ops.maximum(ops.max(ops.abs(waveforms), axis=1, keepdims=True), 1e-30)
        vocoder = PhaseVocoder(samples, self.frame_length, samples)
        return vocoder.stretch(waveforms / peak, 1.0 / parameters["rate"]) * peak
