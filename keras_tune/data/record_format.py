"""The features of one record, a serialized `tf.train.Example`, and how TensorFlow reads them.

| feature | type | content |
|---|---|---|
| `id` | bytes | the clip's id, UTF-8 |
| `audio` | bytes | the clip, encoded as the next feature says |
| `encoding` | bytes | `pcm16` (little-endian), or `flac`, `mp3`, `vorbis`, ...: a file's bytes |
| `sample_rate` | int64 | samples per second of the encoded clip |
| `num_samples` | int64 | samples (per channel) of the encoded clip, at its own sample rate |
| `labels` | float32 | the label vector, see `keras_tune.data.schema` |
| `split` | bytes | the split's name |
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import types
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from keras_tune.data.audio import (
    AudioError,
    decode_audio,
    resample,
    to_flac,
    to_float,
    to_int16,
)
from keras_tune.errors import UserError
from keras_tune.storage import import_tensorflow
from keras_tune.types import SAMPLE_RATES

if TYPE_CHECKING:
    import tensorflow as tf


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


@dataclasses.dataclass(frozen=True)
class Record:
    """One clip as it is stored; its fields are the record's features."""

    id: str
    audio: bytes
    encoding: str
    sample_rate: int
    num_samples: int
    labels: tuple
    split: str

    def serialize(self, tf: types.ModuleType) -> bytes:
        """Return the bytes of the `tf.train.Example`, always the same for the same record."""
        features = {}
        for name, value in vars(self).items():
            if isinstance(value, tuple):
                features[name] = tf.train.Feature(float_list=tf.train.FloatList(value=value))
            elif isinstance(value, str | bytes):
                content = value.encode() if isinstance(value, str) else value
                features[name] = tf.train.Feature(bytes_list=tf.train.BytesList(value=[content]))
            else:
                features[name] = tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))
        example = tf.train.Example(features=tf.train.Features(feature=features))
        # The features are a map, whose entries have no fixed order by default.
        return example.SerializeToString(deterministic=True)

    @classmethod
    def parse(cls, serialized: bytes, tf: types.ModuleType) -> Record:
        """Read the bytes of a `tf.train.Example`.

        Raises:
            UserError: They are not an example, or a feature is missing.
        """
        from google.protobuf.message import DecodeError

        try:
            features = tf.train.Example.FromString(serialized).features.feature
            return cls(
                id=features["id"].bytes_list.value[0].decode(),
                audio=features["audio"].bytes_list.value[0],
                encoding=features["encoding"].bytes_list.value[0].decode(),
                sample_rate=features["sample_rate"].int64_list.value[0],
                num_samples=features["num_samples"].int64_list.value[0],
                labels=tuple(features["labels"].float_list.value),
                split=features["split"].bytes_list.value[0].decode(),
            )
        except (DecodeError, IndexError, UnicodeDecodeError) as error:
            raise UserError(f"not a record of a clip ({type(error).__name__})") from error

    def samples(self, sample_rate: int) -> np.ndarray:
        """Return the clip as a float32 array of shape (samples,) at `sample_rate`.

        Raises:
            UserError: The clip cannot be decoded.
        """
        if self.encoding == "pcm16":
            if len(self.audio) % 2 or not SAMPLE_RATES[0] <= self.sample_rate <= SAMPLE_RATES[1]:
                raise AudioError(self.id, "not 16-bit samples, or an impossible sample rate")
            samples, rate = to_float(np.frombuffer(self.audio, "<i2")), self.sample_rate
        else:
            samples, rate = decode_audio(self.audio, self.id)
        return resample(samples, rate, sample_rate)


def import_tensorflow_for_reading() -> types.ModuleType:
    """Import TensorFlow for data pipelines.

    If Keras runs on JAX or PyTorch, the GPUs are hidden from TensorFlow, which would reserve their
    memory without using it.
    """
    tf = import_tensorflow()
    import keras

    if keras.config.backend() != "tensorflow":
        # It fails if TensorFlow is initialized already: then its devices can no longer be changed.
        with contextlib.suppress(RuntimeError):
            tf.config.set_visible_devices([], "GPU")
    return tf


def pipeline_options(tf: types.ModuleType) -> tf.data.Options:
    """Return the common options of all pipelines over shards.

    tf.data's autotuner is off. In TensorFlow 2.21, deleting an iterator sometimes waits for the
    autotuner's next run, and the time between its runs doubles each time: a `fit` of 12.5 s took
    20.5 s. Without it, as many calls run in parallel as there are cores.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return options


def serialized_records(tf: types.ModuleType, files: list[str]) -> Iterator[bytes]:
    """Iterate over the bytes of all records in shards, in the order in which they are stored."""
    records = tf.data.TFRecordDataset(files).prefetch(2).with_options(pipeline_options(tf))
    return records.as_numpy_iterator()


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
