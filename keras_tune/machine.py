"""What the machine has: instructions of its processor, GPUs, backends of Keras; and its memory.

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
    """Whether there is a GPU of NVIDIA's; no framework is loaded, which would take its memory."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    return not hidden and any(pathlib.Path("/dev").glob("nvidia[0-9]*"))


def installed_backends() -> list[str]:
    """The backends of Keras that are installed, in the order of `BACKENDS`."""
    return [name for name in BACKENDS if importlib.util.find_spec(name)]


def keep_freed_memory(backend: str = "torch") -> bool:
    """Let this process keep large blocks of memory that it frees, to use them again.

    PyTorch allocates every result on a CPU anew. The C library of Linux asks the system for each
    block of more than 32 MB and gives it back, and the system fills it with zeros each time, which
    takes longer than most operations on it: with 96 views of 59,049 samples, half the time of a
    training step. The commands, `PretrainingRun` and `FinetuningRun` call this function on PyTorch
    without a GPU; a script with a `fit` of its own may call it before it begins. It holds for the
    whole process. TensorFlow and JAX keep memory by themselves.

    Args:
        backend: String, the backend of Keras. Defaults to "torch"; with the others this function
            does nothing.

    Returns:
        Whether memory is kept: on PyTorch without a GPU, where the C library is that of most Linux
        systems.
    """
    if backend != "torch" or has_gpu():
        return False
    import ctypes
    import platform

    if platform.libc_ver()[0] != "glibc":
        return False
    library = ctypes.CDLL(None)
    # Numbers and values are from mallopt(3): no blocks from outside the heap, no trimming of it.
    return all(library.mallopt(parameter, value) for parameter, value in ((-4, 0), (-1, -1)))
