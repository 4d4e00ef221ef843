"""The names of tensors in the published PyTorch modules.

They lead to the Keras variables the tensors belong to, and with the shapes to the variant of TUNe.

Keras stores every kernel with its axes in the opposite order of PyTorch's: Conv1D (kernel, in, out)
for (out, in, kernel), Conv1DTranspose (kernel, out, in) for (in, out, kernel), Dense (in, out) for
(out, in). Values are therefore converted by a transpose, in both directions.

Source: github.com/Marcel-Velez/TUNe (folder `models`) and github.com/Spijkervet/CLMR.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from keras_tune.errors import UserError
from keras_tune.models.presets import PRESETS, PUBLISHED
from keras_tune.models.tune import TUNe

# The published U-Net was written for this contraction depth; deeper stages have other names.
DEPTH = 4


def encoder_tensors(encoder: TUNe) -> dict[str, keras.Variable]:
    """The variables of an encoder by the names that the published modules give them.

    A name is `conv1.layers.0.weight`, for instance; the order is from the input to the output.
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
    """The variables of Dense layers with activations between them, a projector or a head.

    Their names are `0.weight`, `0.bias`, `2.weight` and so on.
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


def infer_architecture(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Find the arguments of `TUNe` that give these tensors.

    The depths follow from the blocks that exist, the widths from their outputs, and the links from
    the tail to the expansive path from the inputs of its first block.

    Args:
        shapes: Dict from the published name of a tensor to its shape in PyTorch's layout.

    Returns:
        A dict of arguments of `TUNe`; its `name` is that of the preset with these, if any.

    Raises:
        UserError: There is no encoder among these tensors, or one of its blocks is missing.
    """
    if "sequential.0.0.weight" in shapes:
        widths = _widths(shapes, "sequential.{}.0.weight", 0)
        depth, decoder_depth, base, linked, tail_type = DEPTH, 0, widths[0], False, "pooled"
    else:
        levels = range(64)
        down = [n for n in levels if f"{contractive_name(n)}.layers.0.weight" in shapes]
        up = [n for n in levels if f"{expansive_names(n)[0]}.weight" in shapes]
        if not down or not up or min(up) >= max(down):
            raise UserError("contains no encoder of TUNe or CLMR")
        depth, last = max(down), min(up)
        base = _kernel(shapes, f"{contractive_name(0)}.layers.0.weight")[0]
        whole = any(name.startswith("model_down.") for name in shapes)
        name = "model_down.sequential.{}.0.weight" if whole else "convDown{}.layers.0.weight"
        widths = _widths(shapes, name, 0 if whole else last + 1)
        linked = not whole and _kernel(shapes, name.format(last + 1))[1] > base * 2**last
        decoder_depth, tail_type = depth - last, "sample_cnn" if whole else "pooled"
    arguments = {
        "contraction_depth": depth,
        "decoder_depth": decoder_depth,
        "base_filters": base,
        "tail_filters": widths,
        "extra_links": linked,
        "tail_type": tail_type,
    }
    return arguments | {"name": _preset(arguments) or "tune"}


def _preset(arguments):
    """The name of the published variant with these arguments, or None."""
    return next((name for name in PUBLISHED if PRESETS[name].arguments() == arguments), None)


def _kernel(shapes, name):
    """The (out, in, size) of a convolution."""
    if name not in shapes:
        raise UserError(f"tensor {name} is missing")
    if len(shapes[name]) != 3:
        raise UserError(f"tensor {name} has the shape {shapes[name]}, not that of a convolution")
    return shapes[name]


def _widths(shapes, name, first):
    """The outputs of numbered blocks, from `first` to the last one there is."""
    pattern = re.compile(re.escape(name).replace(r"\{\}", r"(\d+)"))
    numbers = [int(match[1]) for match in map(pattern.fullmatch, shapes) if match]
    last = max(numbers, default=first)
    return tuple(_kernel(shapes, name.format(n))[0] for n in range(first, last + 1))
