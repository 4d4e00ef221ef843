"""Published checkpoints to Keras models and back.

Files are in PyTorch's own format or safetensors. Either package is imported only when a file needs
it.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import pathlib
import re
import warnings
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_tune.checks import check_archive, check_finite, check_unpacked, check_weights
from keras_tune.errors import UserError
from keras_tune.files import atomic_path
from keras_tune.interop.tensor_names import dense_tensors, encoder_tensors, infer_architecture
from keras_tune.models.tagger import Tagger
from keras_tune.models.tune import TUNe
from keras_tune.training.contrastive_model import ContrastiveModel
from keras_tune.types import DEFAULT_WINDOW

# The number of batches, which PyTorch counts and Keras does not; a fixed momentum needs none.
COUNTER = "num_batches_tracked"
# The published code tells Lightning files from flat ones by this key; the value is the version of
# PyTorch Lightning with which its authors worked.
LIGHTNING_VERSION = {"pytorch-lightning_version": "1.8.0.post1"}


def load_pytorch_checkpoint(
    path: str | os.PathLike,
    preset: str | None = None,
    head: str | os.PathLike | None = None,
    projector: bool = False,
    input_samples: int | None = DEFAULT_WINDOW,
    data_format: str | None = None,
    **options: Any,
) -> TUNe | ContrastiveModel | Tagger:
    """Load a checkpoint of CLMR's or TUNe's published PyTorch code.

    Args:
        path: A PyTorch Lightning `.ckpt`, a flat `.pt` of CLMR v1, or either's tensors as
            `.safetensors`, which needs no PyTorch.
        preset: One of `keras_tune.models.PRESETS`, which the file must fit; None to infer the
            variant from the shapes of the tensors. Defaults to None.
        head: A second checkpoint, of a linear evaluation, whose head (linear or with a hidden
            layer) is put on the encoder; `path` itself if it contains both. Defaults to None.
        projector: Whether to keep the projection head, to continue training. Defaults to False.
        input_samples: Integer, the length of the waveform, or None for any length. Defaults to
            59,049.
        data_format: "channels_last", "channels_first" or None for the backend's faster one.
            Defaults to None.
        **options: Further arguments of the model that is returned, if that is a `ContrastiveModel`
            (such as `augmenter`) or a `Tagger` (`labels`).

    Returns:
        A `TUNe`; with `projector=True` a `ContrastiveModel` with that encoder, at the temperature
        that the file names; with `head` a `Tagger` of the encoder and the head.

    Raises:
        UserError: A file cannot be read, would run code, lacks the encoder, projector or head, or
            does not fit the preset: the message names the first tensor that differs and both
            shapes. Or a tensor is not finite.
        ValueError: Both `projector` and `head` are given, or `options` without one of them.

    Source: the formats of github.com/Marcel-Velez/TUNe and github.com/Spijkervet/CLMR.

    Example:

    ```python
    from keras_tune.interop import export_pytorch_checkpoint, load_pytorch_checkpoint

    encoder = keras_tune.TUNe.from_preset("tune_plus_32", load_weights=False)
    model = keras_tune.training.ContrastiveModel(encoder, temperature=0.1)
    export_pytorch_checkpoint(model, "model.safetensors")
    load_pytorch_checkpoint("model.safetensors").name  # "tune_plus_32"
    load_pytorch_checkpoint("model.safetensors", projector=True).temperature  # 0.1
    ```
    """
    if head is not None and projector:
        raise ValueError(
            "`projector` must be False if there is a `head`: a tagger has no projector. "
            f"Received: projector={projector}"
        )
    if options and head is None and not projector:
        raise ValueError(
            "further arguments need `head` or `projector`; an encoder has none. "
            f"Received: {', '.join(sorted(options))}"
        )
    tensors, hyper_parameters = _read(path)
    encoder_part, projector_part, head_part = _split(path, tensors)
    if not encoder_part:
        only = "only a head; give it as the head of an encoder" if head_part else "no encoder"
        raise UserError(f"{path}: contains {only}")
    encoder = _build(
        path,
        encoder_part,
        preset,
        input_samples=input_samples,
        data_format=data_format,
        **_input_settings(hyper_parameters),
    )
    if projector:
        return _contrastive(path, encoder, projector_part, hyper_parameters, options)
    if head is not None:
        *_, head_part = _split(head, _read(head)[0])
        return _tagger(head, encoder, head_part, options)
    return encoder


def export_pytorch_checkpoint(
    model: TUNe | ContrastiveModel | Tagger, path: str | os.PathLike
) -> None:
    """Write a model as the published PyTorch code does: a Lightning checkpoint.

    Its `state_dict` has the encoder under `model.encoder.` and again under `encoder.`, a projection
    head under `model.projector.` and a tagger's head under `model.`. Loaded with
    `load_pytorch_checkpoint`, the file gives the same weights, bit for bit, and the same level and
    sample rate.

    Args:
        model: A `TUNe`, or a `ContrastiveModel` or `Tagger` of one.
        path: The file to write, in one step: safetensors with the suffix `.safetensors`, which
            needs no PyTorch, else a `.ckpt` or `.pt`.

    Raises:
        UserError: The package that writes such files is not installed, the suffix is another, or a
            weight is not finite.
        ValueError: The model, or its encoder, is of another kind, or has pooled stages.

    Example:

    ```python
    encoder = keras_tune.TUNe.from_preset("tune_plus", load_weights=False)
    keras_tune.interop.export_pytorch_checkpoint(encoder, "tune_plus.safetensors")
    ```
    """
    if not str(path).endswith((".ckpt", ".pt", ".pth", ".safetensors")):
        raise UserError(f"{path}: unknown suffix; use .ckpt, .pt, .pth or .safetensors")
    encoder = model if isinstance(model, TUNe) else getattr(model, "encoder", None)
    if not isinstance(model, (TUNe, ContrastiveModel, Tagger)) or not isinstance(encoder, TUNe):
        raise ValueError(
            "`model` must be a TUNe, or a ContrastiveModel or Tagger of one. "
            f"Received: model={model}"
        )
    if encoder.pooled_stages:
        raise ValueError(
            "`model` must have `pooled_stages=0`, as the published modules; see "
            "`keras_tune.models.with_pooled_stages`. "
            f"Received: pooled_stages={encoder.pooled_stages}"
        )
    check_weights(path, model)
    arrays = {name: _to_torch_layout(v) for name, v in encoder_tensors(encoder).items()}
    for name in [name for name in arrays if name.endswith("running_var")]:
        arrays[name.replace("running_var", COUNTER)] = np.array(0, "int64")
    tensors = {
        prefix + name: array
        for prefix in ("model.encoder.", "encoder.")
        for name, array in arrays.items()
    }
    hyper_parameters: dict[str, Any] = {"model": encoder.name, "sample_rate": encoder.sample_rate}
    if encoder.level is not None:
        hyper_parameters["level"] = encoder.level
        warnings.warn(
            f"{path}: the published PyTorch code does not bring waveforms to one level; bring them "
            f"to a root mean square of {encoder.level} before this encoder",
            stacklevel=2,
        )
    if isinstance(model, ContrastiveModel):
        if model.projection_batch_norm:
            raise ValueError(
                "`model` must have `projection_batch_norm=False`, as the published modules; its "
                "encoder can be exported. Received: projection_batch_norm=True"
            )
        for name, variable in dense_tensors(model.projector.layers).items():
            tensors[f"model.projector.{name}"] = _to_torch_layout(variable)
        hyper_parameters["temperature"] = float(model.temperature)
        hyper_parameters["projection_dim"] = int(model.projection_dim)
    if isinstance(model, Tagger):
        names = dense_tensors(model.head.layers)
        for name, values in zip(names, model.head_weights(), strict=True):
            tensors[f"model.{name}"] = _to_torch_layout(values)
    _write(path, tensors, hyper_parameters)


def _to_torch_layout(variable):
    return np.ascontiguousarray(keras.ops.convert_to_numpy(variable).astype("float32").T)


class _Tensor(NamedTuple):
    """A tensor and what its file calls it."""

    name: str
    array: np.ndarray


def _split(path, tensors):
    """The tensors of encoder, projector and head, each a dict from a name to `_Tensor`."""
    tensors = {name: array for name, array in tensors.items() if not name.endswith(COUNTER)}
    # A flat file without any prefix is the state of the encoder alone.
    prefix = next(
        p for p in ("model.encoder.", "encoder.", "") if any(n.startswith(p) for n in tensors)
    )
    encoder, projector, head, fully_connected = {}, {}, {}, {}
    for name, array in tensors.items():
        tensor = _Tensor(name, array)
        if match := re.fullmatch(r"(?:model\.)?projector\.(\d+\.\w+)", name):
            projector[match[1]] = tensor
        elif match := re.fullmatch(r"model\.(\d+\.\w+)", name):
            head[match[1]] = tensor
        elif name.startswith(prefix + "fc."):
            # The encoder's own last layer, present where it was trained with supervision.
            fully_connected["0." + name.removeprefix(prefix + "fc.")] = tensor
        elif name.startswith(prefix):
            encoder[name.removeprefix(prefix)] = tensor
        elif not name.startswith("encoder."):
            raise UserError(f"{path}: tensor {name} {array.shape} does not belong to the model")
    return encoder, projector, head or fully_connected


def _input_settings(hyper_parameters):
    """The level and the sample rate that `export_pytorch_checkpoint` has written, if it has."""
    level, rate = (hyper_parameters.get(key) for key in ("level", "sample_rate"))
    settings = {}
    if isinstance(level, (int, float)) and 0 < level < math.inf:
        settings["level"] = level
    if isinstance(rate, int) and rate > 0:
        settings["sample_rate"] = rate
    return settings


def _build(path, tensors, preset, **options):
    shapes = {name: tensor.array.shape for name, tensor in tensors.items()}
    if preset is None:
        try:
            encoder = TUNe(**infer_architecture(shapes), **options)
        except ValueError as error:
            if str(error).startswith("`input_samples`"):
                raise
            # There is no encoder among the tensors, or they have a form that no encoder has.
            raise UserError(f"{path}: {error}") from None
    else:
        encoder = TUNe.from_preset(preset, load_weights=False, pooled_stages=0, **options)
    try:
        _assign(path, encoder_tensors(encoder), tensors, encoder.name)
    except UserError as error:
        raise UserError(f"{error}{_better(shapes, preset)}") from None
    return encoder


def _better(shapes, preset):
    """Name the preset that a file fits where it does not fit the given one."""
    try:
        inferred = infer_architecture(shapes)["name"]
    except UserError:
        return ""
    return f"; its shapes are those of {inferred}" if inferred not in (preset, "tune") else ""


def _contrastive(path, encoder, tensors, hyper_parameters, options):
    last = max((int(name.split(".")[0]) for name in tensors), default=None)
    if last is None or f"{last}.weight" not in tensors:
        raise UserError(f"{path}: contains no projector (no model.projector.2.weight)")
    temperature = hyper_parameters.get("temperature")
    if isinstance(temperature, (int, float)):
        options = {"temperature": float(temperature), **options}
    head = {
        "projection_dim": tensors[f"{last}.weight"].array.shape[0],
        "projection_layers": last // 2,
    }
    model = ContrastiveModel(encoder, **{**head, **options})
    # All its weights exist; a model that is not built gives a warning when saved, and no counts.
    model.build()
    _assign(path, dense_tensors(model.projector.layers), tensors, "the projector")
    return model


def _tagger(path, encoder, tensors, options):
    if "0.weight" not in tensors:
        raise UserError(f"{path}: contains no head (no model.0.weight)")
    hidden = tensors["0.weight"].array.shape[0] if "2.weight" in tensors else None
    logits = tensors["2.weight" if hidden else "0.weight"].array.shape[0]
    try:
        tagger = Tagger(encoder, num_labels=logits, hidden_units=hidden, **options)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None
    _assign(path, dense_tensors(tagger.head.layers), tensors, f"a head on {encoder.name}")
    return tagger


def _assign(path, variables, tensors, model):
    """Assign values to variables, or raise an error that names the first tensor that differs."""
    for name, variable in variables.items():
        expected = tuple(reversed(variable.shape))
        if name not in tensors:
            raise UserError(
                f"{path}: does not fit {model}: tensor {name} {expected} of the model is missing"
            )
        tensor = tensors[name]
        if tensor.array.shape != expected:
            raise UserError(
                f"{path}: does not fit {model}: tensor {tensor.name} has the shape "
                f"{tensor.array.shape} in the file and {expected} in the model"
            )
    surplus = next((tensor for name, tensor in tensors.items() if name not in variables), None)
    if surplus is not None:
        raise UserError(
            f"{path}: does not fit {model}: tensor {surplus.name} {surplus.array.shape} "
            "of the file is not part of the model"
        )
    with np.errstate(over="ignore"):
        # Values beyond float32 become infinite.
        arrays = {name: tensors[name].array.astype("float32") for name in variables}
    check_finite(path, ((f"tensor {tensors[name].name}", arrays[name]) for name in variables))
    for name, variable in variables.items():
        variable.assign(arrays[name].T)


def _read(path):
    """The tensors of a checkpoint, as NumPy arrays by name, and its dict of hyper-parameters.

    No code that the file may contain is run.
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
    return tensors, hyper_parameters if isinstance(hyper_parameters, dict) else {}


def _write(path, tensors, hyper_parameters):
    """Write safetensors if the suffix is `.safetensors`, else a Lightning checkpoint.

    An array under two names is stored once in a Lightning checkpoint.
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
        **LIGHTNING_VERSION,
        "state_dict": {name: shared[id(array)] for name, array in tensors.items()},
        "hyper_parameters": hyper_parameters,
    }
    with atomic_path(path) as temporary:
        torch.save(content, temporary)


def _import(module, path):
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
        hyper_parameters = None
    return tensors, hyper_parameters


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
    state, hyper_parameters = content, None
    if isinstance(content, dict) and "state_dict" in content:
        state, hyper_parameters = content["state_dict"], content.get("hyper_parameters")
    if not isinstance(state, dict):
        raise UserError(f"{path}: contains a {type(state).__name__}, not a dict of tensors")
    state = {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}
    # A tensor may repeat a number that is stored once.
    unpacked = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    check_unpacked(path, unpacked, path.stat().st_size)
    # NumPy has no bfloat16.
    tensors = {
        name: np.asarray((value.float() if value.is_floating_point() else value).detach())
        for name, value in state.items()
    }
    return tensors, hyper_parameters
