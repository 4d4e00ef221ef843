"""Folders that TensorFlow Serving loads: models, versions, warm-up requests, configuration."""

from __future__ import annotations

import io
import os
import pathlib
import wave

import keras
import numpy as np

from keras_tune.files import write_json, write_text
from keras_tune.serving.saved_model import export_saved_model
from keras_tune.serving.versions import check_name, version_numbers, write_version

# Requests of the same length are batched. Padding would change the embeddings.
BATCHING = """\
max_batch_size { value: 32 }
batch_timeout_micros { value: 5000 }
num_batch_threads { value: 2 }
max_enqueued_batches { value: 64 }
"""

README = """\
# Models for TensorFlow Serving

    docker run -p 8500:8500 -p 8501:8501 -v "$PWD:/models" tensorflow/serving \\
        --model_config_file=/models/models.config

run in this folder serves {names}. A new version that appears in a model's folder is loaded without
a restart. `--enable_batching --batching_parameters_file=/models/batching.config` puts requests of
the same length together; an error in one request then fails those it was put together with.

| signature | input | outputs |
|---|---|---|
| `serving_default` | `waveform`, float32 (batch, samples), mono, full scale 1, {rate} Hz | `embedding` (batch, {size}), the mean over windows |
| `windows` | the same | `embedding` (batch, windows, {size}), `start` of each window in seconds |
| `wav` | `wav`, bytes of WAV files, PCM or floats, of any rate and number of channels | as `serving_default` |

Taggers also give `scores` and `labels`. Clips are cut into windows of {window} samples; shorter ones
are refused.

Tested without a server: the outputs are compared with Keras, the model is loaded in a process without
Keras, through TensorFlow's C API and in saved_model_cli, the warm-up requests are replayed, the
configurations parsed, and this client runs against a replacement of the server. The server itself, its
REST interface and batching were not tested. See docs/serving.md of keras_tune.

Score a WAV file:

    (printf '{{"signature_name": "wav", "instances": [{{"b64": "'; base64 -w0 clip.wav; printf '"}}]}}') |
        curl -d @- http://localhost:8501/v1/models/{name}:predict

In Python (`pip install requests`):

```python
import base64
import sys

import requests

URL = "http://localhost:8501/v1/models/{name}:predict"


def ask(paths):
    instances = []
    for path in paths:
        with open(path, "rb") as file:
            instances.append({{"b64": base64.b64encode(file.read()).decode()}})
    reply = requests.post(URL, json={{"signature_name": "wav", "instances": instances}}, timeout=60)
    if not reply.ok:
        sys.exit(reply.json()["error"])
    return reply.json()["predictions"]


for path, answer in zip(sys.argv[1:], ask(sys.argv[1:])):
    print(path, answer)
```
"""  # noqa: E501


def export_tf_serving(
    model: keras.Model,
    folder: str | os.PathLike,
    name: str | None = None,
    window_samples: int | None = None,
    sample_rate: int | None = None,
) -> pathlib.Path:
    """Write the next version of a model into a folder that TensorFlow Serving serves.

    `folder/name/1/` is the first version, `folder/name/2/` the next, and so on. A version is
    written under another name and renamed when it is complete, so a server that watches the folder
    never sees a part of one, and earlier versions are never changed. The folder also contains
    `models.config`, `batching.config` and a `README.md` with the command that serves the models.

    Args:
        model: Keras model from (batch, samples, 1) to (batch, d), or a `Tagger`.
        folder: The folder of the models.
        name: String of letters, digits, `_`, `-` and `.`. Defaults to the model's name.
        window_samples: Integer, as in `export_saved_model`. Defaults to None.
        sample_rate: Integer, in Hz. Defaults to the encoder's own.

    Returns:
        `pathlib.Path` of the version.

    Raises:
        UserError: TensorFlow is not installed or fails.
        ValueError: The name cannot be used, or the model is not an encoder or has windows of
            another length.

    Example:

    ```python
    version = keras_tune.serving.export_tf_serving(tagger, "models", name="moods")
    version.name  # "1"
    ```
    """
    name = check_name(model.name if name is None else name)
    folder = pathlib.Path(folder)

    def write(temporary):
        about = export_saved_model(model, temporary, window_samples, sample_rate)
        extra = temporary / "assets.extra"
        extra.mkdir()
        _write_warmup(extra / "tf_serving_warmup_requests", name, about)
        write_json(extra / "keras_tune.json", about)
        return about

    version, about = write_version(folder / name, write)
    names = sorted(
        path.name for path in folder.iterdir() if path.is_dir() and version_numbers(path)
    )
    write_text(folder / "models.config", _models_config(names))
    write_text(folder / "batching.config", BATCHING)
    text = README.format(
        names=", ".join(f"`{n}`" for n in names),
        name=name,
        rate=f"{about['sample_rate']:,}",
        size=about["embedding"],
        window=f"{about['window_samples']:,}",
    )
    write_text(folder / "README.md", text)
    return version


def _models_config(names):
    entries = "".join(
        f'  config {{\n    name: "{name}"\n    base_path: "/models/{name}"\n'
        '    model_platform: "tensorflow"\n  }\n'
        for name in names
    )
    return f"model_config_list {{\n{entries}}}\n"


def _write_warmup(path, name, about):
    """Write a request for each signature, which a server answers before it serves the version."""
    import tensorflow as tf

    silence = np.zeros((1, about["window_samples"]), "float32")
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(about["sample_rate"])
        file.writeframes(silence.astype("int16").tobytes())
    with tf.io.TFRecordWriter(str(path)) as writer:
        for signature in about["signatures"]:
            key, value = "waveform", silence
            if signature == "wav":
                key, value = "wav", np.array([buffer.getvalue()], object)
            writer.write(_prediction_log(name, signature, key, tf.make_tensor_proto(value)))


def _prediction_log(name, signature, key, tensor):
    """The bytes of a PredictionLog with a PredictRequest.

    Written by hand, so that exporting does not need tensorflow-serving-api. The numbers are those
    of the fields in prediction_log.proto, predict.proto and model.proto of TensorFlow Serving.
    """
    model_spec = _field(1, name.encode()) + _field(3, signature.encode())
    entry = _field(1, key.encode()) + _field(2, tensor.SerializeToString())
    request = _field(1, model_spec) + _field(2, entry)
    predict_log = _field(1, request)
    return _field(6, predict_log)


def _field(number, content):
    """A length-delimited field of a protocol buffer."""
    length, rest = b"", len(content)
    while rest > 127:
        length += bytes([rest & 127 | 128])
        rest >>= 7
    return bytes([number << 3 | 2]) + length + bytes([rest]) + content
