"""Baselines are what their names say."""

import keras
import numpy as np
import pytest
from seeded import seed_weights

from keras_tune.errors import UserError
from keras_tune.evaluation import (
    BASELINES,
    MelStatistics,
    embed_clips,
    make_baselines,
    untrained_copy,
)
from keras_tune.evaluation.baselines import (
    batch_norm_variables,
    estimate_on,
    estimated_variables,
)
from keras_tune.evaluation.embeddings import cut_windows
from keras_tune.evaluation.encoders import encoder_fingerprint
from keras_tune.models import TUNe, estimate_batch_norm, with_pooled_stages

pytestmark = pytest.mark.one_backend

WINDOW, MEL_WINDOW = 2187, 4096


def encoder(level=None):
    return seed_weights(
        TUNe(
            contraction_depth=1,
            decoder_depth=1,
            base_filters=2,
            tail_filters=[4],
            input_samples=WINDOW,
            level=level,
        )
    )


def records(gains, windows=2):
    generator = np.random.default_rng(0)
    for number, gain in enumerate(gains):
        audio = generator.normal(0, 0.1, windows * WINDOW).astype("float32")
        yield {"id": f"clip-{number}", "audio": gain * audio, "labels": {}}


def vectors(model, gains):
    return embed_clips(model, records(gains)).vectors


def test_each_is_there_once_under_the_name_of_what_it_is():
    assert list(make_baselines(encoder(), BASELINES)) == list(BASELINES)
    # Untrained copies of an encoder at one level are at this level, whatever was asked for.
    found = make_baselines(encoder(level=0.05), ["untrained", "untrained_level", "mel"])
    assert list(found) == ["untrained_level", "mel"]
    assert found["untrained_level"].encoder.level == found["untrained_level"].level == 0.05
    # Without batch normalization there is nothing to estimate.
    plain = keras.Sequential([keras.Input((WINDOW, 1)), keras.layers.GlobalAveragePooling1D()])
    assert list(make_baselines(plain, ["untrained", "untrained_bn"])) == ["untrained"]
    with pytest.raises(ValueError, match="Received: names="):
        make_baselines(encoder(), ["noise"])


@pytest.mark.parametrize("kind", ["untrained", "mel"])
def test_at_one_level_a_gain_changes_nothing(kind):
    gains = np.array([1, 0.5, 0.1, 2.0], "float32")
    made = make_baselines(encoder(), [kind, f"{kind}_level"])
    plain, at_level = (made[name].encoder for name in (kind, f"{kind}_level"))
    one = np.ones(4, "float32")
    np.testing.assert_allclose(vectors(at_level, gains), vectors(at_level, one), atol=1e-4)
    assert np.abs(vectors(plain, gains) - vectors(plain, one)).max() > 0.01


def test_a_model_that_knows_no_level_is_put_behind_one():
    waveform = keras.Input((WINDOW, 1))
    energy = keras.layers.GlobalAveragePooling1D()(keras.ops.square(waveform))
    model = keras.Model(waveform, energy)
    copies = [untrained_copy(model, level=0.1) for _ in range(2)]
    gains = np.array([0.3, 3.0], "float32")
    # Windows of one RMS have the square of it as mean energy.
    np.testing.assert_allclose(vectors(copies[0], gains), 0.01, rtol=1e-4)
    assert encoder_fingerprint(copies[0]) == encoder_fingerprint(copies[1])


def test_batch_norm_is_estimated_on_a_crop_of_each_clip():
    # Clips of a single window have one crop.
    gains = np.linspace(0.1, 1, 40).astype("float32")
    made = make_baselines(encoder(), ["untrained", "untrained_bn"])
    found, expected = made["untrained_bn"].encoder, made["untrained"].encoder
    assert made["untrained_bn"].needs_clips
    clips = [*records(gains, windows=1), {"id": "short", "audio": np.ones(9, "f"), "labels": {}}]
    estimate_on(found, clips, 41)
    windows = np.concatenate([cut_windows(clip["audio"], WINDOW) for clip in clips])[..., None]
    # 32 clips make a batch; the other 8 would be too few for one.
    estimate_batch_norm(expected, [windows[:32]])
    pairs = zip(batch_norm_variables(found), batch_norm_variables(expected), strict=True)
    for one, other in pairs:
        one, other = map(keras.ops.convert_to_numpy, (one, other))
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
    # None of the variances is the 1 that it starts from.
    for variable in batch_norm_variables(found)[1::2]:
        assert np.abs(keras.ops.convert_to_numpy(variable) - 1).min() > 1e-3
    with pytest.raises(UserError, match="no clip is as long as the encoder's window of 2187"):
        estimate_on(found, clips[-1:], 1)


def test_a_pca_is_estimated_as_well():
    pooled = with_pooled_stages(encoder(), 2, 8)
    made = make_baselines(pooled, ["untrained", "untrained_bn"])
    assert made["untrained"].encoder.output_shape == encoder().output_shape
    found = made["untrained_bn"].encoder
    before = {variable.path: variable.numpy() for variable in estimated_variables(found)}
    assert any("representation/kernel" in path for path in before)
    # Three clips give 342 crops each, so that there are more windows than outputs.
    clips = list(records(np.array([0.2, 0.5, 1], "float32"), windows=3))
    estimate_on(found, clips, 3)
    for variable in estimated_variables(found):
        assert not np.array_equal(variable.numpy(), before[variable.path]), variable.path
    windows = np.concatenate([cut_windows(clip["audio"], WINDOW) for clip in clips])[..., None]
    outputs = keras.ops.convert_to_numpy(found(windows, training=False))
    assert np.linalg.matrix_rank(outputs - outputs.mean(axis=0), tol=1e-4) == 8


@pytest.mark.parametrize("count", [3, 9, 10, 11, 15, 20, 25])
def test_a_pca_has_enough_windows_whatever_the_number_of_clips(monkeypatch, count):
    monkeypatch.setattr("keras_tune.evaluation.baselines.MOST_WINDOWS", 10)
    monkeypatch.setattr("keras_tune.evaluation.baselines.BATCH", 1)
    seen = []
    monkeypatch.setattr("keras_tune.models.estimate_batch_norm", lambda *_: None)
    monkeypatch.setattr("keras_tune.models.estimate_pca", lambda _, batches: seen.extend(batches))
    pooled = with_pooled_stages(encoder(), 2, 8)
    estimate_on(pooled, list(records(np.ones(count, "float32"), windows=3)), count)
    assert 10 <= sum(len(batch) for batch in seen) < 20


def test_of_many_clips_some_at_even_distances_are_enough(monkeypatch):
    monkeypatch.setattr("keras_tune.evaluation.baselines.MOST_WINDOWS", 10)
    seen = []
    monkeypatch.setattr(
        "keras_tune.models.estimate_batch_norm", lambda _, batches: seen.extend(batches)
    )
    gains = np.arange(1, 36).astype("float32")
    estimate_on(encoder(), records(gains, windows=1), 35)
    levels = np.concatenate(seen).std(axis=(1, 2)) * 10
    np.testing.assert_allclose(levels, gains[::4], rtol=0.1)


def tone(frequency, count=2 * MEL_WINDOW, level=0.3):
    noise = np.random.default_rng(0).normal(0, 1e-3, count)
    return (level * np.sin(2 * np.pi * frequency * np.arange(count) / 22050) + noise).astype("f")


def statistics(*clips):
    records = [{"id": str(k), "audio": clip, "labels": {}} for k, clip in enumerate(clips)]
    return embed_clips(MelStatistics(num_mels=40, input_samples=MEL_WINDOW), records)


def test_a_higher_tone_is_in_a_higher_band():
    found = statistics(tone(220), tone(880), tone(3520)).vectors[:, :40]
    assert (np.diff(found.argmax(axis=1)) > 3).all()


def test_a_gain_moves_the_means_and_not_the_deviations():
    quiet, loud = statistics(tone(440), 2 * tone(440)).vectors
    np.testing.assert_allclose(loud[:40] - quiet[:40], np.log(4), atol=1e-3)
    np.testing.assert_allclose(loud[40:], quiet[40:], atol=2e-3)


def test_the_deviation_is_that_over_the_whole_clip():
    """Two windows that differ in level: most of the deviation is between them."""
    clip = np.concatenate([tone(440, MEL_WINDOW), 0.1 * tone(440, MEL_WINDOW)])
    found = statistics(clip)
    means, deviations = found.windows[:, :40], found.windows[:, 40:]
    expected = np.sqrt((deviations**2).mean(0) + means.std(0) ** 2)
    np.testing.assert_allclose(found.vectors[0, 40:], expected, rtol=1e-3)
    assert (found.vectors[0, 40:] > deviations.mean(0)).all()


def test_the_spectrum_is_that_of_a_plain_stft():
    """Energy in the bands as SciPy's spectrogram and the layer's own mel filters give it."""
    signal = pytest.importorskip("scipy.signal")
    clip = tone(1000, MEL_WINDOW)
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
    frames = np.stack([padded[s : s + 2048] * window for s in range(0, MEL_WINDOW + 1, 512)])
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
