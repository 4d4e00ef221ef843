"""The files of trained weights that come with the package, and how ONNX Runtime computes with them.

TensorFlow and Keras take seconds to start; ONNX Runtime takes a fraction of one. So beside the
weights of an encoder lies the same encoder as an ONNX file, written by
`keras_tune.serving.shipped_onnx`, and importing this module imports no framework.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import pathlib
from typing import TYPE_CHECKING

from keras_tune.machine import has_gpu, installed_backends

if TYPE_CHECKING:
    import numpy as np

WEIGHTS = pathlib.Path(__file__).parent / "models" / "weights"

# Windows computed at a time. More take more memory (32 take 1.3 GB) and no less time.
CHUNK = 4


class OnnxEncoder:
    """An encoder in ONNX Runtime, with what `keras_tune.evaluation.embed_clips` needs of a model.

    Args:
        path: An ONNX file that `keras_tune.serving.export_onnx` has written.

    Attributes:
        input_shape: (None, window, 1).
        output_shape: (None, d).
        sample_rate: Integer, in Hz.
        any_batch: True, since a batch may have any size.
        fingerprint: String, the SHA-256 of the file.
    """

    any_batch = True

    def __init__(self, path: str | os.PathLike):
        import onnxruntime

        content = pathlib.Path(path).read_bytes()
        options = onnxruntime.SessionOptions()
        # Threads that spin while they wait take a quarter of the processor's time.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(content, options, providers=_providers())
        about = self._session.get_modelmeta().custom_metadata_map
        self.sample_rate = int(about["sample_rate"])
        self.input_shape = (None, int(about["window_samples"]), 1)
        shapes = {output.name: output.shape for output in self._session.get_outputs()}
        self.output_shape = (None, shapes["embedding"][1])
        self.fingerprint = hashlib.sha256(content).hexdigest()

    def predict_on_batch(self, windows: np.ndarray) -> np.ndarray:
        """Compute the representations (batch, d) of windows (batch, samples, 1)."""
        import numpy as np

        waveforms = np.asarray(windows, "float32")[..., 0]
        chunks = [waveforms[at : at + CHUNK] for at in range(0, len(waveforms), CHUNK)]
        run = functools.partial(self._session.run, ["embedding"])
        return np.concatenate([run({"waveform": chunk})[0] for chunk in chunks])


def shipped_names() -> list[str]:
    """The names of the encoders whose weights come with the package, without importing Keras."""
    return sorted(file.stem for file in WEIGHTS.glob("*.safetensors"))


def is_shipped(name: str) -> bool:
    """Whether the package comes with trained weights of this name, without importing Keras."""
    return name in shipped_names()


def onnx_file(name: str) -> pathlib.Path | None:
    """The ONNX file of an encoder that comes with the package, if ONNX Runtime is to compute it.

    Returns:
        `pathlib.Path`; None if the package has no such file, if ONNX Runtime is not installed, or
        if there is a GPU that a backend of Keras may use and ONNX Runtime cannot.
    """
    found = {file.stem: file for file in WEIGHTS.glob("*.onnx")}.get(name)
    if found is None or not importlib.util.find_spec("onnxruntime"):
        return None
    if has_gpu() and installed_backends() and len(_providers()) == 1:
        return None
    return found


def _providers():
    """What ONNX Runtime computes with, the best first."""
    import onnxruntime

    available = onnxruntime.get_available_providers()
    known = ("CUDAExecutionProvider", "CPUExecutionProvider")
    return [name for name in known if name in available]
