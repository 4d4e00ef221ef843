"""What encoders of any length make of other lengths than the published window.

`docs/input_length.md` states what is tested here.
"""

import numpy as np
import numpy_reference as reference
import pytest
from safetensors.numpy import save_file

from keras_tune.interop import load_pytorch_checkpoint
from keras_tune.models import Preset

pytestmark = pytest.mark.usefixtures("undrawn_kernels")

VARIANTS = {
    "vanilla": Preset(2, (2, 4, 8), (8,)),
    "plus": reference.tiny_variants()["plus"],
    "clmr": reference.tiny_variants()["clmr"],
}
# Samples for one averaged step, the inverse of the last stage's resolution.
STEP = {"vanilla": 3**4, "plus": 3**9, "clmr": 3**10}
# What a U-Net with four contractive stages cuts its input to; SampleCNN has no skips to align.
MULTIPLE = {"vanilla": 81, "plus": 81, "clmr": 1}
CLIP = 30 * 22050


@pytest.fixture(scope="module")
def clip():
    time = np.arange(CLIP) / 22050
    sweep = 0.4 * np.sin(2 * np.pi * (100 + 20 * time) * time)
    noise = np.random.default_rng(5).normal(0, 0.1, CLIP)
    return (sweep + noise).astype("float32")[None]


@pytest.fixture(scope="module", params=VARIANTS)
def variant(request, tmp_path_factory):
    """A variant's name, its tensors, and the function that loads it for a length."""
    state = reference.seeded_state(reference.encoder_shapes(VARIANTS[request.param]))
    path = tmp_path_factory.mktemp(request.param) / "encoder.safetensors"
    save_file(state, path)
    return (
        request.param,
        state,
        lambda samples: load_pytorch_checkpoint(path, input_samples=samples),
    )


def compute(model, waveforms):
    return model.predict_on_batch(waveforms[..., None])


def windows_of(clip):
    count = clip.shape[1] // reference.SAMPLES
    return clip[:, : count * reference.SAMPLES].reshape(count, reference.SAMPLES)


def test_windows_one_by_one_and_in_a_batch_equal_the_published_length(variant, clip):
    _, state, load = variant
    windows = windows_of(clip)
    assert windows.shape == (11, 59049)
    any_length = load(None)
    batch = compute(any_length, windows)
    one_by_one = np.concatenate([compute(any_length, window[None]) for window in windows])
    np.testing.assert_allclose(one_by_one, batch, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(compute(load(59049), windows), batch, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(reference.represent(state, windows), batch, rtol=1e-4, atol=1e-4)


def test_a_whole_clip_is_averaged_over_all_its_steps(variant, clip):
    name, state, load = variant
    steps = reference.features(state, clip[:, : CLIP // MULTIPLE[name] * MULTIPLE[name]])
    assert steps.shape[-1] == CLIP // STEP[name]
    representation = compute(load(None), clip)
    np.testing.assert_allclose(representation, steps.mean(axis=-1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("samples", [59049 + 80, 59049 + 1000, 2 * 59049 - 1])
def test_remainders(variant, clip, samples):
    name, state, load = variant
    encoder = load(None)
    part = clip[:, :samples]
    aligned = part[:, : samples // MULTIPLE[name] * MULTIPLE[name]]
    representation = compute(encoder, part)
    expected = reference.features(state, aligned)
    assert expected.shape[-1] == samples // STEP[name]
    np.testing.assert_allclose(representation, expected.mean(axis=-1), rtol=1e-4, atol=1e-4)
    # A model built for this length does the same.
    np.testing.assert_allclose(compute(load(samples), part), representation, rtol=1e-4, atol=1e-5)


def test_steps_away_from_a_window_border_do_not_depend_on_where_it_lies(clip):
    state = reference.seeded_state(reference.encoder_shapes(VARIANTS["vanilla"]))
    windows = windows_of(clip)[:2]
    whole = reference.features(state, windows.reshape(1, -1))[0]
    cut = np.concatenate(list(reference.features(state, windows)), axis=-1)
    same = np.isclose(whole, cut, rtol=1e-9, atol=1e-9).all(axis=0)
    border = 729
    assert same[: border - 5].all() and same[border + 5 :].all()
    assert not same[border - 1] and not same[border]


def test_a_whole_clip_is_not_the_mean_of_its_windows_in_a_long_tail(clip):
    state = reference.seeded_state(reference.encoder_shapes(VARIANTS["plus"]))
    windows = windows_of(clip)
    whole = reference.represent(state, windows.reshape(1, -1))[0]
    mean = reference.represent(state, windows).mean(axis=0)
    assert np.linalg.norm(whole - mean) > 0.01 * np.linalg.norm(mean)
