"""Waveform augmentations as Keras layers, and the published CLMR chain.

Every layer takes a batch of mono waveforms, shape (batch, samples), full scale [-1, 1], and gives
the same shape. Each example has its own coin and its own draw. With `training=False` a layer is
the identity. The same code runs on TensorFlow, JAX and PyTorch, eager and compiled.
"""

import keras  # isort: skip  # noqa: F401

from keras_tune.augment.augmentation import Augmentation
from keras_tune.augment.chain import Chain
from keras_tune.augment.gain import Gain
from keras_tune.augment.gaussian_noise import GaussianNoise
from keras_tune.augment.polarity_inversion import PolarityInversion
from keras_tune.augment.random_apply import RandomApply
from keras_tune.augment.random_crop import RandomCrop

__all__ = [
    "Augmentation",
    "Chain",
    "Gain",
    "GaussianNoise",
    "PolarityInversion",
    "RandomApply",
    "RandomCrop",
]
