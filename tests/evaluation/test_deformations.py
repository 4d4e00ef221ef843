import numpy as np
import pytest

from keras_tune.evaluation.study import deformations


def tones(*frequencies, seconds=1.0, rate=22050):
    time = np.arange(int(rate * seconds)) / rate
    return sum(0.2 * np.sin(2 * np.pi * f * time) for f in frequencies).astype("float32")


def level(clip, frequency, rate=22050):
    """Amplitude at a frequency, away from the ends."""
    ends = rate // 10
    middle = clip[ends:-ends]
    time = np.arange(ends, ends + len(middle)) / rate
    return 2 * abs(np.mean(middle * np.exp(-2j * np.pi * frequency * time)))


@pytest.mark.parametrize("name", list(deformations()))
def test_the_length_stays_and_the_sound_does_not(name):
    clip = tones(440, 700)
    deformed = deformations()[name](clip)
    assert deformed.shape == clip.shape
    assert np.isfinite(deformed).all()
    assert not np.array_equal(deformed, clip)


@pytest.mark.parametrize("name", list(deformations()))
def test_every_encoder_gets_the_same(name):
    """Whatever was deformed before; different clips get different noise."""
    deform, clip = deformations()[name], tones(440, 700, seconds=0.2)
    first, other, again = deform(clip), deform(2 * clip), deform(clip)
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(first, deformations()[name](clip))
    if "noise" in name:
        assert abs(np.corrcoef(first - clip, other - 2 * clip)[0, 1]) < 0.1


@pytest.mark.parametrize("snr", [30, 20, 10, 0])
def test_noise_has_the_level_it_is_named_for(snr):
    clip = tones(440)
    noise = deformations()[f"noise_{snr}_db"](clip) - clip
    assert 20 * np.log10(clip.std() / noise.std()) == pytest.approx(snr, abs=0.3)


def test_gain():
    clip = tones(440)
    found = deformations()["gain_-12_db"](clip)
    np.testing.assert_allclose(found, clip * 10 ** (-12 / 20), atol=1e-4)


@pytest.mark.parametrize("rate", [22050, 44100])
def test_the_low_pass_has_its_cutoff_at_every_sample_rate(rate):
    found = deformations(rate)["low_pass_3000_hz"](tones(300, 3000, 9000, rate=rate))
    assert level(found, 300, rate) == pytest.approx(0.2, rel=0.02)
    # A Butterworth filter passes 3 dB less at its cutoff.
    assert level(found, 3000, rate) == pytest.approx(0.2 / np.sqrt(2), rel=0.02)
    assert level(found, 9000, rate) < 0.03


# MP3 has no rate of 20,000 Hz.
@pytest.mark.parametrize("rate", [20000, 22050, 44100])
def test_mp3_keeps_what_is_loud(rate):
    clip = tones(440, 1000, seconds=2.0, rate=rate)
    found = deformations(rate)["mp3"](clip)
    assert found.shape == clip.shape
    for frequency in (440, 1000):
        assert level(found, frequency, rate) == pytest.approx(0.2, rel=0.05)
