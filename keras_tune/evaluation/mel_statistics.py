"""The baseline that needs no training: what mel spectra are like on average."""

import keras
import numpy as np
from keras import ops

from keras_tune.errors import UserError
from keras_tune.layers.level_normalization import LevelNormalization

# Samples of a frame of the spectrogram.
FRAME = 2048


@keras.saving.register_keras_serializable(package="keras_tune")
class MelStatistics(keras.Model):
    """Mean and deviation over time of the log-mel spectrogram, as an encoder.

    The model gives the means of the log-mel values and of their squares, which can be averaged over
    windows; `finish` turns such averages into means and deviations.

    Args:
        sample_rate: Integer, of the waveforms in Hz. Defaults to 22,050.
        num_mels: Integer, mel bands. Defaults to 128.
        input_samples: Integer, the length of a window. Defaults to 59,049, as the encoders'.
        level: Float, the root mean square that each window is brought to first (see
            `keras_tune.layers.LevelNormalization`), or None to leave levels as they are. Defaults
            to None.
        name: String. Defaults to "mel_statistics".

    Raises:
        UserError: The windows are shorter than half a frame of the spectrogram, 1,024 samples.

    Input shape: (batch, input_samples, 1).
    Output shape: (batch, 2 · num_mels).

    Example:

    ```python
    embeddings = keras_tune.evaluation.embed_clips(MelStatistics(), records)
    ```
    """

    # Its outputs are means and deviations; see `keras_tune.evaluation.pooling`.
    own_pooling = "mean_std"

    def __init__(
        self,
        sample_rate=22050,
        num_mels=128,
        input_samples=59049,
        level=None,
        name="mel_statistics",
    ):
        if input_samples is not None and input_samples <= FRAME // 2:
            raise UserError(
                f"mel statistics need windows of more than {FRAME // 2} samples, half a frame; "
                f"these have {input_samples}. Give longer windows."
            )
        waveform = keras.Input((input_samples, 1), name="waveform")
        x = waveform if level is None else LevelNormalization(level, name="level")(waveform)
        power = keras.layers.MelSpectrogram(
            fft_length=FRAME,
            sequence_stride=512,
            sampling_rate=sample_rate,
            num_mel_bins=num_mels,
            max_freq=sample_rate / 2,
            # The layer's decibels depend on the loudest value of the batch.
            power_to_db=False,
            dtype="float32",
        )(x[..., 0])
        log = ops.log(power + 1e-10)
        outputs = ops.concatenate([ops.mean(log, -1), ops.mean(ops.square(log), -1)], axis=-1)
        super().__init__(inputs=waveform, outputs=outputs, name=name)
        self.sample_rate = sample_rate
        self.num_mels = num_mels
        self.input_samples = input_samples
        self.level = level

    def finish(self, averages):
        """Turn averages (clips, 2 · num_mels) into means and deviations, of the same shape."""
        mean, square = np.split(np.asarray(averages, "float64"), 2, axis=-1)
        deviation = np.sqrt(np.maximum(square - np.square(mean), 0))
        return np.concatenate([mean, deviation], axis=-1).astype("float32")

    def get_config(self):
        return {
            "sample_rate": self.sample_rate,
            "num_mels": self.num_mels,
            "input_samples": self.input_samples,
            "level": self.level,
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        return cls(**config)
