import math

import keras
from keras import ops

from keras_tune.augment.augmentation import Augmentation
from keras_tune.augment.phase_vocoder import PhaseVocoder, check_frame_length


@keras.saving.register_keras_serializable(package="keras_tune")
class TimeStretch(Augmentation):
    """Play each waveform faster or slower by a factor of its own; its pitch is kept.

    The number of samples stays what it was: of a waveform that became longer only the beginning
    is kept, and one that became shorter is followed by silence. A phase vocoder does the work.

    Args:
        min_rate: Slowest rate; 0.8 makes a waveform 1.25 times as long. Default 0.8.
        max_rate: Fastest rate. Default 1.25.
        frame_length: Length of the vocoder's frames in samples, a multiple of 6. Default 1152,
            which is 52 ms at 22,050 Hz.
        probability: Probability that an example is changed. Default 1.
        seed: Integer seed of the draws.
        **kwargs: Arguments of `keras.layers.Layer`.

    Source: see `keras_tune.augment.phase_vocoder`.

    Example:

    ```python
    stretched = TimeStretch(0.9, 1.1, seed=1)(waveforms, training=True)
    ```
    """

    costly = True

    def __init__(
        self,
        min_rate=0.8,
        max_rate=1.25,
        frame_length=1152,
        probability=1.0,
        seed=None,
        **kwargs,
    ):
        super().__init__(probability=probability, seed=seed, **kwargs)
        if not 0.0 < min_rate <= max_rate:
            raise ValueError(
                "`min_rate` and `max_rate` must be ordered and positive. "
                f"Received: min_rate={min_rate}, max_rate={max_rate}"
            )
        check_frame_length(frame_length)
        self.min_rate = min_rate
        self.max_rate = max_rate
        self.frame_length = frame_length

    def draw_parameters(self, batch, samples):
        # Uniform in the logarithm: twice as fast is as likely as twice as slow.
        low, high = math.log(self.min_rate), math.log(self.max_rate)
        return {"rate": ops.exp(self.uniform((batch,), low, high))}

    def transform(self, waveforms, parameters):
        samples = waveforms.shape[1]
        peak = ops.maximum(ops.max(ops.abs(waveforms), axis=1, keepdims=True), 1e-30)
        vocoder = PhaseVocoder(samples, self.frame_length, samples)
        return vocoder.stretch(waveforms / peak, 1.0 / parameters["rate"]) * peak

    def get_config(self):
        config = {
            "min_rate": self.min_rate,
            "max_rate": self.max_rate,
            "frame_length": self.frame_length,
        }
        return {**super().get_config(), **config}
