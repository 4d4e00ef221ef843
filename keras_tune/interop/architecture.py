"""The variant of TUNe to which a set of tensors belongs, from their names and shapes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from keras_tune.errors import UserError
from keras_tune.interop.tensor_names import DEPTH, contractive_name, expansive_names
from keras_tune.models.presets import PRESETS, PUBLISHED


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

    Example:

    ```python
    from keras_tune.interop.architecture import infer_architecture
    from keras_tune.interop.checkpoint_file import read_checkpoint

    encoder = keras_tune.TUNe.from_preset("tune_plus_32", load_weights=False)
    keras_tune.interop.export_pytorch_checkpoint(encoder, "encoder.safetensors")
    tensors, _ = read_checkpoint("encoder.safetensors")
    shapes = {name.removeprefix("encoder."): array.shape for name, array in tensors.items()}
    infer_architecture(shapes)["name"]  # "tune_plus_32"
    ```
    """
    levels = range(64)
    if "sequential.0.0.weight" in shapes:
        widths = _widths(shapes, "sequential.{}.0.weight", 0)
        arguments = {
            "contraction_depth": DEPTH,
            "decoder_depth": 0,
            "base_filters": widths[0],
            "tail_filters": widths,
            "extra_links": False,
            "tail_type": "pooled",
        }
    else:
        down = [n for n in levels if f"{contractive_name(n)}.layers.0.weight" in shapes]
        up = [n for n in levels if f"{expansive_names(n)[0]}.weight" in shapes]
        if not down or not up or min(up) >= max(down):
            raise UserError("contains no encoder of TUNe or CLMR")
        depth, last = max(down), min(up)
        base = _kernel(shapes, f"{contractive_name(0)}.layers.0.weight")[0]
        whole = any(name.startswith("model_down.") for name in shapes)
        name = "model_down.sequential.{}.0.weight" if whole else "convDown{}.layers.0.weight"
        widths = _widths(shapes, name, 0 if whole else last + 1)
        arguments = {
            "contraction_depth": depth,
            "decoder_depth": depth - last,
            "base_filters": base,
            "tail_filters": widths,
            "extra_links": not whole and _kernel(shapes, name.format(last + 1))[1] > base * 2**last,
            "tail_type": "sample_cnn" if whole else "pooled",
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
