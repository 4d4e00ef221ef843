"""The ONNX files of the encoders that come with the package.

    python -m keras_tune.serving.shipped_onnx

writes them again, beside the weights, which must be done whenever the weights change. Kernels are
stored in half precision as they are there, so that the outputs are those of Keras. The metadata
name the SHA-256 of the weights that a file was written from.
"""

import hashlib
import os
import pathlib

from keras_tune.models.presets import PRESETS
from keras_tune.models.tune import TUNe
from keras_tune.serving.onnx_export import export_onnx
from keras_tune.shipped import WEIGHTS


def write_shipped_onnx(name: str, path: str | os.PathLike | None = None) -> pathlib.Path:
    """Write the ONNX file of a preset with trained weights; by default the one that ships."""
    encoder = TUNe.from_preset(name)
    content = (WEIGHTS / str(PRESETS[name].weights)).read_bytes()
    path = pathlib.Path(path or WEIGHTS / f"{name}.onnx")
    about = {"weights_sha256": hashlib.sha256(content).hexdigest()}
    export_onnx(encoder, path, half_precision=True, metadata=about)
    return path


if __name__ == "__main__":
    for preset, about in PRESETS.items():
        if about.weights:
            print(write_shipped_onnx(preset))
