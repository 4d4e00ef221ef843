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
    assert struck[-2] > 5 * held[-2]
    # The deviation over time of the mel bands tells them apart, too.
    assert struck[MELS : 2 * MELS].mean() > 5 * held[MELS : 2 * MELS].mean()


def test_loudness_is_not_a_feature():
    noise = np.random.default_rng(1).normal(0, 0.2, RATE)
    loud, quiet = features(noise, 0.01 * noise)
    np.testing.assert_allclose(loud, quiet, rtol=1e-3, atol=1e-3)


def test_width_and_config():
    layer = AcousticFeatures(16000, 20)
    copy = AcousticFeatures.from_config(layer.get_config())
    x = np.random.default_rng(2).normal(size=(2, 8000)).astype("float32")
    assert layer(x).shape == (2, layer.width) == layer.compute_output_shape((2, 8000))
    np.testing.assert_array_equal(ops.convert_to_numpy(layer(x)), ops.convert_to_numpy(copy(x)))
