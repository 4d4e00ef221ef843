"""Waveform augmentations as Keras layers, and the published CLMR chain.

Every layer takes a batch of mono waveforms, shape (batch, samples), full scale [-1, 1], and returns
the same shape. Each example is transformed with a given probability and with its own parameters.
With `training=False` a layer returns its input. The same code runs on TensorFlow, JAX and PyTorch,
eager and compiled.
"""

import keras  # isort: skip  # noqa: F401

from keras_tune.augment.augmentation import Augmentation
from keras_tune.augment.background_mix import BackgroundMix
from keras_tune.augment.clipping import Clipping
from keras_tune.augment.clmr_chain import clmr_chain
from keras_tune.augment.compose import Compose, RandomApply
from keras_tune.augment.delay import Delay
from keras_tune.augment.filters import BandReject, HighLowPass, HighPass, LowPass
from keras_tune.augment.gain import Gain
from keras_tune.augment.gaussian_noise import GaussianNoise
from keras_tune.augment.pitch_shift import PitchShift
from keras_tune.augment.polarity_inversion import PolarityInversion
from keras_tune.augment.random_crop import RandomCrop
from keras_tune.augment.reverb import Reverb
from keras_tune.augment.spectral import LinearAugmentation
from keras_tune.augment.time_mask import TimeMask
from keras_tune.augment.time_stretch import TimeStretch
from keras_tune.types import AugmentConfig

__all__ = [
    "AugmentConfig",
    "Augmentation",
    "BackgroundMix",
    "BandReject",
    "Clipping",
    "Compose",
    "Delay",
    "Gain",
    "GaussianNoise",
    "HighLowPass",
    "HighPass",
    "LinearAugmentation",
    "LowPass",
    "PitchShift",
    "PolarityInversion",
    "RandomApply",
    "RandomCrop",
    "Reverb",
    "TimeMask",
    "TimeStretch",
    "clmr_chain",
]
