"""A static page on which a person drops an audio file and sees its tags.

The model runs in the browser, as ONNX in WebAssembly. The page consists of files only, and needs
neither a build nor any network besides the server that it came from. ONNX Runtime for browsers is
taken from npm, checked, and put beside the page.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import importlib.resources
import json
import os
import pathlib
import shutil
import string
import subprocess
import tarfile
import tempfile
from typing import Any

import keras
import numpy as np

from keras_tune.errors import UserError
from keras_tune.files import read_npz, write_text
from keras_tune.models.tune import TUNe
from keras_tune.serving.onnx_export import export_onnx, export_onnx_head, import_onnx
from keras_tune.serving.versions import check_name, write_version
from keras_tune.serving.windows import Windows
from keras_tune.shipped import WEIGHTS, is_shipped

# The sample rates in Hz at which every browser can decode audio.
RATES = (8000, 96000)
PACKAGE = "onnxruntime-web@1.30.0"
# The hash of this version's archive in the registry; another archive is not unpacked.
SHA512 = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
# Their new names have suffixes that every file server knows.
FILES = {
    "package/dist/ort.wasm.bundle.min.mjs": "ort.js",
    "package/dist/ort-wasm-simd-threaded.wasm": "ort.wasm",
}
NOTICE = f"""\
{PACKAGE}, files {", ".join(FILES)}.
Copyright (c) Microsoft Corporation. Licensed under the MIT License.
https://github.com/microsoft/onnxruntime/blob/main/LICENSE
"""


@dataclasses.dataclass(frozen=True)
class ExportedPage:
    """An exported page.

    Args:
        path: `pathlib.Path` of `index.html`.
        left_out: List of pairs of name and reason: the files that are not in the index of tracks.

    Example:

    ```python
    import pathlib
    from keras_tune.serving.web_page import ExportedPage

    ExportedPage(pathlib.Path("web/moods/index.html"), []).path.parent.name  # "moods"
    ```
    """

    path: pathlib.Path
    left_out: list[tuple[str, str]]


def export_web(
    model: keras.Model,
    folder: str | os.PathLike,
    name: str | None = None,
    index: str | os.PathLike | None = None,
    window_samples: int | None = None,
    sample_rate: int | None = None,
) -> ExportedPage:
    """Write a page that tags audio files in the browser.

    `folder/name/index.html` is the page; its other files are in `folder/name/1/`, after the next
    export in `folder/name/2/`, and so on. The page switches to a version in one step when it is
    complete; earlier ones are not changed. Any file server can serve the folder.

    Args:
        model: Keras model from (batch, samples, 1) to (batch, d), or a `Tagger`. The page of an
            encoder only shows the nearest tracks.
        folder: The folder to write to.
        name: String of letters, digits, `_`, `-` and `.`. Defaults to the model's name.
        index: Folder of audio files, or an .npz file written by the recipe `embed`: the tracks
            among which the page finds the nearest to a file. Defaults to None: no such list.
        window_samples: Integer, as in `export_onnx`. Defaults to None.
        sample_rate: Integer, in Hz. Defaults to the encoder's own.

    Returns:
        `ExportedPage`.

    Raises:
        UserError: The package onnx or npm is not installed, or the index cannot be used.
        ValueError: The name cannot be used, the model is not an encoder, has windows of another
            length, or a sample rate at which browsers cannot decode audio, or it is a tagger of
            values, which are not scores between 0 and 1.

    Example:

    ```python
    page = keras_tune.serving.export_web(tagger, "web", index="music")
    page.path  # web/tagger/index.html, for `python -m http.server`
    ```
    """
    name = check_name(model.name if name is None else name)
    windows = Windows.of(model, window_samples, sample_rate)
    low, high = RATES
    if not low <= windows.sample_rate <= high:
        raise ValueError(
            f"`sample_rate` must be between {low} and {high}, the rates at which browsers decode "
            f"audio. Received: sample_rate={windows.sample_rate}"
        )
    if windows.activation == "linear":
        raise ValueError(
            "`model` must have scores between 0 and 1, which the page shows as colours. "
            f"Received: a tagger of values, {', '.join(windows.label_names)}"
        )
    # Embedding an index takes long, so what is missing is named first.
    import_onnx()
    find_npm()
    tagger = windows.labels is not None
    tracks, vectors = None, None
    left_out: list[tuple[str, str]] = []
    if index is not None:
        encoder = model.encoder if tagger else model
        tracks, vectors, left_out = track_index(index, encoder, windows)

    sources = importlib.resources.files("keras_tune.serving") / "web"

    def write(version):
        vendor_onnxruntime_web(version / "onnxruntime")
        options = {"window_samples": windows.samples, "sample_rate": windows.sample_rate}
        export_onnx(model, version / "model.onnx", **options)
        if tagger:
            export_onnx_head(model, version / "head.onnx")
        if tracks is not None:
            # Base64 of float32 is shorter than decimal numbers.
            octets = np.ascontiguousarray(vectors, "<f4").tobytes()
            content = {"tracks": tracks, "vectors": base64.b64encode(octets).decode()}
            _write_json(version / "index.json", content)
        about = {
            "sampleRate": windows.sample_rate,
            "windowSamples": windows.samples,
            "dimensions": windows.dimensions,
            "labels": windows.labels or [],
            "pooling": windows.pooling,
            "index": tracks is not None,
        }
        _write_json(version / "page.json", about)
        for file in sources.iterdir():
            if file.name.endswith((".css", ".js")):
                (version / file.name).write_bytes(file.read_bytes())

    home = pathlib.Path(folder) / name
    version, _ = write_version(home, write)
    tagline = "See what a file sounds like, moment by moment." if tagger else "Find its like."
    template = string.Template((sources / "index.html").read_text(encoding="utf-8"))
    page = template.substitute(title=name, version=version.name, tagline=tagline)
    write_text(home / "index.html", page)
    return ExportedPage(home / "index.html", left_out)


def _write_json(path: pathlib.Path, content: Any) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def track_index(
    source: str | os.PathLike, encoder: keras.Model, windows: Windows
) -> tuple[list[str], np.ndarray, list[tuple[str, str]]]:
    """Make a small index of tracks: embed a folder of audio files, or read their embeddings.

    Embeddings are read from an .npz file with `ids` and `vectors` (tracks, d), as the recipe
    `embed` writes it.

    Returns:
        The tracks' names, their embeddings divided by their norms, float32 (tracks, d), and pairs
        of name and reason of the files left out.

    Raises:
        UserError: The source does not exist, is empty, or has embeddings of another encoder.
    """
    source = pathlib.Path(source)
    if source.is_dir():
        names, vectors, left_out = _embed(source, encoder, windows)
    else:
        names, vectors = _read(source, encoder)
        left_out = []
    if vectors.ndim != 2 or vectors.shape != (len(names), windows.dimensions) or not names:
        raise _index_error(
            source,
            f"must have one vector of {windows.dimensions} numbers for each track, not an array of "
            f"the shape {vectors.shape} for {len(names)} tracks",
        )
    if not np.isfinite(vectors).all():
        raise _index_error(source, "must be finite; a vector contains NaN or infinity")
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return names, (vectors / np.where(norms > 0, norms, 1)).astype("float32"), left_out


def _index_error(source, problem):
    return UserError(f"`index` {problem}. Received: index={source}")


def _read(source, encoder):
    try:
        content = read_npz(source)
        ids, vectors = content["ids"].astype(str), content["vectors"].astype("float64")
    except (ValueError, KeyError) as error:
        raise _index_error(
            source,
            f"must be a folder of audio files, or an .npz file written by `embed` ({error})",
        ) from None
    if "encoder" in content and str(content["encoder"]) not in _fingerprints(encoder):
        raise _index_error(source, "must have embeddings of the same encoder, not of another one")
    if "owners" in content:
        raise _index_error(source, "must have one vector for each track: embed with pool=mean")
    if ids.ndim != 1:
        raise _index_error(source, f"must have a list of ids, not an array of shape {ids.shape}")
    return ids.tolist(), vectors


def _fingerprints(encoder):
    """What `embed` may call the encoder: with ONNX Runtime one that ships has another name."""
    from keras_tune.evaluation.encoders import encoder_fingerprint

    found = {encoder_fingerprint(encoder)}
    if is_shipped(encoder.name):
        file = WEIGHTS / f"{encoder.name}.onnx"
        if encoder_fingerprint(TUNe.from_preset(encoder.name)) in found and file.is_file():
            found.add(hashlib.sha256(file.read_bytes()).hexdigest())
    return found


def _embed(folder, encoder, windows):
    from keras_tune.data.audio import AudioError, load_audio
    from keras_tune.data.datasets.folder import audio_files
    from keras_tune.evaluation.embeddings import TooShortError, embed_clips

    left_out = []

    def records():
        for file in names:
            try:
                audio = load_audio(folder / file, windows.sample_rate, windows.samples)
            except AudioError as error:
                left_out.append((file.as_posix(), error.reason))
            else:
                yield {"id": file.as_posix(), "audio": audio, "labels": {}}

    names = audio_files(folder)
    try:
        clips = embed_clips(encoder, records(), window_samples=windows.samples)
    except TooShortError:
        # Files that are too short were left out before, so there was no clip.
        found = f"; {left_out[0][0]}: {left_out[0][1]}" if left_out else ""
        raise _index_error(folder, f"must contain an audio file that can be used{found}") from None
    return clips.ids, np.asarray(clips.vectors, "float64"), left_out


def find_npm() -> str:
    """The path of the program npm; raises a `UserError` if it is not installed."""
    npm = shutil.which("npm")
    if npm is None:
        raise UserError(
            "npm, which downloads ONNX Runtime for the page, is not installed; install Node.js"
        )
    return npm


def vendor_onnxruntime_web(folder: pathlib.Path) -> None:
    """Put the script and the WebAssembly of ONNX Runtime into a folder.

    npm gets the package from its cache or its registry. No code of the package is run.
    """
    npm = find_npm()
    with tempfile.TemporaryDirectory() as temporary:
        done = subprocess.run(
            [npm, "pack", PACKAGE, "--ignore-scripts", "--loglevel=error"],
            cwd=temporary,
            env={**os.environ, "npm_config_update_notifier": "false"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        archives = list(pathlib.Path(temporary).glob("*.tgz"))
        if done.returncode or len(archives) != 1:
            lines = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
            raise UserError(f"npm cannot fetch {PACKAGE} ({lines[0]})")
        content = archives[0].read_bytes()
        if base64.b64encode(hashlib.sha512(content).digest()).decode() != SHA512:
            raise UserError(f"the archive that npm fetched is not the known {PACKAGE}")
        folder.mkdir(parents=True, exist_ok=True)
        with tarfile.open(archives[0]) as archive:
            for source, target in FILES.items():
                file = archive.extractfile(source)
                assert file is not None, f"{source} is a file of the known archive"
                with file:
                    (folder / target).write_bytes(file.read())
    (folder / "NOTICE.txt").write_text(NOTICE, encoding="utf-8")
