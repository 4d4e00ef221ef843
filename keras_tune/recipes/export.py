"""Export an encoder or a tagger for inference without Keras: TensorFlow Serving, ONNX, a web page.

With `--format tf_saved_model` the output folder gets the next version of the model, in the layout
of TensorFlow Serving, with its configuration and a README; with `--format onnx` it gets NAME.onnx;
with `--format web` it gets NAME/index.html, a page that tags audio files in the browser.
"""

import dataclasses
import functools
import importlib.util
import os
import pathlib
import sys
from typing import Literal

from keras_tune.errors import UserError
from keras_tune.recipes._cli import choose_backend, run
from keras_tune.recipes._folder import writes
from keras_tune.recipes._options import names_options
from keras_tune.shipped import is_shipped, shipped_names
from keras_tune.storage import local_output
from keras_tune.types import SampleRate, Samples


@dataclasses.dataclass
class ExportConfig:
    """The model to export, and the folder to write to.

    Args:
        model: A .keras file, or the folder of a run with a tagger or an encoder, from any backend;
            or an encoder that comes with the package, tune_plus_open or tune_plus_64_open.
        format: tf_saved_model, onnx or web.
        output: Folder to write to.
        name: Name of the exported model. Defaults to the model's own.
        window_samples: Window length for an encoder of any length; 59049 by default.
        sample_rate: Sample rate in Hz, for a model that has none of its own.
        index: For web, a folder of audio files, or an .npz file written by `embed`: the tracks
            among which the page finds the nearest ones.
    """

    model: str
    format: Literal["tf_saved_model", "onnx", "web"]
    output: str
    name: str | None = None
    window_samples: Samples | None = None
    sample_rate: SampleRate | None = None
    index: str | None = None


@writes("folder")
def main(config):
    """Run the command line; see `ExportConfig`."""
    if config.index is not None and config.format != "web":
        raise UserError(f"--index {config.index}: only --format web has an index")
    # Before Keras, whose import takes seconds.
    if config.format in ("onnx", "web") and not importlib.util.find_spec("onnx"):
        raise UserError(f"--format {config.format}: needs onnx: pip install 'keras_tune[onnx]'")
    if not os.path.exists(config.model) and not is_shipped(config.model):
        raise UserError(
            f"--model {config.model}: no such file or folder of a run; give one, or an encoder "
            f"that comes with the package: {' or '.join(shipped_names())}"
        )
    if "keras" not in sys.modules:
        # TensorFlow writes a SavedModel, whatever backend trained the model.
        choose_backend("tensorflow" if config.format == "tf_saved_model" else None)
    from keras_tune.evaluation import load_encoder

    source = config.model
    # A run that ended in a tagger also contains the encoder.
    tagger = pathlib.Path(source, "tagger.keras")
    if tagger.is_file():
        source = tagger
    model = load_encoder(source, config.sample_rate)
    try:
        path = _export(config, model)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"--model {config.model}: {error}") from None
    print(path)


@names_options(model=None)
def _export(config, model):
    """Write the model in the format that was asked for and return the path."""
    from keras_tune.serving import export_onnx, export_tf_serving, export_web
    from keras_tune.serving.versions import check_name

    output = local_output(config.output)
    name = check_name(config.name or model.name)
    options = {"window_samples": config.window_samples, "sample_rate": config.sample_rate}
    if config.format == "onnx":
        path = output / f"{name}.onnx"
        export_onnx(model, path, **options)
        return path
    if config.format == "tf_saved_model":
        return export_tf_serving(model, output, name, **options)
    page = export_web(model, output, name, config.index, **options)
    for file, reason in page.left_out:
        print(f"left out: {file}: {reason}", file=sys.stderr)
    return page.path


cli = functools.partial(run, main, ExportConfig)

if __name__ == "__main__":
    cli()
