from typing import Any

import keras
import numpy as np
from keras import ops

from keras_tune.augment.augmentation import check_range
from keras_tune.augment.spectral import LinearAugmentation, Pair, SpectralGrid
from keras_tune.types import Interval


@keras.saving.register_keras_serializable(package="keras_tune")
class Delay(LinearAugmentation):
    """Add one echo: y[n] = (x[n] + volume x[n - d]) / 2.

    The delay is drawn from the values min_delay_ms, min_delay_ms + step_ms, … up to max_delay_ms,
    and rounded down to whole samples.

    Args:
        sample_rate: Integer, the sample rate of the waveforms in Hz.
        min_delay_ms: Float, the shortest delay in milliseconds. Defaults to 200.
        max_delay_ms: Float, the longest delay in milliseconds, included. Defaults to 450.
        step_ms: Float, the distance between the delays in milliseconds. Defaults to 50.
        volume: Float, the factor of the echo. Defaults to 0.5.
        probability: Float, the probability that an example is changed; CLMR uses 0.3.
            Defaults to 1.
        seed: Integer, the seed of the draws, or None for a random one. Defaults to None.
        **kwargs: Arguments of `keras.layers.Layer`.

    Input shape: (batch, samples), waveforms, full scale is [-1, 1].
    Output shape: the same, float32.

    Raises:
        ValueError: If the delays are not ordered, are negative, or `step_ms` is not positive.

    Source: Spijkervet and Burgoyne, Contrastive Learning of Musical Representations (ISMIR 2021).

    Example:

    ```python
    layer = keras_tune.augment.Delay(22050, volume=0.7, seed=1)
    echoed = layer(np.random.normal(0, 0.1, (8, 22050)), training=True)
    ```
    """

    def __init__(
        self,
        sample_rate: int,
        min_delay_ms: float = 200.0,
        max_delay_ms: float = 450.0,
        step_ms: float = 50.0,
        volume: float = 0.5,
        probability: float = 1.0,
        seed: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(probability=probability, seed=seed, **kwargs)
        check_range(Interval(0), min_delay_ms=min_delay_ms, max_delay_ms=max_delay_ms)
        if step_ms <= 0.0:
            raise ValueError(f"`step_ms` must be positive. Received: step_ms={step_ms}")
        self.sample_rate = sample_rate
        self.min_delay_ms = min_delay_ms
        self.max_delay_ms = max_delay_ms
        self.step_ms = step_ms
        self.volume = volume
        count = int((max_delay_ms - min_delay_ms) / step_ms + 1e-6) + 1
        milliseconds = min_delay_ms + step_ms * np.arange(count)
        # Rounding errors must not turn 30 samples into 29.
        self.choices = np.floor(milliseconds * sample_rate / 1000.0 + 1e-6).astype("int32")

    def draw_parameters(self, batch: int, samples: int) -> dict[str, Any]:
        # The product can round up to the count itself.
        index = ops.cast(self.uniform((batch,)) * len(self.choices), "int32")
        index = ops.minimum(index, len(self.choices) - 1)
        return {"delay": ops.take(ops.convert_to_tensor(self.choices), index, axis=0)}

    def tail(self, samples: int) -> int:
        return min(samples, int(self.choices[-1]))

    def response(self, parameters: dict[str, Any], grid: SpectralGrid) -> Pair:
        ((real, imaginary),) = grid.delays(parameters["delay"][None])
        return 0.5 + 0.5 * self.volume * real, 0.5 * self.volume * imaginary
