"""Features of a waveform from signal processing."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_tune.layers.common import ConfiguredLayer
from keras_tune.layers.level_normalization import LevelNormalization
from keras_tune.types import DEFAULT_SAMPLE_RATE, Shape, Tensor

FFT_LENGTH, HOP = 2048, 512
# Three frames, so that there are two rises, which vary.
MIN_SAMPLES = FFT_LENGTH + 2 * HOP
# Frequencies in Hz of the bins with a pitch: below, a bin is wider than a semitone; above, there
# are mostly overtones.
LOWEST_PITCH, HIGHEST_PITCH = 130.0, 4000.0
# Relative to a mean power of about 8 a bin, -50 dB.
FLOOR = 1e-4
# The number of mel bands whose fluctuations are averaged, and the edges of the bands of fluctuation
# rates in Hz: from slower than a bar to a tremolo.
GROUP = 4
RATES = (0.5, 1.0, 2.0, 3.0, 4.0, 6.0, 9.0, 13.0, 20.0)
MODULATION_FLOOR = 1e-2


@keras.saving.register_keras_serializable(package="keras_tune")
class AcousticFeatures(ConfiguredLayer):
    """Timbre, harmony and rhythm of a waveform, measured by signal processing.

    The waveform is first scaled to a fixed RMS level. The features are, in this order:

    - mean and standard deviation over time of a log-mel spectrogram (`num_mels` each);
    - chroma: the logarithm of the mean power of the 12 pitch classes from C on, minus their mean;
    - onset strength: the mean and the standard deviation over time of how much the log-mel
      spectrogram rises, averaged over bands;
    - modulation: for each group of four mel bands, the logarithm of the power with which it
      fluctuates at rates of 0.5 to 20 Hz, in eight bands of rates.

    Args:
        sample_rate: Integer, the sample rate of the waveforms in Hz. Defaults to 22,050.
        num_mels: Integer, the number of mel bands, a multiple of 4. Defaults to 64.
        **kwargs: Arguments of `keras.layers.Layer`. `dtype` defaults to "float32".

    Input shape: (batch, samples) or (batch, samples, 1), with a known length of at least 3,072
        samples.
    Output shape: (batch, 4 · num_mels + 14).

    Raises:
        ValueError: If `num_mels` is not a positive multiple of 4, or waveforms are too short.

    Source: Li et al., "MERT" (ICLR 2024), which learns from an acoustic teacher in addition to
    masked targets; Böck & Widmer, "Maximum filter vibrato suppression for onset detection" (DAFx
    2013), section 2, for onset strength; Pampalk, Rauber & Merkl, "Content-based organization and
    visualization of music archives" (ACM Multimedia 2002), for fluctuations by band and rate.

    Example:

    ```python
    features = keras_tune.layers.AcousticFeatures()
    features(np.random.normal(0, 0.1, (1, 59049))).shape  # (1, 270)
    ```
    """

    def __init__(self, sample_rate: int = DEFAULT_SAMPLE_RATE, num_mels: int = 64, **kwargs: Any):
        if num_mels < GROUP or num_mels % GROUP:
            raise ValueError(
                f"`num_mels` must be a positive multiple of {GROUP}. Received: num_mels={num_mels}"
            )
        super().__init__(**{"dtype": "float32", **kwargs})
        self.sample_rate = int(sample_rate)
        self.num_mels = num_mels
        self.level = LevelNormalization(0.1, name="level")
        # Arrays; an ONNX file has the same ones.
        self.mel_weights = _mel_weights(self.sample_rate, num_mels)
        self.pitch_class_weights = _pitch_class_weights(self.sample_rate)

    @property
    def width(self) -> int:
        """The number of features."""
        return 2 * self.num_mels + 14 + self.num_mels // GROUP * (len(RATES) - 1)

    def build(self, input_shape: Shape) -> None:
        if input_shape[1] is None or input_shape[1] < MIN_SAMPLES:
            raise ValueError(
                f"Waveforms must have a known length of at least {MIN_SAMPLES} samples. "
                f"Received: input_shape={tuple(input_shape)}"
            )
        frames = 1 + (input_shape[1] - FFT_LENGTH) // HOP
        rate = self.sample_rate / HOP
        self.modulation_waves, self.modulation_bands = _modulation_weights(frames, rate)
        self.built = True

    def call(self, inputs: Tensor) -> Tensor:
        waveforms = inputs[..., None] if len(inputs.shape) == 2 else inputs
        waveforms = self.level(waveforms)[..., 0]
        real, imaginary = ops.stft(
            waveforms,
            sequence_length=FFT_LENGTH,
            sequence_stride=HOP,
            fft_length=FFT_LENGTH,
            center=False,
        )
        power = ops.square(real) + ops.square(imaginary)
        mel = ops.log(ops.matmul(power, ops.convert_to_tensor(self.mel_weights)) + FLOOR)
        classes = ops.matmul(power, ops.convert_to_tensor(self.pitch_class_weights))
        classes = ops.mean(classes, axis=1)
        chroma = ops.log(classes + FLOOR)
        chroma = chroma - ops.mean(chroma, axis=-1, keepdims=True)
        rises = ops.mean(ops.relu(mel[:, 1:] - mel[:, :-1]), axis=-1)
        onsets = ops.stack([ops.mean(rises, axis=-1), ops.std(rises, axis=-1)], axis=-1)
        return ops.concatenate(
            [
                ops.mean(mel, axis=1),
                ops.std(mel, axis=1),
                chroma,
                onsets,
                self._modulation(mel),
            ],
            axis=-1,
        )

    def _modulation(self, mel):
        """The power of the fluctuations of a log-mel spectrogram (batch, frames, num_mels)."""
        frames = mel.shape[1]
        groups = ops.reshape(mel, (-1, frames, self.num_mels // GROUP, GROUP))
        groups = ops.transpose(ops.mean(groups, axis=-1), (0, 2, 1))
        groups = groups - ops.mean(groups, axis=-1, keepdims=True)
        # Real and imaginary parts of the Fourier transform, as a product with cosines and sines.
        parts = ops.square(ops.matmul(groups, ops.convert_to_tensor(self.modulation_waves)))
        power = ops.matmul(parts, ops.convert_to_tensor(self.modulation_bands))
        power = ops.log(power + MODULATION_FLOOR)
        return ops.reshape(power, (-1, self.num_mels // GROUP * (len(RATES) - 1)))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (input_shape[0], self.width)


def _mel_weights(sample_rate, num_mels):
    """Triangular mel filters over the bins of a spectrum: (bins, num_mels)."""
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
    """1 where a bin of a spectrum is nearest to a note of a pitch class: (bins, 12)."""
    frequencies = np.arange(FFT_LENGTH // 2 + 1) * sample_rate / FFT_LENGTH
    weights = np.zeros((len(frequencies), 12), "float32")
    pitched = np.flatnonzero((frequencies >= LOWEST_PITCH) & (frequencies <= HIGHEST_PITCH))
    # A4 is MIDI note 69; C is pitch class 0.
    notes = np.round(69 + 12 * np.log2(frequencies[pitched] / 440.0)).astype(int)
    weights[pitched, notes % 12] = 1.0
    return weights


def _modulation_weights(frames, frame_rate):
    """Cosines and sines under a Hann window (frames, 2 · rates), and the weights of means over
    bands (2 · rates, bands).
    """
    rates = np.fft.rfftfreq(frames, 1 / frame_rate)
    angles = 2 * np.pi * np.arange(frames)[:, None] / frame_rate * rates
    waves = np.hanning(frames)[:, None] * np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
    bands = np.zeros((len(rates), len(RATES) - 1))
    for band, (low, high) in enumerate(zip(RATES, RATES[1:], strict=False)):
        inside = (rates >= low) & (rates < high)
        # The slowest bands of short waveforms contain no rate.
        bands[inside, band] = 1 / max(1, inside.sum())
    return waves.astype("float32"), np.concatenate([bands, bands]).astype("float32")
