"""The most memory that a piece of work has held: the device's, or on a CPU the process's."""

import pathlib
import sys

import keras

_CLEAR = pathlib.Path("/proc/self/clear_refs")
_STATUS = pathlib.Path("/proc/self/status")


def reset_peak():
    """Begin to measure anew, as far as the backend and the system can."""
    backend = keras.backend.backend()
    if backend == "torch":
        import torch

        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
    elif backend == "tensorflow":
        import tensorflow as tf

        for device in tf.config.list_logical_devices("GPU"):
            tf.config.experimental.reset_memory_stats(device.name.removeprefix("/device:"))
    try:
        # Linux resets the peak of the resident memory at this word.
        _CLEAR.write_text("5")
    except OSError:
        pass


def peak_megabytes():
    """The peak since `reset_peak`, or where that could not reset it, since the process began.

    Returns:
        Float, in units of 10⁶ bytes. On a GPU what the backend has allocated there, which is its
        peak since the process began on JAX; on a CPU the resident memory of the process.

    Example:

    ```python
    reset_peak()
    model.fit(dataset)
    print(peak_megabytes())
    ```
    """
    on_device = _device_bytes()
    return round((on_device or _resident_bytes()) / 1e6, 1)


def _device_bytes():
    backend = keras.backend.backend()
    if backend == "torch":
        import torch

        return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    if backend == "jax":
        import jax

        stats = [device.memory_stats() or {} for device in jax.local_devices()]
        return max(entry.get("peak_bytes_in_use", 0) for entry in stats)
    import tensorflow as tf

    return max(
        (
            tf.config.experimental.get_memory_info(device.name.removeprefix("/device:"))["peak"]
            for device in tf.config.list_logical_devices("GPU")
        ),
        default=0,
    )


def _resident_bytes():
    try:
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    except OSError:
        pass
    try:
        import resource
    except ImportError:
        # Windows.
        import psutil

        return psutil.Process().memory_info().peak_wset
    # macOS counts bytes, the others kibibytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
