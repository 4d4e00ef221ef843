import keras
from keras import ops

from keras_tune.augment.augmentation import Augmentation
from keras_tune.augment.hashed_noise import hashed_normal


@keras.saving.register_keras_serializable(package="keras_tune")
class GaussianNoise(Augmentation):
    """Add white Gaussian noise at a level relative to each waveform's own.

    The ratio of the noise's standard deviation to the waveform's is drawn uniformly. The
    signal-to-noise ratio in dB is -20 log10(ratio), so the defaults mean 80 to 40 dB.

    Args:
        min_ratio: Lowest ratio of noise to signal. Default 1e-4 (80 dB SNR).
        max_ratio: Highest ratio of noise to signal. Default 1e-2 (40 dB SNR).
        probability: Probability that an example is changed. Default 1; CLMR uses 0.01.
        seed: Integer seed of the draws.
        **kwargs: Arguments of `keras.layers.Layer`.

    The noise is computed from a random key for each example, so that a noise which is seldom
    added costs nothing for the other examples.

    Source: Spijkervet and Burgoyne, Contrastive Learning of Musical Representations (ISMIR 2021).

    Example:

    ```python
    noisy = GaussianNoise(min_ratio=0.01, max_ratio=0.1, seed=1)(waveforms, training=True)
    ```
    """

    costly = True

    def __init__(self, min_ratio=1e-4, max_ratio=1e-2, probability=1.0, seed=None, **kwargs):
        super().__init__(probability=probability, seed=seed, **kwargs)
        if not 0.0 <= min_ratio <= max_ratio:
            raise ValueError(
                "`min_ratio` and `max_ratio` must be ordered and not negative. "
                f"Received: min_ratio={min_ratio}, max_ratio={max_ratio}"
            )
        self.min_ratio = min_ratio
        self.max_ratio = max_ratio

    def draw_parameters(self, batch, samples):
        ratio = self.uniform((batch,), self.min_ratio, self.max_ratio)
        key = keras.random.randint((batch, 2), 0, 2**31 - 1, seed=self.seed_generator)
        return {"ratio": ratio, "key": key}

    def transform(self, waveforms, parameters):
        level = ops.std(waveforms, axis=1) * parameters["ratio"]
        noise = hashed_normal(parameters["key"], waveforms.shape[1])
        return waveforms + level[:, None] * noise

    def get_config(self):
        config = {"min_ratio": self.min_ratio, "max_ratio": self.max_ratio}
        return {**super().get_config(), **config}
