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
from keras_tune.serving.windows import MAX_BYTES, MAX_LEVEL, MAX_SAMPLES, Windows

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

# This many windows at a time limit the memory of a long clip without a loss of speed.
WINDOWS_AT_ONCE = 32
# Sample rates of WAV files; with others the header is most likely damaged.
WAV_RATES = (1000, 384000)
# The most chunks before that of the samples; real files have a few.
MAX_CHUNKS = 100
PCM, FLOAT, EXTENSIBLE = 1, 3, 0xFFFE


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
    """The functions behind the signatures, of a folded model on Keras' TensorFlow backend."""

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
        wav = checked(wav, (tf.size(wav) >= 1, "the batch is empty"))
        # Clips differ in length; a batch of them would have to be padded.
        pooled = tf.map_fn(one, wav, fn_output_signature=kinds, parallel_iterations=1)
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
        scores = checked(scores, (finite, "the model's scores are not finite"))
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
        total = tf.cast(batch, tf.int64) * tf.cast(samples, tf.int64)
        # Written so that NaN fails too.
        in_scale = tf.reduce_all(tf.abs(waveform) <= MAX_LEVEL)
        scale = f"within {MAX_LEVEL:g} times full scale, which is 1"
        waveform = checked(
            waveform,
            (batch >= 1, "the batch is empty"),
            (count >= 1, f"too short: a clip needs at least {length} samples"),
            (total <= MAX_SAMPLES, f"too long: a request takes at most {MAX_SAMPLES} samples"),
            (in_scale, f"samples must be finite and {scale}"),
        )
        rows = tf.reshape(waveform[:, : count * length], (-1, length, 1))
        parts = -(-(batch * count) // WINDOWS_AT_ONCE)

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
        finite = tf.reduce_all(tf.math.is_finite(embedding))
        return checked(embedding, (finite, "the model's output is not finite"))


def checked(value: Any, *conditions: tuple[tf.Tensor, str]) -> Any:
    """Tensors that end the request with a condition's message unless all conditions hold."""
    import tensorflow as tf

    checks = [tf.debugging.Assert(holds, [message]) for holds, message in conditions]
    with tf.control_dependencies(checks):
        return tf.nest.map_structure(tf.identity, value)


def load_wav(content: tf.Tensor, sample_rate: int) -> tf.Tensor:
    """Decode the bytes of a WAV file to mono at `sample_rate`, in a graph.

    The file has PCM with 8, 16, 24 or 32 bits or floats with 32 or 64, and any number of channels.
    TensorFlow's own decoder reads 16-bit files only, and its error for a damaged file contains
    bytes of the file, which are not valid text.

    Source: Microsoft & IBM, "Multimedia Programming Interface and Data Specifications 1.0" (1991),
    chapter 3; Microsoft, "Multiple Channel Audio Data and WAVE Files" (2001), for the extensible
    format.
    """
    import tensorflow as tf

    mono, rate = _decode(content)
    short = tf.size(mono, out_type=tf.int64) * sample_rate <= MAX_SAMPLES * tf.cast(rate, tf.int64)
    message = f"too long: a request takes at most {MAX_SAMPLES} samples at {sample_rate} Hz"
    mono = checked(mono, (short, message))
    return tf.cond(
        tf.equal(rate, sample_rate), lambda: mono, lambda: _resample(mono, rate, sample_rate)
    )


def _decode(content):
    """The mean of the channels, (samples,), and the sample rate."""
    import tensorflow as tf

    small = tf.strings.length(content) <= MAX_BYTES
    content = checked(content, (small, f"a WAV file may have {MAX_BYTES} bytes at most"))
    octets = tf.io.decode_raw(content, tf.uint8)
    end = tf.size(octets, out_type=tf.int64)
    kind = tf.concat([octets[:4], octets[8:12]], axis=0)
    is_wave = tf.logical_and(end >= 12, _reads(kind, b"RIFFWAVE"))
    octets = checked(octets, (is_wave, "not a WAV file"))
    form, start, length = _find_chunks(octets, end)
    tag, channels = _number(octets, form, 2), _number(octets, form + 2, 2)
    rate, bits = _number(octets, form + 4, 4), _number(octets, form + 14, 2)
    # In the extensible format the first bytes of an identifier are the real format.
    extended = tf.logical_and(tf.equal(tag, EXTENSIBLE), form + 26 <= end)
    tag = tf.where(extended, _number(octets, form + 24, 2), tag)
    low, high = WAV_RATES
    frame = tf.maximum(channels * (bits // 8), 1)
    readable = tf.reduce_any(
        tf.logical_and(
            tf.equal(tag, [PCM, PCM, PCM, PCM, FLOAT, FLOAT]),
            tf.equal(bits, [8, 16, 24, 32, 32, 64]),
        )
    )
    octets = checked(
        octets,
        (readable, "the WAV file's samples must be PCM or floats"),
        (channels >= 1, "the WAV file has no channels"),
        ((rate >= low) & (rate <= high), f"the sample rate must be between {low} and {high} Hz"),
        (start + length <= end, "the WAV file is cut off"),
        (length >= frame, "the WAV file contains no samples"),
    )
    frames = length // frame
    data = tf.reshape(octets[start : start + frames * frame], tf.stack([frames, channels, -1]))

    def integers(width):
        # Bytes go in the upper end of 32 bits, below them zeros.
        padded = tf.pad(data, [[0, 0], [0, 0], [4 - width, 0]])
        values = tf.cast(tf.bitcast(tf.ensure_shape(padded, (None, None, 4)), tf.int32), tf.float32)
        return values / 2.0**31

    def floats(dtype):
        width = dtype.size
        return tf.cast(tf.bitcast(tf.ensure_shape(data, (None, None, width)), dtype), tf.float32)

    samples = tf.case(
        [
            (tf.equal(bits, 8), lambda: (tf.cast(data[..., 0], tf.float32) - 128) / 128),
            (tf.equal(bits, 16), lambda: integers(2)),
            (tf.equal(bits, 24), lambda: integers(3)),
            (tf.equal(bits, 64), lambda: floats(tf.float64)),
            (tf.equal(tag, FLOAT), lambda: floats(tf.float32)),
        ],
        default=lambda: integers(4),
    )
    return tf.reduce_mean(samples, axis=1), tf.cast(rate, tf.int32)


def _find_chunks(octets, end):
    """Where the format begins, where the samples do, and the length of these in bytes."""
    import tensorflow as tf

    def read_header(position, form, start, length, chunks):
        name = octets[position : position + 4]
        size = _number(octets, position + 4, 4)
        form = tf.where(_reads(name, b"fmt "), position + 8, form)
        found = _reads(name, b"data")
        start = tf.where(found, position + 8, start)
        length = tf.where(found, size, length)
        # A chunk of an odd size is followed by a byte that belongs to none.
        return position + 8 + size + size % 2, form, start, length, chunks + 1

    nowhere = tf.constant(-1, tf.int64)
    _, form, start, length, _ = tf.while_loop(
        lambda position, form, start, length, chunks: (
            (start < 0) & (position + 8 <= end) & (chunks < MAX_CHUNKS)
        ),
        read_header,
        (tf.constant(12, tf.int64), nowhere, nowhere, nowhere, tf.constant(0)),
        parallel_iterations=1,
    )
    return checked(
        (form, start, length),
        ((form >= 0) & (form + 16 <= end), "the WAV file has no format chunk"),
        (start >= 0, "the WAV file contains no samples"),
    )


def _reads(octets, text):
    import tensorflow as tf

    # Of other lengths they are not equal, and cannot be compared.
    padded = tf.concat([octets, [0] * len(text)], axis=0)[: len(text)]
    return tf.reduce_all(tf.equal(padded, list(text)))


def _number(octets, position, width):
    """The unsigned little-endian integer at `position`; bytes beyond the end count as 0."""
    import tensorflow as tf

    part = tf.concat([octets[position : position + width], [0] * width], axis=0)[:width]
    return tf.reduce_sum(tf.cast(part, tf.int64) * [256**power for power in range(width)])


def _resample(mono, rate, target):
    """Resample by cutting or extending the spectrum of the whole clip.

    The pass band ends at 0.913 of the lower Nyquist frequency, as soxr's does, and falls to nothing
    at it.
    """
    import tensorflow as tf

    samples = tf.shape(mono)[0]
    # Whole seconds have whole numbers of samples at either rate, and at least a tenth of a second
    # of silence keeps the ringing of the end away from the beginning.
    seconds = -(-(samples + rate // 10) // rate)
    spectrum = tf.signal.rfft(mono, [seconds * rate])
    kept = seconds * tf.minimum(rate, target) // 2 + 1
    nyquist = tf.cast(tf.minimum(rate, target), tf.float64) / 2
    frequency = tf.cast(tf.range(kept), tf.float64) / tf.cast(seconds, tf.float64)
    position = tf.clip_by_value((frequency / nyquist - 0.913) / (1 - 0.913), 0, 1)
    gain = tf.cast(tf.cos(position * 1.5707963267948966) ** 2, tf.complex64)
    spectrum = spectrum[:kept] * gain
    spectrum = tf.pad(spectrum, [[0, seconds * target // 2 + 1 - kept]])
    scale = tf.cast(target, tf.float32) / tf.cast(rate, tf.float32)
    waveform = tf.signal.irfft(spectrum, [seconds * target]) * scale
    length = tf.cast(samples, tf.int64) * target + tf.cast(rate // 2, tf.int64)
    return waveform[: length // tf.cast(rate, tf.int64)]
