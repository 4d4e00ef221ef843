"""WAV files decoded and resampled by TensorFlow operations, so that a server can take their bytes.

TensorFlow's own decoder reads 16-bit files only, and its error for a damaged file contains bytes of
the file, which are not valid text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from keras_tune.serving.windows import MAX_BYTES, MAX_SAMPLES

# Sample rates of WAV files; with others the header is most likely damaged.
RATES = (1000, 384000)
# The most chunks before that of the samples; real files have a few.
MAX_CHUNKS = 100
PCM, FLOAT, EXTENSIBLE = 1, 3, 0xFFFE

if TYPE_CHECKING:
    import tensorflow as tf


def require(condition: tf.Tensor, message: str) -> tf.Operation:
    """An operation that ends the request with `message` unless `condition` holds."""
    import tensorflow as tf

    return tf.debugging.Assert(condition, [message])


def load_wav(content: tf.Tensor, sample_rate: int) -> tf.Tensor:
    """Decode the bytes of a WAV file to mono at `sample_rate`, in a graph.

    Args:
        content: Scalar string tensor, a RIFF file of PCM with 8, 16, 24 or 32 bits or of floats
            with 32 or 64, with any number of channels.
        sample_rate: Integer, in Hz.

    Returns:
        Float32 tensor (samples,).

    Raises:
        tf.errors.InvalidArgumentError: When run on bytes that are not such a file, or only a part.

    Source: Microsoft & IBM, "Multimedia Programming Interface and Data Specifications 1.0" (1991),
    chapter 3; Microsoft, "Multiple Channel Audio Data and WAVE Files" (2001), for the extensible
    format.
    """
    import tensorflow as tf

    mono, rate = _decode(content)
    checks = [
        require(
            tf.size(mono, out_type=tf.int64) * sample_rate <= MAX_SAMPLES * tf.cast(rate, tf.int64),
            f"too long: a request takes at most {MAX_SAMPLES} samples at {sample_rate} Hz",
        )
    ]
    with tf.control_dependencies(checks):
        mono = tf.identity(mono)
    return tf.cond(
        tf.equal(rate, sample_rate), lambda: mono, lambda: _resample(mono, rate, sample_rate)
    )


def _decode(content):
    """The mean of the channels, (samples,), and the sample rate."""
    import tensorflow as tf

    small = tf.strings.length(content) <= MAX_BYTES
    checks = [require(small, f"a WAV file may have {MAX_BYTES} bytes at most")]
    with tf.control_dependencies(checks):
        octets = tf.io.decode_raw(content, tf.uint8)
    end = tf.size(octets, out_type=tf.int64)
    kind = tf.concat([octets[:4], octets[8:12]], axis=0)
    is_wave = tf.logical_and(end >= 12, _reads(kind, b"RIFFWAVE"))
    with tf.control_dependencies([require(is_wave, "not a WAV file")]):
        form, start, length = _find_chunks(octets, end)
    tag, channels = _number(octets, form, 2), _number(octets, form + 2, 2)
    rate, bits = _number(octets, form + 4, 4), _number(octets, form + 14, 2)
    # In the extensible format the first bytes of an identifier are the real format.
    extended = tf.logical_and(tf.equal(tag, EXTENSIBLE), form + 26 <= end)
    tag = tf.where(extended, _number(octets, form + 24, 2), tag)
    low, high = RATES
    frame = channels * (bits // 8)
    readable = tf.reduce_any(
        tf.logical_and(
            tf.equal(tag, [PCM, PCM, PCM, PCM, FLOAT, FLOAT]),
            tf.equal(bits, [8, 16, 24, 32, 32, 64]),
        )
    )
    checks = [
        require(readable, "the WAV file's samples must be PCM or floats"),
        require(channels >= 1, "the WAV file has no channels"),
        require(
            tf.logical_and(rate >= low, rate <= high),
            f"the sample rate must be between {low} and {high} Hz",
        ),
        require(start + length <= end, "the WAV file is cut off"),
        require(length >= tf.maximum(frame, 1), "the WAV file contains no samples"),
    ]
    with tf.control_dependencies(checks):
        frames = length // tf.maximum(frame, 1)
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
    checks = [
        require((form >= 0) & (form + 16 <= end), "the WAV file has no format chunk"),
        require(start >= 0, "the WAV file contains no samples"),
    ]
    with tf.control_dependencies(checks):
        return tf.identity(form), tf.identity(start), tf.identity(length)


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
