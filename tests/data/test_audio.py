import pickle

import numpy as np
import pytest
import scipy.signal
import soundfile

from keras_tune.data import AudioError, load_audio
from keras_tune.data.audio import to_float, to_int16

pytestmark = pytest.mark.one_backend

RATE = 22050


def sine(frequency, seconds, rate, level=0.5):
    return level * np.sin(2 * np.pi * frequency * np.arange(int(seconds * rate)) / rate)


def peak_frequency(samples, rate):
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return np.argmax(spectrum) * rate / len(samples)


def test_pcm_at_the_same_rate_is_exact(tmp_path):
    samples = np.random.default_rng(0).integers(-20000, 20000, 1000).astype("int16")
    soundfile.write(tmp_path / "a.wav", samples, RATE)
    audio = load_audio(tmp_path / "a.wav")
    assert audio.dtype == np.float32
    np.testing.assert_array_equal(to_int16(audio), samples)


@pytest.mark.parametrize("frequency", [220.0, 1000.0, 5000.0])
def test_stereo_44100_is_averaged_and_keeps_its_pitch(tmp_path, frequency):
    left = sine(frequency, 2, 44100)
    soundfile.write(tmp_path / "a.wav", np.stack([left, 0.5 * left], 1), 44100)
    audio = load_audio(tmp_path / "a.wav")
    assert audio.shape == (2 * RATE,)
    assert abs(peak_frequency(audio, RATE) - frequency) <= 0.5
    # A band-limited tone has one right answer at any rate; the ends ring.
    middle = slice(1000, -1000)
    np.testing.assert_allclose(
        audio[middle], 0.75 * sine(frequency, 2, RATE)[middle], atol=2e-4, rtol=0
    )


def test_resampling_agrees_with_scipy_below_both_cutoffs(tmp_path):
    noise = np.random.default_rng(0).normal(0, 0.1, 44100)
    band = scipy.signal.butter(8, 4000, fs=44100, output="sos")
    samples = scipy.signal.sosfiltfilt(band, noise)
    soundfile.write(tmp_path / "a.wav", samples, 44100, subtype="FLOAT")
    reference = scipy.signal.resample_poly(samples, 1, 2, window=("kaiser", 12.0))
    audio = load_audio(tmp_path / "a.wav")
    np.testing.assert_allclose(audio[500:-500], reference[500:-500], atol=1e-4)


def test_what_would_alias_is_gone(tmp_path):
    soundfile.write(tmp_path / "a.wav", sine(15000, 1, 44100) + sine(500, 1, 44100, 0.1), 44100)
    audio = load_audio(tmp_path / "a.wav")[2000:-2000]
    spectrum = np.abs(np.fft.rfft(audio * np.hanning(len(audio))))
    alias = round((44100 - 15000 - RATE) * len(audio) / RATE)
    assert spectrum[alias - 5 : alias + 6].max() < 1e-3 * spectrum.max()


def test_unusable_files_say_why(tmp_path):
    (tmp_path / "text.wav").write_text("This is not audio. " * 50)
    (tmp_path / "empty.wav").touch()
    (tmp_path / "folder.wav").mkdir()
    soundfile.write(tmp_path / "silent.wav", np.zeros(RATE), RATE)
    soundfile.write(tmp_path / "short.wav", sine(440, 1, RATE), RATE)
    broken = sine(440, 3, RATE)
    broken[100] = np.nan
    soundfile.write(tmp_path / "nan.wav", broken, RATE, subtype="FLOAT")
    reasons = {
        "text.wav": "cannot be decoded (Format not recognised)",
        "empty.wav": "cannot be decoded (the file is empty)",
        "silent.wav": "silent",
        "short.wav": "too short (1.00 s of 2.00 s)",
        "nan.wav": "contains NaN or infinity",
        "folder.wav": "missing",
        "absent.wav": "missing",
    }
    for name, reason in reasons.items():
        minimum = 2 * RATE if name == "short.wav" else 1
        with pytest.raises(AudioError) as caught:
            load_audio(tmp_path / name, min_samples=minimum)
        assert str(caught.value) == f"{tmp_path / name}: {reason}"


def test_error_survives_the_way_between_processes():
    error = pickle.loads(pickle.dumps(AudioError("a.wav", "silent")))
    assert (error.path, error.reason, str(error)) == ("a.wav", "silent", "a.wav: silent")


def test_int16_clips_instead_of_wrapping():
    np.testing.assert_array_equal(to_int16(np.array([1.5, -1.5])), [32767, -32768])
    np.testing.assert_array_equal(to_float(np.array([-32768, 16384], "int16")), [-1, 0.5])
