"""The features of one record, a serialized `tf.train.Example`.

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

import dataclasses

import numpy as np

from keras_tune.data.audio import AudioError, decode_audio, resample, to_float
from keras_tune.errors import UserError
from keras_tune.types import SAMPLE_RATES


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

    def serialize(self, tf):
        """Return the bytes of the `tf.train.Example`, always the same for the same record."""

        def text(value):
            return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))

        def integer(value):
            return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))

        features = {
            "id": text(self.id.encode()),
            "audio": text(self.audio),
            "encoding": text(self.encoding.encode()),
            "sample_rate": integer(self.sample_rate),
            "num_samples": integer(self.num_samples),
            "labels": tf.train.Feature(float_list=tf.train.FloatList(value=self.labels)),
            "split": text(self.split.encode()),
        }
        example = tf.train.Example(features=tf.train.Features(feature=features))
        # The features are a map, whose entries have no fixed order by default.
        return example.SerializeToString(deterministic=True)

    @classmethod
    def parse(cls, serialized, tf):
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

    def samples(self, sample_rate):
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
