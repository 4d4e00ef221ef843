import keras
import numpy as np
import pytest

from keras_tune.errors import UserError
from keras_tune.evaluation import MelStatistics, embed_clips
from keras_tune.evaluation.fingerprints import encoder_fingerprint

WINDOW = 4096


def tone(frequency, count=2 * WINDOW, level=0.3):
    noise = np.random.default_rng(0).normal(0, 1e-3, count)
    return (level * np.sin(2 * np.pi * frequency * np.arange(count) / 22050) + noise).astype("f")


def statistics(*clips):
    records = [{"id": str(k), "audio": clip, "labels": {}} for k, clip in enumerate(clips)]
    return embed_clips(MelStatistics(num_mels=40, input_samples=WINDOW), records)


def test_a_higher_tone_is_in_a_higher_band():
    found = statistics(tone(220), tone(880), tone(3520)).vectors[:, :40]
    assert (np.diff(found.argmax(axis=1)) > 3).all()


def test_a_gain_moves_the_means_and_not_the_deviations():
    quiet, loud = statistics(tone(440), 2 * tone(440)).vectors
    np.testing.assert_allclose(loud[:40] - quiet[:40], np.log(4), atol=1e-3)
    np.testing.assert_allclose(loud[40:], quiet[40:], atol=2e-3)


def test_the_deviation_is_that_over_the_whole_clip():
    """Two windows that differ in level: most of the deviation is between them."""
    clip = np.concatenate([tone(440, WINDOW), 0.1 * tone(440, WINDOW)])
    found = statistics(clip)
    means, deviations = found.windows[:, :40], found.windows[:, 40:]
    expected = np.sqrt((deviations**2).mean(0) + means.std(0) ** 2)
    np.testing.assert_allclose(found.vectors[0, 40:], expected, rtol=1e-3)
    assert (found.vectors[0, 40:] > deviations.mean(0)).all()


def test_the_spectrum_is_that_of_a_plain_stft():
    """Energy in the bands as SciPy's spectrogram and the layer's own mel filters give it."""
    signal = pytest.importorskip("scipy.signal")
    clip = tone(1000, WINDOW)
    layer = keras.layers.MelSpectrogram(
        fft_length=2048,
        sequence_stride=512,
        sampling_rate=22050,
        num_mel_bins=40,
        max_freq=11025,
        power_to_db=False,
    )
    filters = keras.ops.convert_to_numpy(
        layer.linear_to_mel_weight_matrix(40, 1025, 22050, 20.0, 11025)
    )
    padded = np.pad(clip, 1024, mode="reflect")
    window = signal.get_window("hann", 2048)
    frames = np.stack([padded[s : s + 2048] * window for s in range(0, WINDOW + 1, 512)])
    power = np.abs(np.fft.rfft(frames)) ** 2
    expected = np.log(power @ filters + 1e-10)
    found = statistics(clip).vectors[0]
    np.testing.assert_allclose(found[:40], expected.mean(0), atol=0.05)


def test_fingerprints_tell_encoders_apart_and_nothing_else():
    first, same, other = MelStatistics(), MelStatistics(name="other"), MelStatistics(num_mels=64)
    assert encoder_fingerprint(first) == encoder_fingerprint(same)
    assert encoder_fingerprint(first) != encoder_fingerprint(other)
    dense = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    before = encoder_fingerprint(dense)
    dense.layers[0].kernel.assign(dense.layers[0].kernel + 1e-6)
    assert encoder_fingerprint(dense) != before


def test_windows_of_less_than_half_a_frame():
    """The spectrogram mirrors half a frame at both ends, which takes one more sample than that."""
    audio = np.random.default_rng(0).normal(0, 0.1, (1, 1025, 1)).astype("float32")
    assert np.isfinite(MelStatistics(input_samples=1025).predict_on_batch(audio)).all()
    with pytest.raises(UserError, match="these have 1024. Give longer windows"):
        MelStatistics(input_samples=1024)
