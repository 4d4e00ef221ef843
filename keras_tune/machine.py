"""What the machine has: instructions of its processor, GPUs, backends of Keras.

Importing it, and calling its functions, imports no framework.
"""

import importlib.util
import os
import pathlib

# Backends of Keras, the one first that is taken where several are installed.
BACKENDS = ("tensorflow", "jax", "torch")

# Linux: a table for each processor, among it the names of its instructions.
CPUINFO = pathlib.Path("/proc/cpuinfo")


def cpu_flags() -> frozenset[str] | None:
    """The names of the processor's instructions, as Linux gives them.

    Returns:
        Frozen set of strings such as "avx512_bf16"; None where the system does not tell.

    Example:

    ```python
    from keras_tune.machine import cpu_flags

    "avx512_bf16" in (cpu_flags() or ())
    ```
    """
    try:
        lines = CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    for line in lines:
        key, _, value = line.partition(":")
        # The second is what ARM has.
        if key.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return None


def has_gpu() -> bool:
    """Whether there is a GPU of NVIDIA's; no framework is loaded, which would take its memory.

    Example:

    ```python
    from keras_tune.machine import has_gpu

    has_gpu()
    ```
    """
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    return not hidden and any(pathlib.Path("/dev").glob("nvidia[0-9]*"))


def installed_backends() -> list[str]:
    """The backends of Keras that are installed, in the order of `BACKENDS`.

    Example:

    ```python
    from keras_tune.machine import installed_backends

    installed_backends()
    ```
    """
    return [name for name in BACKENDS if importlib.util.find_spec(name)]
