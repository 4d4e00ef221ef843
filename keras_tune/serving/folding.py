"""Batch normalization folded into the convolutions in front of it."""

import functools

import keras
import numpy as np

from keras_tune.layers.acoustic_features import AcousticFeatures
from keras_tune.layers.fused_conv import FusedConv1D
from keras_tune.layers.level_normalization import LevelNormalization
from keras_tune.layers.max_pooling import MaxPooling1D
from keras_tune.layers.sample_cnn_block import SampleCNNBlock
from keras_tune.layers.statistics_pooling import StatisticsPooling1D
from keras_tune.layers.strided_conv_transpose import StridedConv1DTranspose
from keras_tune.layers.tail_block import TailBlock
from keras_tune.layers.upsample_block import UpsampleBlock
from keras_tune.models.tagger import Tagger
from keras_tune.types import DType

# What is computed in single precision whatever the precision of the model: the level, and what is
# behind the last stage.
EXACT = (
    AcousticFeatures,
    keras.layers.Concatenate,
    keras.layers.Dense,
    keras.layers.GlobalAveragePooling1D,
    LevelNormalization,
    StatisticsPooling1D,
)


def fold_batch_norm(model: keras.Model, dtype: DType = "float32") -> keras.Model:
    """Build an equivalent model without batch normalization, for inference.

    At inference, batch normalization scales and shifts each channel, which the weights of the
    convolution before it can do as well: the two become one convolution. The blocks of this package
    are replaced by plain layers; the last layer of a block has its name, so that stages can still
    be tapped. Other layers are copied.

    Args:
        model: A functional Keras model, such as `TUNe`, or a `Tagger`, in any precision.
        dtype: Dtype policy of the folded model; "mixed_bfloat16" is faster on processors with
            instructions for it. The average at the end stays float32. Defaults to "float32".

    Returns:
        A functional Keras model with the same inputs and outputs; of a `Tagger` a `Tagger`. It
        shares no weights with `model`. It has the `sample_rate` and `min_samples` of an encoder,
        which are not saved with it.

    Raises:
        ValueError: The model is not functional.

    Source: Jacob et al., "Quantization and Training of Neural Networks for Efficient
    Integer-Arithmetic-Only Inference" (CVPR 2018), section 3.2.

    Example:

    ```python
    encoder = keras_tune.TUNe.from_preset("tune_plus", load_weights=False)
    folded = keras_tune.serving.fold_batch_norm(encoder)
    folded.predict(np.zeros((1, 59049, 1))).shape  # (1, 512)
    ```
    """
    if isinstance(model, Tagger):
        config = {**model.get_config(), "encoder": fold_batch_norm(model.encoder, dtype)}
        folded = Tagger(**{**config, "scale": None, "offset": None})
        folded.head.set_weights(model.head_weights())
        return folded
    if not isinstance(model, keras.Model) or not hasattr(model, "operations"):
        raise ValueError(
            f"`model` must be a functional Keras model. Received: model={type(model).__name__}"
        )
    folded = keras.models.clone_model(
        model,
        clone_function=lambda layer: layer,
        call_function=functools.partial(_call_folded, dtype=dtype),
    )
    for name in ("sample_rate", "min_samples"):
        if hasattr(model, name):
            setattr(folded, name, getattr(model, name))
    return folded


def _call_folded(layer, inputs, dtype, **kwargs):
    """Call the layers that `layer` is folded to."""
    if isinstance(layer, SampleCNNBlock):
        return _convolution(layer, inputs, layer.name, dtype)
    if isinstance(layer, TailBlock):
        x, *link = inputs if isinstance(inputs, (list, tuple)) else [inputs]
        options = {"data_format": layer.data_format, "dtype": dtype}
        x = MaxPooling1D(layer.factor, name=f"{layer.name}_pooling", **options)(x)
        return _convolution(layer.block, [x, *link] if link else x, layer.name, dtype)
    if isinstance(layer, UpsampleBlock):
        x, skip = inputs
        options = {"data_format": layer.data_format, "dtype": dtype}
        upsampling = StridedConv1DTranspose(
            layer.upsampled_filters, layer.factor, name=f"{layer.name}_upsampling", **options
        )
        x = _with_weights(upsampling, layer.upsampling.get_weights(), x)
        return _convolution(layer.block, [x, skip], layer.name, dtype)
    if isinstance(layer, keras.Model) and hasattr(layer, "operations"):
        return fold_batch_norm(layer, dtype)(inputs)
    config = layer.get_config()
    config["dtype"] = "float32" if isinstance(layer, EXACT) else dtype
    return _with_weights(type(layer).from_config(config), layer.get_weights(), inputs, **kwargs)


def _convolution(block, inputs, name, dtype):
    convolution, normalization = block.convolution, block.normalization
    kernel, bias = (np.asarray(w, "float64") for w in convolution.get_weights())
    gamma, beta, mean, variance = (np.asarray(w, "float64") for w in normalization.get_weights())
    scale = gamma / np.sqrt(variance + normalization.epsilon)
    layer = FusedConv1D(
        block.filters,
        block.kernel_size,
        strides=block.strides,
        padding=block.padding,
        data_format=block.data_format,
        activation="relu",
        dtype=dtype,
        name=name,
    )
    # What turns the kernel back into the one that was trained, whose numbers may be shorter.
    layer.folded_scale = scale
    return _with_weights(layer, [kernel * scale, (bias - mean) * scale + beta], inputs)


def _with_weights(layer, weights, inputs, **kwargs):
    outputs = layer(inputs, **kwargs)
    layer.set_weights(weights)
    return outputs
