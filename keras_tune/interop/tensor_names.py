"""The names of tensors in the published PyTorch modules, and the Keras variables they belong to.

Keras stores every kernel with its axes in the opposite order of PyTorch's: Conv1D (kernel, in, out)
for (out, in, kernel), Conv1DTranspose (kernel, out, in) for (in, out, kernel), Dense (in, out) for
(out, in). Values are therefore converted by a transpose, in both directions.

Source: github.com/Marcel-Velez/TUNe (folder `models`) and github.com/Spijkervet/CLMR.
"""

from __future__ import annotations

from collections.abc import Sequence

import keras

from keras_tune.models.tune import TUNe

# The published U-Net was written for this contraction depth; deeper stages have other names.
DEPTH = 4


def encoder_tensors(encoder: TUNe) -> dict[str, keras.Variable]:
    """The variables of an encoder by the names that the published modules give them.

    Args:
        encoder: A `TUNe`.

    Returns:
        A dict from tensor name, e.g. `conv1.layers.0.weight`, to Keras variable, in the order from
        the input to the output.

    Example:

    ```python
    from keras_tune.interop.tensor_names import encoder_tensors

    encoder = keras_tune.TUNe.from_preset("clmr", load_weights=False)
    list(encoder_tensors(encoder))[0]  # 'sequential.0.0.weight'
    ```
    """
    tensors = {}
    depth, missing = encoder.contraction_depth, encoder.contraction_depth - encoder.decoder_depth
    down = "model_down.sequential" if encoder.decoder_depth else "sequential"
    for stage in encoder.stage_names:
        layer = encoder.get_layer(stage)
        kind, _, number = stage.partition("_")
        number = int(number or 0)
        if kind == "contract":
            tensors.update(_block(f"{contractive_name(number - 1)}.layers", layer))
        elif kind == "bottleneck":
            tensors.update(_block(f"{contractive_name(depth)}.layers", layer))
        elif kind == "expand":
            upsampling, block = expansive_names(depth - number)
            tensors.update(_weights(upsampling, layer.upsampling))
            tensors.update(_block(f"{block}.layers", layer.block))
        elif kind == "tail":
            # The blocks that a shallow decoder has no use for are the first ones.
            tensors.update(_block(f"convDown{missing + number}.layers", layer.block))
        else:
            tensors.update(_block(f"{down}.{number}", layer))
    return tensors


def contractive_name(level: int) -> str:
    """The module of a contractive stage, or of the bottleneck; level 0 has the full resolution."""
    return f"conv{level + 1}" if level <= DEPTH else f"deeperDown{level - DEPTH}"


def expansive_names(level: int) -> tuple[str, str]:
    """The modules of the expansive stage at a level: the transposed convolution and the block."""
    if level < DEPTH:
        number = 2 * DEPTH + 1 - level
        return f"transposedConv{number}", f"conv{number}"
    number = level - DEPTH + 1
    return f"transposedDeeper{number}", f"deeperUp{number}"


def dense_tensors(layers: Sequence[keras.layers.Layer]) -> dict[str, keras.Variable]:
    """The variables of a stack of Dense layers with activations between them: projector or head.

    Args:
        layers: List of `keras.layers.Dense`.

    Returns:
        A dict from tensor name (`0.weight`, `0.bias`, `2.weight`, …) to Keras variable.

    Example:

    ```python
    from keras_tune.interop.tensor_names import dense_tensors

    encoder = keras_tune.TUNe.from_preset("tune_plus_32", load_weights=False)
    model = keras_tune.training.ContrastiveModel(encoder)
    list(dense_tensors(model.projector.layers))  # ['0.weight', '2.weight']
    ```
    """
    tensors = {}
    for index, layer in enumerate(layers):
        tensors.update(_weights(str(2 * index), layer))
    return tensors


def _weights(name, layer):
    tensors = {f"{name}.weight": layer.kernel}
    if layer.use_bias:
        tensors[f"{name}.bias"] = layer.bias
    return tensors


def _block(name, block):
    normalization = block.normalization
    return {
        **_weights(f"{name}.0", block.convolution),
        f"{name}.1.weight": normalization.gamma,
        f"{name}.1.bias": normalization.beta,
        f"{name}.1.running_mean": normalization.moving_mean,
        f"{name}.1.running_var": normalization.moving_variance,
    }
