"""Decoding compressed records inside a tf.data pipeline.

tensorflow-io decodes in the graph, if it can be loaded and supports the format; otherwise
libsndfile decodes, as in preparation. Both give the same samples.
"""

import functools

import numpy as np

from keras_tune.data.audio import decode_audio, resample, to_flac, to_int16

# Decoder of tensorflow-io for each encoding, the type of its samples (None: not an argument), and
# the full scale of that type.
GRAPH_DECODERS = {
    "flac": ("decode_flac", "int16", 2.0**15),
    "flac24": ("decode_flac", "int32", 2.0**31),
    "mp3": ("decode_mp3", None, 1.0),
    "vorbis": ("decode_vorbis", None, 1.0),
    "wav": ("decode_wav", "int16", 2.0**15),
    "wav24": ("decode_wav", "int32", 2.0**31),
    "wav_float": ("decode_wav", "float32", 1.0),
}


@functools.cache
def tensorflow_io():
    """Return the module `tensorflow_io`, or None where it is missing or does not load.

    It loads only with TensorFlow up to 2.17, and loads its libraries at the first use.
    """
    try:
        import tensorflow_io as tfio

        tfio.audio.decode_flac(to_flac(np.zeros(1, "int16"), 22050), dtype="int16")
    except (ImportError, NotImplementedError, AttributeError, OSError, RuntimeError):
        return None
    return tfio


def decode_clip(tf, audio, encoding, rate, sample_rate):
    """Decode one compressed record in the graph.

    Args:
        tf: The module `tensorflow`.
        audio: Scalar string tensor, the encoded clip.
        encoding: Scalar string tensor, its encoding.
        rate: Scalar int64 tensor, its sample rate.
        sample_rate: Sample rate of the result, a number.

    Returns:
        int16 tensor of shape (samples,), mono at `sample_rate`.
    """

    def with_libsndfile():
        return _call(tf, functools.partial(_decoded, sample_rate=sample_rate), audio)

    tfio = tensorflow_io()
    if tfio is None:
        return with_libsndfile()

    def in_graph(name):
        function, dtype, full_scale = GRAPH_DECODERS[name]
        samples = getattr(tfio.audio, function)(audio, **({"dtype": dtype} if dtype else {}))
        samples = tf.reduce_mean(tf.cast(samples, "float32") / full_scale, axis=1)
        return tf.cond(
            tf.equal(rate, sample_rate),
            lambda: _to_int16(tf, samples),
            lambda: _call(tf, functools.partial(_resampled, target=sample_rate), samples, rate),
        )

    names = sorted(GRAPH_DECODERS)
    known = tf.equal(encoding, tf.constant(names))
    index = tf.where(tf.reduce_any(known), tf.argmax(known, output_type="int32"), len(names))
    branches = [functools.partial(in_graph, name) for name in names] + [with_libsndfile]
    return tf.switch_case(index, branches)


def _decoded(content, sample_rate):
    samples, rate = decode_audio(content)
    return to_int16(resample(samples, rate, sample_rate))


def _resampled(samples, rate, target):
    return to_int16(resample(samples, int(rate), target))


def _call(tf, function, *inputs):
    samples = tf.numpy_function(function, inputs, "int16")
    samples.set_shape([None])
    return samples


def _to_int16(tf, samples):
    # tf.round rounds halves to even, as NumPy does.
    return tf.cast(tf.clip_by_value(tf.round(samples * 32768.0), -32768, 32767), "int16")
