"""The building blocks of TUNe and SampleCNN as Keras layers."""

import keras  # noqa: F401  First, so that the hook that registers the classes runs before them.

from keras_tune.layers.acoustic_features import AcousticFeatures
from keras_tune.layers.batch_normalization import BatchNormalization
from keras_tune.layers.crop_to_multiple import CropToMultiple
from keras_tune.layers.fused_conv import FusedConv1D
from keras_tune.layers.level_normalization import LevelNormalization
from keras_tune.layers.max_pooling import MaxPooling1D
from keras_tune.layers.sample_cnn_block import HeUniform, SampleCNNBlock
from keras_tune.layers.statistics_pooling import StatisticsPooling1D
from keras_tune.layers.strided_conv_transpose import StridedConv1DTranspose
from keras_tune.layers.tail_block import TailBlock
from keras_tune.layers.upsample_block import UpsampleBlock

__all__ = [
    "AcousticFeatures",
    "BatchNormalization",
    "CropToMultiple",
    "FusedConv1D",
    "HeUniform",
    "LevelNormalization",
    "MaxPooling1D",
    "SampleCNNBlock",
    "StatisticsPooling1D",
    "StridedConv1DTranspose",
    "TailBlock",
    "UpsampleBlock",
]
