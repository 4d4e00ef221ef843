import keras
import numpy as np
from keras import ops

from keras_tune.augment.linear_augmentation import LinearAugmentation


@keras.saving.register_keras_serializable(package="keras_tune")
class Delay(LinearAugmentation):
    """Add one echo: y[n] = (x[n] + volume x[n - d]) / 2.

    The delay is drawn from the values min_delay_ms, min_delay_ms + step_ms, … up to max_delay_ms,
    and cut to whole samples.

    Args:
        sample_rate: Sample rate of the waveforms in Hz.
        min_delay_ms: Shortest delay in milliseconds. Default 200.
        max_delay_ms: Longest delay in milliseconds, itself included. Default 450.
        step_ms: Distance between the delays in milliseconds. Default 50.
        volume: Factor of the echo. Default 0.5.
        probability: Probability that an example is changed. Default 1; CLMR uses 0.3.
        seed: Integer seed of the draws.
        **kwargs: Arguments of `keras.layers.Layer`.

    Source: Spijkervet and Burgoyne, Contrastive Learning of Musical Representations (ISMIR 2021).

    Example:

    ```python
    echoed = Delay(22050, volume=0.7, seed=1)(waveforms, training=True)
    ```
    """

    def __init__(
        self,
        sample_rate,
        min_delay_ms=200.0,
        max_delay_ms=450.0,
        step_ms=50.0,
        volume=0.5,
        probability=1.0,
        seed=None,
        **kwargs,
    ):
        super().__init__(probability=probability, seed=seed, **kwargs)
        if not 0.0 <= min_delay_ms <= max_delay_ms or step_ms <= 0.0:
            raise ValueError(
                "Delays must be ordered and not negative, and their step positive. Received: "
                f"min_delay_ms={min_delay_ms}, max_delay_ms={max_delay_ms}, step_ms={step_ms}"
            )
        self.sample_rate = sample_rate
        self.min_delay_ms = min_delay_ms
        self.max_delay_ms = max_delay_ms
        self.step_ms = step_ms
        self.volume = volume
        count = int((max_delay_ms - min_delay_ms) / step_ms + 1e-6) + 1
        milliseconds = min_delay_ms + step_ms * np.arange(count)
        # A delay of 29.999999… samples is one of 30.
        self.choices = np.floor(milliseconds * sample_rate / 1000.0 + 1e-6).astype("int32")

    def draw_parameters(self, batch, samples):
        # float32 below 1 times a small count can round up to the count itself.
        index = ops.cast(self.uniform((batch,)) * len(self.choices), "int32")
        index = ops.minimum(index, len(self.choices) - 1)
        return {"delay": ops.take(ops.convert_to_tensor(self.choices), index, axis=0)}

    def tail(self, samples):
        return min(samples, int(self.choices[-1]))

    def response(self, parameters, grid):
        ((real, imaginary),) = grid.delays(parameters["delay"][None])
        return 0.5 + 0.5 * self.volume * real, 0.5 * self.volume * imaginary

    def get_config(self):
        config = {
            "sample_rate": self.sample_rate,
            "min_delay_ms": self.min_delay_ms,
            "max_delay_ms": self.max_delay_ms,
            "step_ms": self.step_ms,
            "volume": self.volume,
        }
        return {**super().get_config(), **config}
