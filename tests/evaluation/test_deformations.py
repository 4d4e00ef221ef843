import numpy as np
import pytest

from keras_tune.evaluation.deformations import deformations


def tones(*frequencies, seconds=1.0):
    time = np.arange(int(22050 * seconds)) / 22050
    return sum(0.2 * np.sin(2 * np.pi * f * time) for f in frequencies).astype("float32")


def level(clip, frequency):
    """Amplitude at a frequency, away from the ends."""
    middle = clip[2205:-2205]
    time = np.arange(2205, 2205 + len(middle)) / 22050
    return 2 * abs(np.mean(middle * np.exp(-2j * np.pi * frequency * time)))


@pytest.mark.parametrize("name", list(deformations()))
def test_the_length_stays_and_the_sound_does_not(name):
    clip = tones(440, 700)
    deformed = deformations()[name](clip)
    assert deformed.shape == clip.shape
    assert np.isfinite(deformed).all()
    assert not np.array_equal(deformed, clip)


@pytest.mark.parametrize("snr", [30, 20, 10, 0])
def test_noise_has_the_level_it_is_named_for(snr):
    clip = tones(440)
    noise = deformations()[f"noise_{snr}_db"](clip) - clip
    assert 20 * np.log10(clip.std() / noise.std()) == pytest.approx(snr, abs=0.3)


def test_gain():
    clip = tones(440)
    found = deformations()["gain_-12_db"](clip)
    np.testing.assert_allclose(found, clip * 10 ** (-12 / 20), atol=1e-4)


def test_low_pass():
    found = deformations()["low_pass_3000_hz"](tones(300, 9000))
    assert level(found, 300) == pytest.approx(0.2, rel=0.02)
    assert level(found, 9000) < 0.03


def test_mp3_keeps_what_is_loud():
    clip = tones(440, 1000, seconds=2.0)
    found = deformations()["mp3"](clip)
    for frequency in (440, 1000):
        assert level(found, frequency) == pytest.approx(0.2, rel=0.05)
