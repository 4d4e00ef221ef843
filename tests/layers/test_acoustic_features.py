import numpy as np
import pytest
from keras import ops

from keras_tune.layers import AcousticFeatures

RATE = 22050
MELS = 64


def features(*waveforms):
    found = AcousticFeatures(RATE, MELS)(np.stack(waveforms).astype("float32"))
    return ops.convert_to_numpy(found)


def tone(frequency, seconds=2.0):
    time = np.arange(int(seconds * RATE)) / RATE
    return 0.3 * np.sin(2 * np.pi * frequency * time)


@pytest.mark.parametrize("frequency, pitch_class", [(440.0, 9), (261.63, 0), (1244.5, 3)])
def test_a_tone_lies_in_its_pitch_class_and_its_mel_band(frequency, pitch_class):
    (found,) = features(tone(frequency))
    assert np.argmax(found[2 * MELS : 2 * MELS + 12]) == pitch_class
    # The bands are evenly spaced on the HTK mel scale, from 20 Hz to half the rate.
    mel = 2595 * np.log10(1 + np.array([20, frequency, RATE / 2]) / 700)
    band = (mel[1] - mel[0]) / (mel[2] - mel[0]) * (MELS + 1) - 1
    assert abs(np.argmax(found[:MELS]) - band) < 1


def test_pulses_have_onsets_and_a_held_tone_has_none():
    time = np.arange(2 * RATE) / RATE
    pulses = np.random.default_rng(0).normal(size=len(time)) * np.exp(-20 * (time % 0.25))
    held, struck = features(tone(440.0), pulses)
    assert struck[2 * MELS + 12] > 5 * held[2 * MELS + 12]
    # The deviation over time of the mel bands tells them apart, too.
    assert struck[MELS : 2 * MELS].mean() > 5 * held[MELS : 2 * MELS].mean()


@pytest.mark.parametrize("rate, band", [(1.5, 1), (5.0, 4), (10.0, 6)])
def test_a_tremolo_lies_in_its_band_of_rates(rate, band):
    time = np.arange(59049) / RATE
    noise = np.random.default_rng(3).normal(0, 0.1, len(time))
    (found,) = features(noise * (1 + 0.8 * np.sin(2 * np.pi * rate * time)))
    modulation = found[2 * MELS + 14 :].reshape(MELS // 4, 8)
    assert (modulation[4:].argmax(axis=1) == band).mean() > 0.9


def test_modulation_is_the_power_of_the_fourier_transform():
    layer = AcousticFeatures(RATE, MELS)
    layer.build((1, 30000))
    mel = np.random.default_rng(5).normal(size=(1, 1 + (30000 - 2048) // 512, MELS))
    found = ops.convert_to_numpy(layer._modulation(ops.convert_to_tensor(mel.astype("float32"))))
    groups = mel[0].reshape(len(mel[0]), -1, 4).mean(axis=2)
    groups = (groups - groups.mean(axis=0)) * np.hanning(len(groups))[:, None]
    power = np.abs(np.fft.rfft(groups, axis=0)) ** 2
    rates = np.fft.rfftfreq(len(groups), 512 / RATE)
    edges = [0.5, 1, 2, 3, 4, 6, 9, 13, 20]
    expected = np.zeros((MELS // 4, 8))
    for band, (low, high) in enumerate(zip(edges, edges[1:], strict=False)):
        inside = (rates >= low) & (rates < high)
        if inside.any():
            expected[:, band] = power[inside].mean(axis=0)
    np.testing.assert_allclose(found[0], np.log(expected + 1e-2).ravel(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("mels", [0, 6])
def test_bands_must_come_in_groups(mels):
    with pytest.raises(ValueError, match="num_mels"):
        AcousticFeatures(RATE, mels)


def test_too_short():
    with pytest.raises(ValueError, match="at least 3072"):
        AcousticFeatures()(np.zeros((1, 3000)))


def test_loudness_is_not_a_feature():
    noise = np.random.default_rng(1).normal(0, 0.2, RATE)
    loud, quiet = features(noise, 0.01 * noise)
    np.testing.assert_allclose(loud, quiet, rtol=1e-3, atol=1e-3)


def test_width_and_config():
    layer = AcousticFeatures(16000, 20)
    assert layer.width == 94
    copy = AcousticFeatures.from_config(layer.get_config())
    x = np.random.default_rng(2).normal(size=(2, 8000)).astype("float32")
    assert layer(x).shape == (2, layer.width) == layer.compute_output_shape((2, 8000))
    np.testing.assert_array_equal(ops.convert_to_numpy(layer(x)), ops.convert_to_numpy(copy(x)))
