"""What signal processing can say about a waveform, as targets to learn from."""

import keras
import numpy as np
from keras import ops

from keras_tune.layers.level_normalization import LevelNormalization

FFT_LENGTH, HOP = 2048, 512
# The bins of pitch: below, a bin is wider than a semitone; above, there are mostly overtones.
LOWEST_PITCH, HIGHEST_PITCH = 130.0, 4000.0
# Relative to a mean power of about 8 a bin, -50 dB.
FLOOR = 1e-4


@keras.saving.register_keras_serializable(package="keras_tune")
class AcousticFeatures(keras.layers.Layer):
    """Timbre, harmony and rhythm of a waveform, measured by signal processing.

    The waveform is brought to one level. The features are, in this order: mean and standard
    deviation over time of a log-mel spectrogram (`num_mels` each); chroma, the logarithm of the
    mean power of the 12 pitch classes from C on, less their mean; and onset strength, the mean and
    the deviation over time of the rises of the log-mel spectrogram, summed over bands.

    Args:
        sample_rate: Integer, of the waveforms in Hz. Defaults to 22,050.
        num_mels: Integer, mel bands. Defaults to 64.
        **kwargs: `name` and the other arguments of a Keras layer. Computed in float32.

    Input shape: (batch, samples), at least 2,560 samples.
    Output shape: (batch, 2 · num_mels + 14).

    Source: Li et al., "MERT" (ICLR 2024), which learns from an acoustic teacher beside its masked
    targets; Böck & Widmer, "Maximum filter vibrato suppression for onset detection" (DAFx 2013),
    section 2, for onset strength.

    Example:

    ```python
    features = keras_tune.layers.AcousticFeatures()
    features(np.random.normal(0, 0.1, (1, 59049))).shape  # (1, 142)
    ```
    """

    def __init__(self, sample_rate=22050, num_mels=64, **kwargs):
        super().__init__(**{"dtype": "float32", "trainable": False, **kwargs})
        self.sample_rate = int(sample_rate)
        self.num_mels = num_mels
        self.level = LevelNormalization(0.1)
        self._mels = _mel_weights(self.sample_rate, num_mels)
        self._pitch_classes = _pitch_class_weights(self.sample_rate)

    @property
    def width(self):
        """The number of features."""
        return 2 * self.num_mels + 14

    def build(self, input_shape):
        self.built = True

    def call(self, inputs):
        waveforms = self.level(inputs[..., None])[..., 0]
        real, imaginary = ops.stft(
            waveforms,
            sequence_length=FFT_LENGTH,
            sequence_stride=HOP,
            fft_length=FFT_LENGTH,
            center=False,
        )
        power = ops.square(real) + ops.square(imaginary)
        mel = ops.log(ops.matmul(power, ops.convert_to_tensor(self._mels)) + FLOOR)
        classes = ops.mean(ops.matmul(power, ops.convert_to_tensor(self._pitch_classes)), axis=1)
        chroma = ops.log(classes + FLOOR)
        chroma = chroma - ops.mean(chroma, axis=-1, keepdims=True)
        rises = ops.mean(ops.relu(mel[:, 1:] - mel[:, :-1]), axis=-1)
        onsets = ops.stack([ops.mean(rises, axis=-1), ops.std(rises, axis=-1)], axis=-1)
        return ops.concatenate(
            [ops.mean(mel, axis=1), ops.std(mel, axis=1), chroma, onsets], axis=-1
        )

    def compute_output_shape(self, input_shape):
        return (input_shape[0], self.width)

    def get_config(self):
        return {
            **super().get_config(),
            "sample_rate": self.sample_rate,
            "num_mels": self.num_mels,
        }


def _mel_weights(sample_rate, num_mels):
    """Triangles over the bins of a spectrum: (bins, num_mels)."""
    layer = keras.layers.MelSpectrogram(fft_length=FFT_LENGTH, dtype="float32")
    weights = layer.linear_to_mel_weight_matrix(
        num_mel_bins=num_mels,
        num_spectrogram_bins=FFT_LENGTH // 2 + 1,
        sampling_rate=sample_rate,
        lower_edge_hertz=20.0,
        upper_edge_hertz=sample_rate / 2,
    )
    return np.asarray(ops.convert_to_numpy(weights), "float32")


def _pitch_class_weights(sample_rate):
    """Which pitch class each bin of a spectrum belongs to, the nearest: (bins, 12)."""
    frequencies = np.arange(FFT_LENGTH // 2 + 1) * sample_rate / FFT_LENGTH
    weights = np.zeros((len(frequencies), 12), "float32")
    pitched = np.flatnonzero((frequencies >= LOWEST_PITCH) & (frequencies <= HIGHEST_PITCH))
    # A4 is MIDI's note 69, and C the pitch class 0.
    notes = np.round(69 + 12 * np.log2(frequencies[pitched] / 440.0)).astype(int)
    weights[pitched, notes % 12] = 1.0
    return weights
