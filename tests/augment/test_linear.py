"""Filters, delay, gain and reverb against SciPy, arithmetic and sample-by-sample loops."""

import math

import numpy as np
import pytest
import scipy.signal
from keras import ops

from keras_tune.augment import (
    BandReject,
    Compose,
    Delay,
    Gain,
    HighLowPass,
    HighPass,
    LowPass,
    PolarityInversion,
    Reverb,
)
from keras_tune.augment.spectral import SpectralGrid, choose_length

RATE = 22050
SAMPLES = 8000


@pytest.fixture
def noise():
    return np.random.default_rng(0).normal(0.0, 0.2, (4, SAMPLES)).astype("float32")


def tensors(**parameters):
    batch = len(next(iter(parameters.values())))
    draw = {"active": ops.ones((batch,), dtype="bool")}
    for name, values in parameters.items():
        dtype = {"bool": "bool", "int64": "int32"}.get(np.asarray(values).dtype.name, "float32")
        draw[name] = ops.convert_to_tensor(np.asarray(values), dtype=dtype)
    return draw


def applied(layer, waveforms, draw):
    return ops.convert_to_numpy(layer.apply(ops.convert_to_tensor(waveforms), draw))


@pytest.mark.parametrize(
    "layer, kind, cutoffs",
    [
        (HighPass(RATE), "high", [200.0, 500.0, 800.0, 1200.0]),
        (LowPass(RATE), "low", [2200.0, 3000.0, 3500.0, 4000.0]),
    ],
)
def test_filters_are_scipys_butterworth_filters(layer, kind, cutoffs, noise):
    filtered = applied(layer, noise, tensors(cutoff=cutoffs))
    for row, cutoff in enumerate(cutoffs):
        coefficients = scipy.signal.butter(2, cutoff, kind, fs=RATE)
        expected = scipy.signal.lfilter(*coefficients, noise[row].astype("float64"))
        np.testing.assert_allclose(filtered[row], expected, atol=2e-6)


def test_frequency_response_is_that_of_scipy():
    grid = SpectralGrid(SAMPLES, 400)
    angles = np.log(grid.points) / 1j  # complex: the circle is wider than the unit circle
    draw = tensors(cutoff=[300.0, 2500.0], high_pass=[True, False])
    response = HighLowPass(RATE).response(draw, grid)
    response = [ops.convert_to_numpy(part) for part in response]
    for row, (cutoff, kind) in enumerate([(300, "high"), (2500, "low")]):
        b, a = scipy.signal.butter(2, cutoff, kind, fs=RATE)
        z = np.exp(-1j * angles)
        expected = np.polyval(b[::-1], z) / np.polyval(a[::-1], z)
        np.testing.assert_allclose(response[0][row], expected.real, atol=3e-6)
        np.testing.assert_allclose(response[1][row], expected.imag, atol=3e-6)


def test_minus_three_decibels_at_the_cutoff():
    time = np.arange(SAMPLES) / RATE
    tones = np.stack([np.sin(2 * np.pi * f * time) for f in (800.0, 3000.0)]).astype("float32")
    draw = tensors(cutoff=[800.0, 3000.0], high_pass=[True, False])
    filtered = applied(HighLowPass(RATE), tones, draw)[:, 2000:]
    level = 10 * np.log10((filtered**2).mean(1) / (tones[:, 2000:] ** 2).mean(1))
    np.testing.assert_allclose(level, -3.01, atol=0.02)


def test_band_reject_is_the_notch_of_the_cookbook(noise):
    center, octaves = 1000.0, 1.0
    w = 2 * math.pi * center / RATE
    alpha = math.sin(w) * math.sinh(math.log(2) / 2 * octaves * w / math.sin(w))
    b, a = [1, -2 * math.cos(w), 1], [1 + alpha, -2 * math.cos(w), 1 - alpha]
    draw = tensors(center=[center] * 4, octaves=[octaves] * 4)
    filtered = applied(BandReject(RATE), noise, draw)
    np.testing.assert_allclose(filtered, scipy.signal.lfilter(b, a, noise), atol=2e-6)


@pytest.mark.parametrize("center, octaves", [(8000.0, 2.0), (10900.0, 1.0), (9000.0, 0.7)])
def test_band_reject_beyond_half_the_sample_rate(center, octaves):
    """It leaves what is below the band, and its lower edge is at -3 dB."""
    lower = center / 2 ** (octaves / 2)
    time = np.arange(SAMPLES) / RATE
    tones = np.stack([np.sin(2 * np.pi * f * time) for f in (lower / 8, lower, center)])
    draw = tensors(center=[center] * 3, octaves=[octaves] * 3)
    filtered = applied(BandReject(RATE), tones.astype("float32"), draw)[:, 2000:]
    level = 10 * np.log10((filtered**2).mean(1) / (tones[:, 2000:] ** 2).mean(1))
    assert level[0] > -0.3
    assert level[1] == pytest.approx(-3.01, abs=0.05)
    assert level[2] < -40


def test_delays_of_a_waveform_of_minutes():
    """Products of the phases' numerators exceed 31 bits."""
    samples = 240 * RATE
    waveform = np.random.default_rng(0).normal(0, 0.1, (1, samples)).astype("float32")
    (delayed,) = applied(Delay(RATE), waveform, tensors(delay=[4410]))
    expected = 0.5 * waveform[0]
    expected[4410:] += 0.25 * waveform[0][:-4410]
    np.testing.assert_allclose(delayed, expected, atol=1e-5)


def test_delay_adds_the_echo_and_nothing_else(noise):
    delays = [1, 100, 4410, 7999]
    delayed = applied(Delay(RATE), noise, tensors(delay=delays))
    for row, delay in enumerate(delays):
        expected = 0.5 * noise[row]
        expected[delay:] += 0.25 * noise[row][:-delay]
        np.testing.assert_allclose(delayed[row], expected, atol=4e-6)


def test_delays_are_whole_steps():
    delays = ops.convert_to_numpy(Delay(RATE, seed=1).draw(500, SAMPLES)["delay"])
    expected = [4410, 5512, 6615, 7717, 8820, 9922]
    assert sorted(set(delays.tolist())) == expected
    counts = [np.mean(delays == value) for value in expected]
    np.testing.assert_allclose(counts, 1 / 6, atol=0.07)


def test_gain_and_polarity_are_exact(noise):
    decibels = np.array([-20.0, -6.0, 0.0, 6.0])
    louder = applied(Gain(), noise, tensors(gain_db=decibels))
    np.testing.assert_allclose(louder, noise * 10 ** (decibels[:, None] / 20), rtol=1e-6)
    draw = {"active": ops.convert_to_tensor([True, False, True, False])}
    signs = np.array([-1, 1, -1, 1], dtype="float32")[:, None]
    np.testing.assert_array_equal(applied(PolarityInversion(), noise, draw), noise * signs)


def freeverb(waveform, reverberance, damping, room_size):
    """The loops of SoX' reverb for one channel, sample by sample, in double precision."""
    slope = -1 / math.log(1 - 0.3)
    scale = 100 / (math.log(1 - 0.98) * slope + 1)
    feedback = 1 - math.exp((reverberance - scale) / (slope * scale))
    damping = damping / 100 * 0.3 + 0.2
    room = room_size / 100 * 0.9 + 0.1
    total = np.zeros(len(waveform))
    for length in (1116, 1188, 1277, 1356, 1422, 1491, 1557, 1617):
        line = [0.0] * int(room * RATE / 44100 * length + 0.5)
        store = 0.0
        for n, sample in enumerate(waveform.tolist()):
            position = n % len(line)
            output = line[position]
            store = output + (store - output) * damping
            line[position] = sample + store * feedback
            total[n] += output
    for length in (225, 341, 441, 556):
        line = [0.0] * int(RATE / 44100 * length + 0.5)
        for n, sample in enumerate(total.tolist()):
            position = n % len(line)
            output = line[position]
            line[position] = sample + output * 0.5
            total[n] = output - sample
    return waveform + 0.015 * total


SETTINGS = [(50.0, 50.0, 50.0), (0.0, 100.0, 0.0), (90.0, 20.0, 10.0), (100.0, 0.0, 100.0)]


def test_reverb_is_the_loop_of_freeverb():
    samples = 20000
    waveforms = np.zeros((4, samples), dtype="float32")
    waveforms[:3, 0] = 1.0
    waveforms[3] = np.random.default_rng(1).normal(0.0, 0.2, samples)
    names = ("reverberance", "damping", "room_size")
    draw = tensors(**{name: [s[i] for s in SETTINGS] for i, name in enumerate(names)})
    wet = applied(Reverb(RATE), waveforms, draw)
    for row, setting in enumerate(SETTINGS):
        expected = freeverb(waveforms[row].astype("float64"), *setting)
        # The longest reverberation still rings on when the FFT ends, and wraps at -70 dB.
        # Otherwise half a step of 16-bit audio: FFTs in float32 differ between processors, and
        # PyTorch's has been 1.04e-5 away on one of them.
        tolerance = 3e-4 * np.abs(expected).max() if setting[0] == 100.0 else 1.5e-5
        np.testing.assert_allclose(wet[row], expected, atol=tolerance)


def test_a_chain_of_linear_layers_is_one_after_the_other(noise):
    layers = [
        Gain(probability=0.5, seed=1),
        HighLowPass(RATE, probability=0.5, seed=2),
        PolarityInversion(probability=0.5, seed=3),
        Delay(RATE, 50, 100, probability=0.5, seed=4),
        Reverb(RATE, max_reverberance=50, probability=0.5, seed=5),
    ]
    chain = Compose(layers)
    waveforms = np.concatenate([noise] * 4)
    draw = chain.draw(len(waveforms), SAMPLES)
    together = applied(chain, waveforms, draw)
    for index, layer in enumerate(layers):
        waveforms = applied(layer, waveforms, draw[f"step_{index}"])
    # One step of 16-bit audio is 3e-5.
    np.testing.assert_allclose(together, waveforms, atol=3e-5)


def test_nothing_wraps_around_to_the_beginning():
    waveforms = np.zeros((1, SAMPLES), dtype="float32")
    waveforms[0, -1000:] = np.random.default_rng(0).normal(0.0, 0.3, 1000)
    draw = tensors(reverberance=[100.0], damping=[0.0], room_size=[100.0])
    assert np.abs(applied(Reverb(RATE), waveforms, draw)[0, :-1000]).max() < 1e-4
    assert np.abs(applied(Delay(RATE), waveforms, tensors(delay=[4000]))[0, :-1000]).max() < 1e-6
    assert (
        np.abs(applied(HighPass(RATE), waveforms, tensors(cutoff=[200.0]))[0, :-1000]).max() < 1e-6
    )


@pytest.mark.parametrize("minimum", [7, 1000, 22050, 59049, 118098, 441000])
def test_lengths_are_fast_and_fill_a_table(minimum):
    length, (rows, columns) = choose_length(minimum)
    assert minimum <= length <= 1.1 * minimum + 4
    assert length % 2 == 0
    assert rows * columns == length // 2 + 1
    rest = length
    for factor in (2, 3, 5, 7):
        while rest % factor == 0:
            rest //= factor
    assert rest == 1
