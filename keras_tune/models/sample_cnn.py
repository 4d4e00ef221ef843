"""CLMR's SampleCNN, as a stack on any signal: the whole of the encoder, or a tail."""

from collections.abc import Sequence

import keras

from keras_tune.layers.sample_cnn_block import SampleCNNBlock
from keras_tune.types import DType, Tensor


def sample_cnn(
    inputs: Tensor, filters: Sequence[int], data_format: str, dtype: DType = None
) -> dict[str, Tensor]:
    """Apply SampleCNN's stem, its pooled blocks and its last block.

    Args:
        inputs: Keras tensor (batch, time, channels), or channels first.
        filters: List of integers: the stem's width, those of the blocks that are followed by max
            pooling, and the last block's. Time shrinks by 3 ** (len(filters) - 1).
        data_format: "channels_last" or "channels_first".
        dtype: Dtype policy of the layers. Defaults to the global policy.

    Returns:
        A dict of Keras tensors, the output of every stage by its name: `stem`, `block_1`, …

    Source: Lee et al., "SampleCNN" (2018); Spijkervet & Burgoyne, CLMR (ISMIR 2021).

    Example:

    ```python
    from keras_tune.models.sample_cnn import sample_cnn

    waveform = keras.Input((59049, 1))
    stages = sample_cnn(waveform, [8, 8, 8, 16, 16, 16, 16, 16, 16, 32, 32], "channels_last")
    stages["block_10"].shape  # (None, 1, 32)
    ```
    """
    options = {"data_format": data_format, "dtype": dtype}
    x = SampleCNNBlock(filters[0], strides=3, padding="valid", name="stem", **options)(inputs)
    stages = {"stem": x}
    for index, width in enumerate(filters[1:], start=1):
        name = f"block_{index}"
        x = stages[name] = SampleCNNBlock(width, name=name, **options)(x)
        if index < len(filters) - 1:
            x = keras.layers.MaxPooling1D(3, name=f"{name}_pool", **options)(x)
    return stages
