"""How a run computes: the dtype policy that suits the machine, and deterministic algorithms."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import keras

from keras_tune.machine import cpu_flags
from keras_tune.training.run_folder import read_config

# Instructions of x86 processors that multiply bfloat16 numbers, the faster one first.
CPU_INSTRUCTIONS = ("amx_bf16", "avx512_bf16")
# The first generation of NVIDIA's GPUs that multiplies bfloat16 numbers (Ampere).
COMPUTE_CAPABILITY = 8.0
BFLOAT16, SINGLE = "mixed_bfloat16", "float32"


def with_precision(config: Any, folder: str | pathlib.Path | None = None) -> tuple[Any, str]:
    """Replace the precision "auto" of a configuration by a dtype policy.

    Args:
        config: A dataclass with the field `precision`.
        folder: The folder of a run that is resumed, whose precision is kept. Defaults to None: a
            new run, whose precision `best_precision` chooses.

    Returns:
        The configuration with a dtype policy, and why it was chosen, in words that follow "since";
        empty if the configuration names one.
    """
    if config.precision != "auto":
        return config, ""
    policy = "auto"
    if folder is not None and pathlib.Path(folder, "config.yaml").exists():
        policy, reason = read_config(folder).get("precision", "auto"), "the run began with it"
    if policy == "auto":
        policy, reason = best_precision()
    return dataclasses.replace(config, precision=policy), reason


def best_precision() -> tuple[str, str]:
    """Choose between float32 and mixed_bfloat16 for training on this machine.

    bfloat16 is chosen where it has been measured, or is known, to be faster: on GPUs with compute
    capability 8.0 or higher, on TPUs, and with TensorFlow and PyTorch on processors that multiply
    bfloat16 numbers, where a step takes 0.5 to 0.7 of the time (benchmarks/README.md).

    Returns:
        The dtype policy, and the reason, in words that follow "since".
    """
    backend = keras.backend.backend()
    capability = {"tensorflow": _of_tensorflow, "jax": _of_jax, "torch": _of_torch}[backend]()
    if capability is not None:
        if capability >= COMPUTE_CAPABILITY:
            return BFLOAT16, "the accelerator has bfloat16"
        return SINGLE, "the accelerator is not known to have bfloat16"
    if backend == "jax":
        return SINGLE, "JAX is not faster in bfloat16 on a CPU"
    without_onednn = os.environ.get("TF_ENABLE_ONEDNN_OPTS") in ("0", "false")
    if backend == "tensorflow" and without_onednn:
        return SINGLE, "oneDNN, which has bfloat16, is turned off (TF_ENABLE_ONEDNN_OPTS)"
    flags = cpu_flags()
    if flags is None:
        return SINGLE, "it is not known whether the CPU has bfloat16"
    found = next((name for name in CPU_INSTRUCTIONS if name in flags), None)
    if found is None:
        return SINGLE, "the CPU has no bfloat16"
    return BFLOAT16, f"the CPU has {found}"


@contextlib.contextmanager
def dtype_policy(policy: str) -> Iterator[None]:
    """Set the global dtype policy within the block."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def make_deterministic() -> None:
    """Choose algorithms that give the same bits every time, whatever the order of threads.

    On GPUs, XLA and cuBLAS also need environment variables before Keras is imported, which the
    command `pretrain` sets.
    """
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()
    elif keras.backend.backend() == "torch":
        import torch

        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False


def _of_tensorflow():
    """The compute capability of the oldest GPU, 0 if unknown; None without a GPU."""
    import tensorflow as tf

    details = map(tf.config.experimental.get_device_details, tf.config.list_physical_devices("GPU"))
    found = (one.get("compute_capability") or (0, 0) for one in details)
    return min((major + minor / 10 for major, minor in found), default=None)


def _of_jax():
    """The same with JAX; TPUs have bfloat16."""
    import jax

    found = []
    for device in jax.devices():
        if device.platform == "cpu":
            continue
        try:
            known = COMPUTE_CAPABILITY if device.platform == "tpu" else 0.0
            found.append(float(getattr(device, "compute_capability", known)))
        except ValueError:
            # AMD's GPUs have names, such as gfx90a.
            found.append(0.0)
    return min(found, default=None)


def _of_torch():
    """The same with PyTorch, where Keras takes a GPU of Apple's too."""
    import torch

    if torch.cuda.is_available():
        devices = range(torch.cuda.device_count())
        pairs = [torch.cuda.get_device_capability(device) for device in devices]
        return min(major + minor / 10 for major, minor in pairs)
    return 0.0 if torch.backends.mps.is_available() else None
