"""Checkpoint files as dicts of NumPy arrays: PyTorch's own format and safetensors.

PyTorch and safetensors are imported only when a file needs them.
"""

from __future__ import annotations

import json
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_tune.checks import check_archive, check_unpacked
from keras_tune.errors import UserError
from keras_tune.files import atomic_path

# The published code tells Lightning files from flat ones by this key; the value is the version of
# PyTorch Lightning with which its authors worked.
LIGHTNING_VERSION = ("pytorch-lightning_version", "1.8.0.post1")


def read_checkpoint(path: str | os.PathLike) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read the tensors of a checkpoint without running any code that the file may contain.

    Args:
        path: A `.safetensors` file, or a file by `torch.save`: a PyTorch Lightning checkpoint, or a
            flat dict of tensors.

    Returns:
        A dict from tensor name to NumPy array, and the dict of hyper-parameters in the file (empty
        if there are none).

    Raises:
        UserError: The file is missing, not a checkpoint, cut off, would run code or would unpack to
            far more than its size; or the package that reads it is not installed.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        raise UserError(f"{path}: is a folder; give the checkpoint file in it")
    if not path.exists():
        raise UserError(f"{path}: no such file")
    read = _read_safetensors if path.suffix == ".safetensors" else _read_torch
    check_archive(path)
    tensors, hyper_parameters = read(path)
    if not tensors:
        raise UserError(f"{path}: contains no tensors; give a checkpoint with an encoder")
    return tensors, hyper_parameters


def write_checkpoint(
    path: str | os.PathLike,
    tensors: Mapping[str, np.ndarray],
    hyper_parameters: Mapping[str, Any],
) -> None:
    """Write tensors as safetensors if the suffix is `.safetensors`, else as a Lightning checkpoint.

    Args:
        path: The file to write; it appears in one step.
        tensors: Dict from tensor name to NumPy array. An array under two names is stored once in a
            Lightning checkpoint.
        hyper_parameters: Dict of numbers and strings.

    Raises:
        UserError: The package that writes such files is not installed.
    """
    path = pathlib.Path(path)
    if path.suffix == ".safetensors":
        safetensors = _import("safetensors.numpy", path)
        with atomic_path(path) as temporary:
            metadata = {"hyper_parameters": json.dumps(hyper_parameters)}
            safetensors.save_file(tensors, temporary, metadata=metadata)
        return
    torch = _import("torch", path)
    shared = {id(array): torch.from_numpy(array) for array in tensors.values()}
    content = {
        "epoch": 0,
        "global_step": 0,
        LIGHTNING_VERSION[0]: LIGHTNING_VERSION[1],
        "state_dict": {name: shared[id(array)] for name, array in tensors.items()},
        "hyper_parameters": hyper_parameters,
    }
    with atomic_path(path) as temporary:
        torch.save(content, temporary)


def _import(module, path):
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError:
        package = {"torch": "PyTorch"}.get(module, "safetensors")
        raise UserError(
            f"{path}: {package} is needed for such files; pip install 'keras_tune[torch]'"
        ) from None


def _read_safetensors(path):
    safetensors = _import("safetensors", path)
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
            metadata = file.metadata() or {}
    except safetensors.SafetensorError as error:
        raise UserError(f"{path}: not a safetensors file, or truncated ({error})") from None
    except TypeError as error:
        raise UserError(f"{path}: {error}; save its tensors as float32") from None
    try:
        hyper_parameters = json.loads(metadata.get("hyper_parameters", "{}"))
    except ValueError:
        # Metadata is free text, and another program may use this key for something else.
        hyper_parameters = {}
    return tensors, _dict(hyper_parameters)


def _read_torch(path):
    torch = _import("torch", path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # Files that are not checkpoints fail in torch.load in many ways.
        refused = re.search(r"GLOBAL ([\w.]+)", str(error))
        if refused:
            raise UserError(
                f"{path}: refused, because loading it would run code ({refused[1]}); "
                "ask its author for a file with tensors only"
            ) from None
        raise UserError(f"{path}: not a PyTorch checkpoint, or truncated") from None
    state, hyper_parameters = content, {}
    if isinstance(content, dict) and "state_dict" in content:
        state, hyper_parameters = content["state_dict"], content.get("hyper_parameters")
    if not isinstance(state, dict):
        raise UserError(f"{path}: contains a {type(state).__name__}, not a dict of tensors")
    state = {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}
    # A tensor may repeat a number that is stored once.
    unpacked = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    check_unpacked(path, unpacked, path.stat().st_size)
    tensors = {name: _to_numpy(torch, value) for name, value in state.items()}
    return tensors, _dict(hyper_parameters)


def _to_numpy(torch, tensor):
    if tensor.is_floating_point():
        # NumPy has no bfloat16.
        tensor = tensor.to(torch.float32)
    return np.asarray(tensor.detach())


def _dict(value):
    return dict(value) if isinstance(value, dict) else {}
