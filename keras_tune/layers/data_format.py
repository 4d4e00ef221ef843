"""The one place that decides how activations lie in memory."""

import keras


def standardize_data_format(data_format=None):
    """Resolve None to the layout in which one-dimensional convolutions are fast on this backend.

    PyTorch's convolutions want `channels_first`; TensorFlow's run on a CPU in `channels_last` only,
    and under XLA (JAX too) the two are near equal.

    Args:
        data_format: "channels_first", "channels_last", or None for the backend's own.

    Returns:
        "channels_first" or "channels_last".

    Raises:
        ValueError: Any other value.
    """
    if data_format is None:
        return "channels_first" if keras.backend.backend() == "torch" else "channels_last"
    if data_format not in ("channels_first", "channels_last"):
        raise ValueError(
            "`data_format` must be 'channels_first', 'channels_last' or None. "
            f"Received: data_format={data_format}"
        )
    return data_format


def channel_axis(data_format):
    """The axis of the channels in a (batch, time, channels) or (batch, channels, time) tensor."""
    return 1 if data_format == "channels_first" else -1
