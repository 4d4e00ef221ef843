"""TensorFlow SavedModels that take clips of any length, and WAV files."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING, Any

from keras_tune.checks import check_weights
from keras_tune.errors import UserError
from keras_tune.serving.folding import fold_batch_norm
from keras_tune.serving.wav import load_wav, require
from keras_tune.serving.windows import MAX_LEVEL, MAX_SAMPLES, Windows

# This many windows at a time limit the memory of a long clip without a loss of speed.
WINDOWS_AT_ONCE = 32

if TYPE_CHECKING:
    import keras
    import tensorflow as tf


def export_saved_model(
    model: keras.Model,
    path: str | os.PathLike,
    window_samples: int | None = None,
    sample_rate: int | None = None,
) -> dict[str, Any]:
    """Write an encoder or a tagger as a SavedModel of plain TensorFlow operations.

    Batch normalization is folded into the convolutions. Batch and length are dynamic; clips are cut
    into consecutive windows within the graph, and a remainder is dropped. Signatures:

    | signature | input | outputs |
    |---|---|---|
    | `serving_default` | `waveform`, float32 (batch, samples) | `embedding` (batch, d), the mean over windows |
    | `windows` | `waveform`, float32 (batch, samples) | `embedding` (batch, windows, d), `start` (batch, windows) in seconds |
    | `wav` | `wav`, bytes (batch,) of WAV files, PCM or floats, of any rate and number of channels | `embedding` (batch, d) |

    Those of a tagger also have `scores` (batch, labels), or (batch, windows, labels), and `labels`
    (batch, labels), strings. Requests that are shorter than a window, have samples that are not
    finite or beyond 100 times full scale, are larger than 64 MiB or are not a WAV file end in an
    error.

    Args:
        model: Keras model from (batch, samples, 1) to (batch, d), or a `Tagger`.
        path: The folder to write to; it must not exist, or must be empty.
        window_samples: Integer, the length of a window, for an encoder of any length. Defaults to
            the encoder's own length, and 59,049 for one of any length.
        sample_rate: Integer, the rate in Hz to which WAV files are resampled. Defaults to the
            encoder's own.

    Returns:
        Dict that describes the model: `signatures`, `window_samples`, `sample_rate`, `embedding`
        (its size) and `labels`.

    Raises:
        UserError: TensorFlow is not installed, or cannot export the model.
        ValueError: The model is not an encoder, or has windows of another length.

    Example:

    ```python
    import tensorflow as tf

    keras_tune.serving.export_saved_model(encoder, "encoder")
    loaded = tf.saved_model.load("encoder")
    clips = np.random.normal(0, 0.1, (2, 5000)).astype("float32")
    loaded.signatures["serving_default"](waveform=tf.constant(clips))["embedding"]
    ```
    """  # noqa: E501
    import keras

    windows = Windows.of(model, window_samples, sample_rate)
    check_weights("`model`", model)
    if keras.backend.backend() == "tensorflow":
        _write(model, path, windows)
    else:
        _write_elsewhere(model, path, windows)
    return {
        "signatures": ["serving_default", "windows", "wav"],
        "window_samples": windows.samples,
        "sample_rate": windows.sample_rate,
        "embedding": windows.dimensions,
        "labels": None if windows.labels is None else list(windows.labels),
    }


def _write_elsewhere(model, path, windows):
    """Export in a process in which TensorFlow is the backend of Keras.

    PyTorch cannot write SavedModels, and those of JAX are calls of compiled programs.
    """
    script = "import sys; from keras_tune.serving.saved_model import _write_file; "
    script += "_write_file(*sys.argv[1:])"
    package = pathlib.Path(__file__).resolve().parents[2]
    search = os.pathsep.join(filter(None, [str(package), os.environ.get("PYTHONPATH")]))
    environment = {
        "TF_CPP_MIN_LOG_LEVEL": "2",
        **os.environ,
        "KERAS_BACKEND": "tensorflow",
        "PYTHONPATH": search,
    }
    with tempfile.TemporaryDirectory() as folder:
        saved = pathlib.Path(folder) / "model.keras"
        model.save(saved)
        options = json.dumps([windows.samples, windows.sample_rate])
        done = subprocess.run(
            [sys.executable, "-c", script, str(saved), str(path), options],
            env=environment,
            capture_output=True,
            text=True,
        )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
        raise UserError(f"{path}: the export with TensorFlow failed ({lines[-1]})")


def _write_file(saved, path, options):
    import keras

    model = keras.models.load_model(saved, compile=False)
    _write(model, path, Windows.of(model, *json.loads(options)))


def _write(model, path, windows):
    try:
        import tensorflow as tf
    except ImportError:
        raise UserError("a SavedModel needs TensorFlow: pip install tensorflow") from None
    import keras

    folded = fold_batch_norm(model)
    endpoints = Endpoints(folded, windows)
    waveform = tf.TensorSpec((None, None), tf.float32, name="waveform")
    archive = keras.export.ExportArchive()
    archive.track(folded)
    archive.add_endpoint("serving_default", endpoints.clips, input_signature=[waveform])
    archive.add_endpoint("windows", endpoints.windows, input_signature=[waveform])
    archive.add_endpoint(
        "wav", endpoints.wav, input_signature=[tf.TensorSpec((None,), tf.string, name="wav")]
    )
    archive.write_out(str(path), verbose=False)


class Endpoints:
    """The functions behind the signatures.

    Args:
        model: The folded encoder or tagger, on Keras' TensorFlow backend.
        windows: `Windows`.
    """

    def __init__(self, model: keras.Model, windows: Windows):
        self.encoder = model if windows.labels is None else model.encoder
        self.head = None if windows.labels is None else model.head
        self.about = windows

    def clips(self, waveform: tf.Tensor) -> dict[str, tf.Tensor]:
        """From clips (batch, samples) to their mean embeddings."""
        return self._with_labels(self._pooled(self._embed(waveform)))

    def windows(self, waveform: tf.Tensor) -> dict[str, tf.Tensor]:
        """From clips (batch, samples) to the embeddings of their windows."""
        import tensorflow as tf

        embedding = self._embed(waveform)
        batch, count = tf.unstack(tf.shape(embedding)[:2])
        seconds = self.about.samples / self.about.sample_rate
        start = tf.cast(tf.range(count), tf.float32) * seconds
        outputs = {"embedding": embedding, "start": tf.tile(start[None], (batch, 1))}
        if self.head is not None:
            outputs["scores"] = self._score(embedding)
        return self._with_labels(outputs)

    def wav(self, wav: tf.Tensor) -> dict[str, tf.Tensor]:
        """From the bytes of WAV files to the mean embeddings of the clips."""
        import tensorflow as tf

        def one(content):
            waveform = load_wav(content, self.about.sample_rate)
            pooled = self._pooled(self._embed(waveform[None]))
            return {name: values[0] for name, values in pooled.items()}

        kinds = {"embedding": tf.TensorSpec((self.about.dimensions,), tf.float32)}
        if self.head is not None:
            kinds["scores"] = tf.TensorSpec((len(self.about.label_names),), tf.float32)
        checks = [require(tf.size(wav) >= 1, "the batch is empty")]
        with tf.control_dependencies(checks):
            # Clips differ in length; a batch of them would have to be padded.
            pooled = tf.map_fn(
                one, tf.identity(wav), fn_output_signature=kinds, parallel_iterations=1
            )
        return self._with_labels(pooled)

    def _pooled(self, embedding):
        """The outputs for clips as a whole, from the embeddings of their windows."""
        import tensorflow as tf

        outputs = {"embedding": tf.reduce_mean(embedding, axis=1)}
        if self.head is not None and self.about.pooling == "scores":
            outputs["scores"] = tf.reduce_mean(self._score(embedding), axis=1)
        elif self.head is not None:
            outputs["scores"] = self._score(outputs["embedding"])
        return outputs

    def _score(self, embedding):
        import tensorflow as tf

        flat = tf.reshape(embedding, (-1, self.about.dimensions))
        scores = self.head(flat, training=False)
        if self.about.activation != "linear":
            scores = getattr(tf.nn, self.about.activation)(scores)
        finite = tf.reduce_all(tf.math.is_finite(scores))
        with tf.control_dependencies([require(finite, "the model's scores are not finite")]):
            scores = tf.identity(scores)
        shape = tf.concat([tf.shape(embedding)[:-1], [len(self.about.label_names)]], axis=0)
        return tf.reshape(scores, shape)

    def _with_labels(self, outputs):
        import tensorflow as tf

        if self.head is None:
            return outputs
        # A row for each clip, since a server splits all outputs along the batch.
        rows = tf.shape(outputs["embedding"])[0]
        return {**outputs, "labels": tf.tile(tf.constant([self.about.labels]), (rows, 1))}

    def _embed(self, waveform):
        import tensorflow as tf

        length = self.about.samples
        batch, samples = tf.unstack(tf.shape(waveform))
        count = samples // length
        checks = [
            require(batch >= 1, "the batch is empty"),
            require(count >= 1, f"too short: a clip needs at least {length} samples"),
            require(
                tf.cast(batch, tf.int64) * tf.cast(samples, tf.int64) <= MAX_SAMPLES,
                f"too long: a request takes at most {MAX_SAMPLES} samples",
            ),
            # Written so that NaN fails too.
            require(
                tf.reduce_all(tf.abs(waveform) <= MAX_LEVEL),
                f"samples must be finite and within {MAX_LEVEL:g} times full scale, which is 1",
            ),
        ]
        with tf.control_dependencies(checks):
            rows = tf.reshape(waveform[:, : count * length], (-1, length, 1))
        total = batch * count
        parts = -(-total // WINDOWS_AT_ONCE)

        def encode(part, found):
            some = rows[part * WINDOWS_AT_ONCE : (part + 1) * WINDOWS_AT_ONCE]
            return part + 1, found.write(part, self.encoder(some, training=False))

        found = tf.TensorArray(
            tf.float32, parts, infer_shape=False, element_shape=(None, self.about.dimensions)
        )
        _, found = tf.while_loop(
            lambda part, _: part < parts, encode, (tf.constant(0), found), parallel_iterations=1
        )
        embedding = tf.reshape(found.concat(), (batch, count, self.about.dimensions))
        checks = [
            require(tf.reduce_all(tf.math.is_finite(embedding)), "the model's output is not finite")
        ]
        with tf.control_dependencies(checks):
            return tf.identity(embedding)
