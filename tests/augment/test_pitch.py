"""Pitch shift and time stretch: what physics says of tones, and the energy of music-like sound."""

import numpy as np
import pytest
from keras import ops

from keras_tune.augment import PitchShift, TimeStretch

RATE = 22050
SAMPLES = 32768
CENTS = np.array([-700.0, -500.0, -100.0, 0.0, 33.0, 300.0, 500.0, 700.0], dtype="float32")


def tone(frequency, samples=SAMPLES):
    return 0.5 * np.sin(2 * np.pi * frequency * np.arange(samples) / RATE)


def music(seed, samples=SAMPLES):
    """Chords of decaying harmonic tones with drum-like bursts of noise."""
    rng = np.random.default_rng(seed)
    time = np.arange(samples) / RATE
    sound = np.zeros(samples)
    for onset in np.arange(0.0, samples / RATE, 0.25):
        since = np.maximum(time - onset, 0.0)
        for note in rng.choice(np.arange(48, 72), 3, replace=False):
            frequency = 440 * 2 ** ((note - 69) / 12)
            for harmonic in range(1, 6):
                envelope = np.exp(-5 * since) * (time >= onset) / harmonic
                phase = rng.uniform(0, 2 * np.pi)
                sound += envelope * np.sin(2 * np.pi * frequency * harmonic * since + phase)
        burst = np.exp(-40 * since) * (time >= onset)
        sound += 0.5 * burst * rng.normal(size=samples)
    return 0.9 * sound / np.abs(sound).max()


def frequency_of(waveform):
    spectrum = np.abs(np.fft.rfft(waveform * np.hanning(len(waveform)), 16 * len(waveform)))
    return np.argmax(spectrum) * RATE / (16 * len(waveform))


def applied(layer, waveforms, **parameters):
    draw = {name: ops.convert_to_tensor(value) for name, value in parameters.items()}
    draw["active"] = ops.ones((len(waveforms),), dtype="bool")
    waveforms = ops.convert_to_tensor(np.asarray(waveforms, dtype="float32"))
    return ops.convert_to_numpy(layer.apply(waveforms, draw))


@pytest.mark.parametrize("frequency", [110.0, 440.0, 2000.0])
def test_a_tone_comes_out_at_its_shifted_frequency(frequency):
    shifted = applied(PitchShift(), [tone(frequency)] * len(CENTS), cents=CENTS)
    assert shifted.shape == (len(CENTS), SAMPLES)
    for waveform, cents in zip(shifted, CENTS, strict=True):
        found = 1200 * np.log2(frequency_of(waveform[1024:-1024]) / frequency)
        assert abs(found - cents) < 5


def test_pitch_shift_keeps_the_times_of_events():
    # A tone that begins at a third of the clip and ends at two thirds.
    begin, end = SAMPLES // 3, 2 * SAMPLES // 3
    waveform = tone(440.0)
    waveform[:begin] = waveform[end:] = 0.0
    shifted = applied(PitchShift(), [waveform] * len(CENTS), cents=CENTS)
    envelope = np.sqrt(np.apply_along_axis(np.convolve, 1, shifted**2, np.ones(256) / 256, "same"))
    for row in envelope:
        loud = np.flatnonzero(row > 0.25 * row.max())
        # A frame is 1152 samples long, and edges are blurred by half of it.
        assert abs(loud[0] - begin) < 576
        assert abs(loud[-1] - end) < 576


def test_pitch_shift_keeps_the_energy_of_music():
    waveforms = np.stack([music(seed) for seed in range(len(CENTS))])
    shifted = applied(PitchShift(), waveforms, cents=CENTS)
    decibels = 10 * np.log10((shifted**2).sum(1) / (waveforms**2).sum(1))
    assert np.abs(decibels).max() < 1.0


def test_no_shift_changes_little():
    waveform = music(3)
    (shifted,) = applied(PitchShift(), [waveform], cents=np.zeros(1, dtype="float32"))
    error = shifted - waveform
    assert 10 * np.log10((error**2).sum() / (waveform**2).sum()) < -10


def test_what_would_be_aliased_is_removed():
    # 9 kHz shifted up by 7 semitones lies beyond half the sample rate; 1 kHz stays the loudest.
    waveform = tone(1000.0) + tone(9000.0)
    cents = np.array([700.0], dtype="float32")
    (shifted,) = applied(PitchShift(), [waveform], cents=cents)
    spectrum = np.abs(np.fft.rfft(shifted * np.hanning(SAMPLES)))
    frequencies = np.fft.rfftfreq(SAMPLES, 1 / RATE)
    expected = 1000 * 2 ** (700 / 1200)
    elsewhere = spectrum[np.abs(frequencies - expected) > 200].max()
    assert 20 * np.log10(elsewhere / spectrum.max()) < -30


@pytest.mark.parametrize("rate", [0.8, 0.9, 1.25])
def test_time_stretch_keeps_high_frequencies(rate):
    (stretched,) = applied(TimeStretch(), [tone(10000.0)], rate=np.array([rate], dtype="float32"))
    inner = stretched[2048 : int(SAMPLES / max(rate, 1)) - 2048]
    assert abs(frequency_of(inner) - 10000.0) < 5
    assert np.sqrt(np.mean(inner**2)) == pytest.approx(0.5 / np.sqrt(2), rel=0.05)


@pytest.mark.parametrize("rate", [0.8, 1.25])
def test_time_stretch_moves_events_and_keeps_pitch(rate):
    waveform = tone(440.0)
    end = SAMPLES // 2
    waveform[end:] = 0.0
    (stretched,) = applied(TimeStretch(), [waveform], rate=np.array([rate], dtype="float32"))
    loud = np.flatnonzero(np.abs(stretched) > 0.2)
    assert stretched.shape == (SAMPLES,)
    assert abs(loud[-1] - end / rate) < 600
    found = 1200 * np.log2(frequency_of(stretched[1024 : int(end / rate) - 1024]) / 440.0)
    assert abs(found) < 5
