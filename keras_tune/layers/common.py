"""What layers have in common: the arguments that are saved, and the layout of activations."""

import inspect
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_tune.machine import has_gpu
from keras_tune.types import Shape, Tensor


def saved_arguments(instance: Any) -> dict[str, Any]:
    """The arguments with which to build a Keras object again: its attributes of their names."""
    names: dict[str, Any] = {}
    # A class that passes `**kwargs` on has the arguments of the classes that it derives from.
    for one in type(instance).__mro__:
        if one.__module__.startswith("keras."):
            break
        if "__init__" in vars(one):
            names |= inspect.signature(one).parameters
    return {name: getattr(instance, name) for name in names if hasattr(instance, name)}


class ConfiguredLayer(keras.layers.Layer):
    """A layer that is saved with its arguments, each of which it keeps under its own name."""

    def get_config(self) -> dict[str, Any]:
        # What Keras saves stays as it is: the attribute `dtype` is less than the policy.
        return {**saved_arguments(self), **super().get_config()}


def standardize_data_format(data_format: str | None) -> str:
    """Resolve None to the layout in which one-dimensional convolutions are fast on this backend.

    On a CPU that is `channels_last`: TensorFlow's convolutions need it, and with PyTorch those of
    few channels are several times as fast. On a GPU, PyTorch's are fastest with `channels_first`.
    Under XLA, which JAX uses too, the two are nearly equal.
    """
    if data_format is None:
        first = keras.backend.backend() == "torch" and has_gpu()
        return "channels_first" if first else "channels_last"
    if data_format not in ("channels_first", "channels_last"):
        raise ValueError(
            "`data_format` must be 'channels_first', 'channels_last' or None. "
            f"Received: data_format={data_format}"
        )
    return data_format


def channel_axis(data_format: str) -> int:
    """The axis of the channels in a (batch, time, channels) or (batch, channels, time) tensor."""
    return 1 if data_format == "channels_first" else -1


def concatenate_channels(tensors: Sequence[Tensor], data_format: str) -> Tensor:
    """Concatenate tensors that differ in the channels only; a single one is not copied."""
    if len(tensors) == 1:
        return tensors[0]
    return ops.concatenate(tensors, axis=channel_axis(data_format))


def concatenated_shape(shape: Shape | Sequence[Shape], data_format: str) -> Shape:
    """The shape of tensors whose channels are concatenated, or the one shape that is given."""
    shapes: Any = shape
    if not isinstance(shapes[0], (list, tuple)):
        return tuple(shapes)
    joined, axis = list(shapes[0]), channel_axis(data_format)
    joined[axis] = sum(one[axis] for one in shapes)
    return tuple(joined)
