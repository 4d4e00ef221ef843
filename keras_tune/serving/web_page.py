"""A static page on which a person drops an audio file and sees its tags.

The model runs in the browser, as ONNX in WebAssembly. The page consists of files only, needs no
network but the server that it came from, and no build.
"""

import dataclasses
import importlib.resources
import json
import pathlib
import string

from keras_tune.errors import UserError
from keras_tune.files import write_text
from keras_tune.serving.onnx_export import export_onnx, export_onnx_head
from keras_tune.serving.onnxruntime_web import vendor_onnxruntime_web
from keras_tune.serving.track_index import index_content, track_index
from keras_tune.serving.versions import check_name, write_version
from keras_tune.serving.windows import Windows

# What every browser's audio decoder has to offer, in Hz.
RATES = (8000, 96000)


@dataclasses.dataclass(frozen=True)
class ExportedPage:
    """Where an exported page lies.

    Args:
        path: `pathlib.Path` of `index.html`.
        left_out: List of pairs of name and reason, files that the index of tracks lacks.
    """

    path: pathlib.Path
    left_out: list


def export_web(model, folder, name=None, index=None, window_samples=None, sample_rate=None):
    """Write a page that tags audio files in the browser.

    `folder/name/index.html` is the page; all else that it needs lies in `folder/name/1/`, after the
    next export in `folder/name/2/`, and so on. The page changes to a version in one step, when that
    is complete; earlier ones are not touched. Any file server does.

    Args:
        model: Keras model from (batch, samples, 1) to (batch, d), or a `Tagger`. The page of an
            encoder shows the nearest tracks only.
        folder: Where to write.
        name: String of letters, digits, `_`, `-` and `.`. Defaults to the model's name.
        index: Folder of audio files, or an .npz file of `recipes.embed`: the tracks among which the
            page finds the nearest to a file. Defaults to None: there is no such list.
        window_samples: Integer, for an encoder of any length; see `export_onnx`.
        sample_rate: Integer, in Hz. Defaults to the encoder's own.

    Returns:
        `ExportedPage`.

    Raises:
        UserError: The package onnx or npm is missing, the name or the index does not do, or the
            sample rate is not one of browsers.
        ValueError: The model is no encoder, or has windows of another length.

    Example:

    ```python
    page = keras_tune.serving.export_web(tagger, "/tmp/web", index="music")
    page.path  # /tmp/web/tagger/index.html, for `python -m http.server`
    ```
    """
    name = check_name(model.name if name is None else name)
    windows = Windows.of(model, window_samples, sample_rate)
    low, high = RATES
    if not low <= windows.sample_rate <= high:
        raise UserError(
            f"--sample_rate {windows.sample_rate}: browsers decode audio at {low} to {high} Hz"
        )
    tagger = windows.labels is not None
    tracks, vectors, left_out = None, None, []
    if index is not None:
        encoder = model.encoder if tagger else model
        tracks, vectors, left_out = track_index(index, encoder, windows)

    def write(version):
        vendor_onnxruntime_web(version / "onnxruntime")
        options = {"window_samples": windows.samples, "sample_rate": windows.sample_rate}
        export_onnx(model, version / "model.onnx", **options)
        if tagger:
            export_onnx_head(model, version / "head.onnx")
        if tracks is not None:
            _write_json(version / "index.json", index_content(tracks, vectors))
        about = {
            "sampleRate": windows.sample_rate,
            "windowSamples": windows.samples,
            "dimensions": windows.dimensions,
            "labels": windows.labels or [],
            "pooling": windows.pooling,
            "index": tracks is not None,
        }
        _write_json(version / "page.json", about)
        for file in _sources():
            if file.name != "index.html":
                (version / file.name).write_bytes(file.read_bytes())

    home = pathlib.Path(folder) / name
    version, _ = write_version(home, write)
    (template,) = (file for file in _sources() if file.name == "index.html")
    tagline = "See what a file sounds like, moment by moment." if tagger else "Find its like."
    page = string.Template(template.read_text(encoding="utf-8")).substitute(
        title=name, version=version.name, tagline=tagline
    )
    write_text(home / "index.html", page)
    return ExportedPage(home / "index.html", left_out)


def _sources():
    folder = importlib.resources.files("keras_tune.serving") / "web"
    return [file for file in folder.iterdir() if file.name.endswith((".html", ".css", ".js"))]


def _write_json(path, content):
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
