"""The choice of the layout of activations in memory."""

import keras


def standardize_data_format(data_format: str | None = None) -> str:
    """Resolve None to the layout in which one-dimensional convolutions are fast on this backend.

    PyTorch's convolutions are fastest with `channels_first`; TensorFlow's need `channels_last` on a
    CPU; under XLA, which JAX uses too, the two are nearly equal.

    Args:
        data_format: "channels_first", "channels_last", or None for the backend's faster one.
            Defaults to None.

    Returns:
        "channels_first" or "channels_last".

    Raises:
        ValueError: For any other value.
    """
    if data_format is None:
        return "channels_first" if keras.backend.backend() == "torch" else "channels_last"
    if data_format not in ("channels_first", "channels_last"):
        raise ValueError(
            "`data_format` must be 'channels_first', 'channels_last' or None. "
            f"Received: data_format={data_format}"
        )
    return data_format


def channel_axis(data_format: str) -> int:
    """The axis of the channels in a (batch, time, channels) or (batch, channels, time) tensor."""
    return 1 if data_format == "channels_first" else -1
