import math
from typing import Any

import keras
from keras import ops

from keras_tune.augment.augmentation import Augmentation, check_range
from keras_tune.types import Interval, Tensor


@keras.saving.register_keras_serializable(package="keras_tune")
class GaussianNoise(Augmentation):
    """Add white Gaussian noise at a level relative to that of each waveform.

    The ratio of the noise's standard deviation to the waveform's is drawn uniformly. The
    signal-to-noise ratio in dB is -20 log10(ratio), so the defaults mean 80 to 40 dB.

    The noise is computed from a random key for each example, so that it costs nothing for the
    examples to which it is not added.

    Args:
        min_ratio: Float, the lowest ratio of noise to signal. Defaults to 1e-4
            (80 dB SNR).
        max_ratio: Float, the highest ratio of noise to signal. Defaults to 1e-2
            (40 dB SNR).
        probability: Float, the probability that an example is changed; CLMR uses 0.01.
            Defaults to 1.
        seed: Integer, the seed of the draws, or None for a random one. Defaults to None.
        **kwargs: Arguments of `keras.layers.Layer`.

    Input shape: (batch, samples), waveforms, full scale is [-1, 1].
    Output shape: the same, float32.

    Raises:
        ValueError: If the ratios are not ordered or negative.

    Source: Spijkervet and Burgoyne, Contrastive Learning of Musical Representations (ISMIR 2021).

    Example:

    ```python
    layer = keras_tune.augment.GaussianNoise(min_ratio=0.01, max_ratio=0.1, seed=1)
    noisy = layer(np.random.normal(0, 0.1, (8, 22050)), training=True)
    ```
    """

    costly = True

    def __init__(
        self,
        min_ratio: float = 1e-4,
        max_ratio: float = 1e-2,
        probability: float = 1.0,
        seed: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(probability=probability, seed=seed, **kwargs)
        check_range(Interval(0), min_ratio=min_ratio, max_ratio=max_ratio)
        self.min_ratio = min_ratio
        self.max_ratio = max_ratio

    def draw_parameters(self, batch: int, samples: int) -> dict[str, Any]:
        ratio = self.uniform((batch,), self.min_ratio, self.max_ratio)
        key = keras.random.randint((batch, 2), 0, 2**31 - 1, seed=self.seed_generator)
        return {"ratio": ratio, "key": key}

    def transform(self, waveforms: Tensor, parameters: dict[str, Any]) -> Tensor:
        level = ops.std(waveforms, axis=1) * parameters["ratio"]
        noise = hashed_normal(parameters["key"], waveforms.shape[1])
        return waveforms + level[:, None] * noise


def hashed_normal(keys: Tensor, samples: int) -> Tensor:
    """Standard normal numbers, float32 (batch, samples), from random int32 keys (batch, 2).

    Sample numbers are mixed with a key by a 32-bit hash; the Box-Muller transform turns pairs of
    hashes into normal numbers. Unlike `keras.random.normal` this is a pure function of its
    arguments, the same on every backend, so it can run on some examples of a batch only.

    Source: A. Appleby, MurmurHash3 (the finalizer, which is the hash used here).
    """
    pairs = -(-samples // 2)
    counter = ops.arange(2 * pairs, dtype="int32")[None]
    bits = _mix(_mix(counter ^ keys[:, :1]) ^ keys[:, 1:])
    # 24 bits fill the mantissa of a float32; half a step avoids the logarithm of 0.
    uniform = (ops.cast(bits & 0xFFFFFF, "float32") + 0.5) * 2.0**-24
    radius = ops.sqrt(-2.0 * ops.log(uniform[:, :pairs]))
    angle = (2.0 * math.pi) * uniform[:, pairs:]
    normal = ops.concatenate([radius * ops.cos(angle), radius * ops.sin(angle)], axis=1)
    return normal[:, :samples]


def _mix(bits):
    # The factors of the hash as signed 32-bit integers.
    bits = (bits ^ _shift_right(bits, 16)) * (0x85EBCA6B - 2**32)
    bits = (bits ^ _shift_right(bits, 13)) * (0xC2B2AE35 - 2**32)
    return bits ^ _shift_right(bits, 16)


def _shift_right(bits, count):
    # An int32 shift copies the sign bit, which a 32-bit hash must not do.
    return ops.right_shift(bits, count) & ((1 << (32 - count)) - 1)
