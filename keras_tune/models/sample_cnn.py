"""CLMR's SampleCNN, as a stack on any signal: the whole of the encoder, or a tail."""

import keras

from keras_tune.layers.sample_cnn_block import SampleCNNBlock


def sample_cnn(inputs, filters, data_format):
    """Apply SampleCNN's stem, its pooled blocks and its last block.

    Args:
        inputs: Keras tensor (batch, time, channels), or channels first.
        filters: List of integers: the stem's width, those of the blocks that are followed by max
            pooling, and the last block's. Time shrinks by 3 ** (len(filters) - 1).
        data_format: "channels_last" or "channels_first".

    Returns:
        A dict of Keras tensors, the output of every stage by its name: `stem`, `block_1`, …

    Source: Lee et al., "SampleCNN" (2018); Spijkervet & Burgoyne, CLMR (ISMIR 2021).

    Example:

    ```python
    waveform = keras.Input((59049, 1))
    stages = sample_cnn(waveform, [8, 8, 8, 16, 16, 16, 16, 16, 16, 32, 32], "channels_last")
    stages["block_10"].shape  # (None, 1, 32)
    ```
    """
    x = SampleCNNBlock(
        filters[0], strides=3, padding="valid", data_format=data_format, name="stem"
    )(inputs)
    stages = {"stem": x}
    for index, width in enumerate(filters[1:], start=1):
        name = f"block_{index}"
        x = stages[name] = SampleCNNBlock(width, data_format=data_format, name=name)(x)
        if index < len(filters) - 1:
            x = keras.layers.MaxPooling1D(3, data_format=data_format, name=f"{name}_pool")(x)
    return stages
