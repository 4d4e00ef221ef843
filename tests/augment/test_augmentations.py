"""What all augmentations share: probabilities, seeds, configs, odd inputs; and the simple ones."""

import dataclasses
import inspect

import keras
import numpy as np
import pytest
from keras import ops

import keras_tune.augment as augment
from keras_tune.augment import AugmentConfig, Compose, RandomApply, RandomCrop, clmr_chain
from keras_tune.augment.gaussian_noise import hashed_normal

RATE = 22050
SAMPLES = 6000

LAYERS = {
    "background_mix": lambda **kwargs: augment.BackgroundMix(**kwargs),
    "band_reject": lambda **kwargs: augment.BandReject(RATE, **kwargs),
    "clipping": lambda **kwargs: augment.Clipping(**kwargs),
    "delay": lambda **kwargs: augment.Delay(RATE, 50, 200, **kwargs),
    "gain": lambda **kwargs: augment.Gain(**kwargs),
    "gaussian_noise": lambda **kwargs: augment.GaussianNoise(0.1, 0.5, **kwargs),
    "high_low_pass": lambda **kwargs: augment.HighLowPass(RATE, **kwargs),
    "high_pass": lambda **kwargs: augment.HighPass(RATE, **kwargs),
    "low_pass": lambda **kwargs: augment.LowPass(RATE, **kwargs),
    "pitch_shift": lambda **kwargs: augment.PitchShift(**kwargs),
    "polarity_inversion": lambda **kwargs: augment.PolarityInversion(**kwargs),
    "reverb": lambda **kwargs: augment.Reverb(RATE, **kwargs),
    "time_mask": lambda **kwargs: augment.TimeMask(**kwargs),
    "time_stretch": lambda **kwargs: augment.TimeStretch(**kwargs),
    "random_apply": lambda **kwargs: RandomApply(
        [augment.Gain(), augment.HighPass(RATE)], **{"probability": 1.0, **kwargs}
    ),
    "clmr_chain": lambda probability=1.0, seed=None: Compose(
        [clmr_chain(RATE, noise_probability=0.5)], probability, seed
    ),
}
every_layer = pytest.mark.parametrize("name", LAYERS)
every_single_layer = pytest.mark.parametrize("name", [n for n in LAYERS if n != "clmr_chain"])


@pytest.fixture
def waveforms():
    return np.random.default_rng(0).normal(0.0, 0.2, (6, SAMPLES)).astype("float32")


def numpy(tensor):
    return ops.convert_to_numpy(tensor)


def compiled(layer):
    """Compile a layer's call the way the backend's trainer does; torch stays eager."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.function(lambda x: layer(x, training=True), jit_compile=True)
    if keras.backend.backend() == "jax":
        import jax

        variables = layer.non_trainable_variables

        @jax.jit
        def pure(x, state):
            return layer.stateless_call([], state, x, training=True)

        def call(x):
            output, state = pure(x, [variable.value for variable in variables])
            for variable, value in zip(variables, state, strict=True):
                variable.assign(value)
            return output

        return call
    return lambda x: layer(x, training=True)


@every_layer
def test_it_is_the_identity_outside_training(name, waveforms):
    layer = LAYERS[name](seed=1)
    np.testing.assert_array_equal(numpy(layer(waveforms, training=False)), waveforms)
    np.testing.assert_array_equal(numpy(layer(waveforms)), waveforms)


def assert_same_draw(first, second):
    for one, other in zip(keras.tree.flatten(first), keras.tree.flatten(second), strict=True):
        np.testing.assert_array_equal(numpy(one), numpy(other))


@every_layer
def test_a_seed_decides_all_draws(name):
    first, second = LAYERS[name](probability=0.5, seed=7), LAYERS[name](probability=0.5, seed=7)
    once, again = first.draw(50, SAMPLES), first.draw(50, SAMPLES)
    assert_same_draw(once, second.draw(50, SAMPLES))
    with pytest.raises(AssertionError):
        assert_same_draw(once, again)
    first.reseed(7)
    assert_same_draw(once, first.draw(50, SAMPLES))


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="others have no graphs")
def test_a_chain_draws_in_a_training_step_what_it_draws_elsewhere():
    """XLA, which computes the chain there, would draw other numbers from the same seed."""
    import tensorflow as tf

    # Shorter waveforms are not compiled.
    waveforms = np.random.default_rng(0).normal(0.0, 0.2, (6, 20000)).astype("float32")
    eager, graph = clmr_chain(RATE, seed=5), clmr_chain(RATE, seed=5)
    step = tf.function(lambda x: graph(x, training=True), autograph=False)
    for _ in range(2):
        np.testing.assert_allclose(step(waveforms), eager(waveforms, training=True), atol=2e-3)


@every_single_layer
def test_its_config_makes_it_again(name):
    layer = LAYERS[name](probability=0.75, seed=3)
    config = keras.saving.serialize_keras_object(layer)
    copy = keras.saving.deserialize_keras_object(config)
    assert copy.get_config() == layer.get_config()
    assert_same_draw(layer.draw(6, SAMPLES), copy.draw(6, SAMPLES))


def test_the_chain_has_a_config_too():
    chain = clmr_chain(RATE, seed=3, max_cents=300.0)
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(chain))
    assert copy.get_config() == chain.get_config()
    assert_same_draw(chain.draw(6, SAMPLES), copy.draw(6, SAMPLES))


def saved_chain(**config):
    """What `keras.saving.serialize_keras_object` gave when `Compose` was named `Chain`."""
    policy = {"module": "keras", "class_name": "DTypePolicy", "config": {"name": "float32"}}
    policy["registered_name"] = None
    config = {"trainable": True, "dtype": policy, "probability": 1.0, "seed": None, **config}
    return {
        "module": "keras_tune.augment.chain",
        "class_name": "Chain",
        "config": config,
        "registered_name": "keras_tune>Chain",
    }


def test_every_argument_is_saved():
    """Arguments that are lost would be the defaults in a copy, in which nothing is missing."""
    classes = [getattr(augment, name) for name in augment.__all__]
    classes = [c for c in classes if isinstance(c, type) and issubclass(c, augment.Augmentation)]
    for kind in classes:
        arguments = inspect.signature(kind).parameters
        given = {"sample_rate": 16000, "samples": 300, "layers": [augment.Gain(-3, -2)]}
        layer = kind(**{name: given[name] for name in arguments if name in given})
        assert set(arguments) - {"kwargs"} <= set(layer.get_config()), kind


@keras.saving.register_keras_serializable(package="tests")
class PassedOn(augment.Gain):
    def __init__(self, *, extra=1, dtype="float32", **kwargs):
        super().__init__(dtype=dtype, **kwargs)
        self.extra = extra


def test_a_subclass_keeps_the_arguments_that_it_passes_on():
    layer = PassedOn(extra=2, min_gain_db=-3.0, max_gain_db=-2.0, dtype="mixed_bfloat16", seed=4)
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert (copy.extra, copy.min_gain_db, copy.max_gain_db, copy.seed) == (2, -3.0, -2.0, 4)
    assert copy.dtype_policy.name == "mixed_bfloat16"


def test_chains_of_earlier_versions_load(tmp_path):
    polarity = keras.saving.serialize_keras_object(augment.PolarityInversion(0.3))
    inner = saved_chain(name="inner", layers=[polarity])
    config = saved_chain(name="outer", probability=0.75, seed=4, layers=[inner])
    chain = keras.saving.deserialize_keras_object(config)
    assert type(chain) is type(chain.layers[0]) is Compose
    assert (chain.probability, chain.layers[0].layers[0].probability) == (0.75, 0.3)
    same = Compose([Compose([augment.PolarityInversion(0.3)])], 0.75, seed=4)
    assert_same_draw(same.draw(50, SAMPLES), chain.draw(50, SAMPLES))
    model = keras.Sequential([keras.Input((SAMPLES,)), chain])
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras").layers[0]
    assert keras.saving.serialize_keras_object(loaded)["registered_name"] == "keras_tune>Compose"


@every_layer
def test_it_survives_what_can_come_in(name):
    square = np.sign(np.sin(2 * np.pi * 100 * np.arange(SAMPLES) / RATE) + 1e-9)
    impulse = np.zeros(SAMPLES)
    impulse[SAMPLES // 2] = 1.0
    noise = np.random.default_rng(0).normal(size=SAMPLES)
    inputs = np.stack([np.zeros(SAMPLES), impulse, square, 1e-8 * noise, 0.3 * noise])
    layer = LAYERS[name](seed=2)
    for dtype in ("float32", "float16"):
        output = layer(ops.convert_to_tensor(inputs.astype(dtype)), training=True)
        assert keras.backend.standardize_dtype(output.dtype) == "float32"
        output = numpy(output)
        assert output.shape == inputs.shape
        assert np.isfinite(output).all()
        if name != "background_mix":
            assert np.abs(output[0]).max() < 1e-12
        if name != "background_mix" and dtype == "float32":
            assert 0 < np.abs(output[3]).max() < 1e-5


@every_single_layer
def test_half_of_the_examples_change_if_the_probability_is_half(name):
    waveforms = np.random.default_rng(1).normal(0.0, 0.2, (200, 512)).astype("float32")
    layer = LAYERS[name](probability=0.5, seed=5)
    changed = (numpy(layer(waveforms, training=True)) != waveforms).any(axis=1)
    assert 0.35 < changed.mean() < 0.65
    # Examples are drawn independently: neighbours agree half of the time.
    assert 0.3 < (changed[1:] == changed[:-1]).mean() < 0.7


def test_never_means_nothing_and_always_means_all(waveforms):
    never = augment.Gain(probability=0.0, seed=1)
    np.testing.assert_array_equal(numpy(never(waveforms, training=True)), waveforms)
    always = numpy(augment.Gain(probability=1.0, seed=1)(waveforms, training=True))
    assert (always != waveforms).any(axis=1).all()


@pytest.mark.parametrize("name", ["gain", "gaussian_noise", "reverb", "clmr_chain"])
def test_compiled_draws_differ_from_step_to_step(name, waveforms):
    layer = LAYERS[name](seed=11)
    layer.build(waveforms.shape)
    call = compiled(layer)
    waveforms = ops.convert_to_tensor(waveforms)
    outputs = [numpy(call(waveforms)) for _ in range(3)]
    assert np.abs(outputs[0] - outputs[1]).max() > 1e-4
    assert np.abs(outputs[1] - outputs[2]).max() > 1e-4
    layer.reseed(11)
    np.testing.assert_array_equal(numpy(call(waveforms)), outputs[0])


@pytest.mark.parametrize("name", ["pitch_shift", "reverb", "gaussian_noise"])
def test_compiled_and_eager_agree_on_a_given_draw(name, waveforms):
    layer = LAYERS[name](probability=0.5, seed=4)
    draw = layer.draw(*waveforms.shape)
    eager = numpy(layer.apply(ops.convert_to_tensor(waveforms), draw))
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        apply = tf.function(layer.apply, jit_compile=True)
    elif keras.backend.backend() == "jax":
        import jax

        apply = jax.jit(layer.apply)
    else:
        pytest.skip("torch stays eager")
    np.testing.assert_allclose(
        numpy(apply(ops.convert_to_tensor(waveforms), draw)), eager, atol=2e-4
    )


def test_parameters_are_independent_over_the_batch():
    draw = augment.Reverb(RATE, seed=1).draw(400, SAMPLES)
    values = np.stack([numpy(draw[name]) for name in ("reverberance", "damping", "room_size")])
    assert len(np.unique(values)) == values.size
    assert np.abs(np.corrcoef(values) - np.eye(3)).max() < 0.2
    assert abs(np.corrcoef(values[0, 1:], values[0, :-1])[0, 1]) < 0.2


def test_layers_of_a_chain_draw_different_numbers():
    chain = Compose([augment.Gain(0, 1), augment.Gain(0, 1)], seed=0)
    draw = chain.draw(50, SAMPLES)
    first, second = (numpy(draw[f"step_{index}"]["gain_db"]) for index in range(2))
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.5
    # Also a few calls later: neighbouring seeds must not lead to shifted copies.
    later = [numpy(chain.draw(50, SAMPLES)["step_0"]["gain_db"]) for _ in range(4)]
    assert all(np.abs(second - values).min() > 0 for values in later)


def test_noise_has_the_ratio_that_was_drawn(waveforms):
    layer = augment.GaussianNoise(seed=1)
    draw = layer.draw(*waveforms.shape)
    ratio = np.array([1e-2, 0.1, 0.3, 1.0, 2.0, 5.0], dtype="float32")
    noisy = numpy(layer.apply(ops.convert_to_tensor(waveforms), {**draw, "ratio": ratio}))
    measured = (noisy - waveforms).std(1) / waveforms.std(1)
    np.testing.assert_allclose(20 * np.log10(measured / ratio), 0.0, atol=0.2)


def test_hashed_noise_is_white_and_normal():
    keys = np.random.default_rng(0).integers(0, 2**31 - 1, (4, 2)).astype("int32")
    noise = numpy(hashed_normal(ops.convert_to_tensor(keys), 40001)).astype("float64")
    assert noise.shape == (4, 40001)
    for power, expected in [(1, 0.0), (2, 1.0), (3, 0.0), (4, 3.0)]:
        np.testing.assert_allclose((noise**power).mean(1), expected, atol=0.15)
    assert np.abs(np.corrcoef(noise) - np.eye(4)).max() < 0.03
    for lag in (1, 2, 20000, 20001):
        assert np.abs((noise[:, lag:] * noise[:, :-lag]).mean(1)).max() < 0.03


def test_clipping_cuts_at_a_fraction_of_the_peak(waveforms):
    layer = augment.Clipping(0.4, 0.4)
    clipped = numpy(layer(waveforms, training=True))
    limit = 0.4 * np.abs(waveforms).max(1, keepdims=True)
    np.testing.assert_allclose(clipped, np.clip(waveforms, -limit, limit), rtol=1e-6)


def test_time_mask_silences_one_stretch(waveforms):
    masked = numpy(augment.TimeMask(0.1, 0.1, seed=1)(waveforms, training=True))
    for row, original in zip(masked, waveforms, strict=True):
        silent = np.flatnonzero(row != original)
        assert abs(len(silent) - SAMPLES // 10) <= 1
        assert silent[-1] - silent[0] + 1 == len(silent)
        assert (row[silent] == 0.0).all()


def test_background_has_the_snr_that_was_drawn(waveforms):
    layer = augment.BackgroundMix()
    snr = np.array([0.0, 3.0, 6.0, 10.0, 20.0, 30.0], dtype="float32")
    draw = {**layer.draw(*waveforms.shape), "snr_db": snr}
    background = numpy(layer.apply(ops.convert_to_tensor(waveforms), draw)) - waveforms
    measured = 10 * np.log10((waveforms**2).sum(1) / (background**2).sum(1))
    np.testing.assert_allclose(measured, snr, atol=0.01)
    partner = numpy(draw["partner"])
    assert (partner != np.arange(6)).all()
    for row in range(6):
        assert np.corrcoef(background[row], waveforms[partner[row]])[0, 1] > 0.9999


def test_a_batch_of_one_has_no_background(waveforms):
    alone = waveforms[:1]
    np.testing.assert_array_equal(numpy(augment.BackgroundMix()(alone, training=True)), alone)


def test_crops_are_cut_at_their_own_places():
    clips = np.arange(8)[:, None] * 100000 + np.arange(5000)[None]
    crop = RandomCrop(1000, seed=1)
    crops = numpy(crop(clips.astype("float32"), training=True))
    offsets = crops[:, 0] - 100000 * np.arange(8)
    np.testing.assert_array_equal(crops, clips[:, :1000] + offsets[:, None])
    assert len(set(offsets.tolist())) > 4
    assert (numpy(crop(clips.astype("float32"), training=True))[:, 0] != crops[:, 0]).any()


def test_crops_reach_both_ends():
    offsets = numpy(RandomCrop(3, seed=1).draw(300, 5)["offset"])
    assert sorted(set(offsets.tolist())) == [0, 1, 2]


def test_crops_repeat_outside_training():
    clips = np.random.default_rng(0).normal(size=(4, 3000)).astype("float32")
    crop = RandomCrop(500, seed=1)
    first = numpy(crop(clips))
    crop(clips, training=True)
    np.testing.assert_array_equal(numpy(crop(clips)), first)
    assert (numpy(RandomCrop(500, seed=2)(clips)) != first).any()


def test_crops_convert_pcm():
    clips = np.array([[-32768, 0, 16384, 32767]], dtype="int16")
    whole = numpy(RandomCrop(4)(clips, training=True))
    np.testing.assert_array_equal(whole, [[-1.0, 0.0, 0.5, 32767 / 32768]])
    part = RandomCrop(2, seed=1)(np.repeat(clips, 3, axis=1), training=True)
    assert keras.backend.standardize_dtype(part.dtype) == "float32"
    assert np.abs(numpy(part)).max() <= 1.0


def test_short_clips_are_refused():
    with pytest.raises(ValueError, match="at least 100 samples"):
        RandomCrop(100)(np.zeros((2, 99), dtype="float32"))


@pytest.mark.parametrize(
    "build",
    [
        lambda: augment.Gain(probability=1.5),
        lambda: augment.Gain(3.0, 1.0),
        lambda: augment.HighPass(RATE, 0.0, 100.0),
        lambda: augment.LowPass(RATE, 4000.0, 12000.0),
        lambda: augment.Reverb(RATE, max_damping=101.0),
        lambda: augment.PitchShift(frame_length=1022),
        lambda: augment.TimeStretch(min_rate=0.0),
        lambda: Compose([keras.layers.Dense(1)]),
    ],
)
def test_wrong_arguments_are_named(build):
    with pytest.raises(ValueError, match="Received: "):
        build()


def test_the_published_chain_and_its_keys():
    names = ["polarity", "noise", "gain", "filter", "delay", "pitch_shift", "reverb"]
    chain = clmr_chain(RATE, seed=1)
    assert [layer.name for layer in chain.layers] == names
    probabilities = [layer.probability for layer in chain.layers]
    assert probabilities == [0.8, 0.01, 0.3, 0.8, 0.3, 0.6, 0.6]
    chain = clmr_chain(RATE, seed=1, pitch_shift_probability=0.0, gain_probability=1.0)
    draw = chain.draw(8, SAMPLES)
    assert numpy(draw["step_2"]["active"]).all()
    assert "step_5" not in draw


def test_all_examples_at_once_as_on_accelerators(monkeypatch):
    time = np.arange(SAMPLES) / RATE
    tones = np.sin(2 * np.pi * 110.0 * 1.3 ** np.arange(20)[:, None] * time)
    tones = tones + np.random.default_rng(0).normal(0.0, 0.05, tones.shape)
    waveforms = ops.convert_to_tensor(0.3 * tones, dtype="float32")
    chain = clmr_chain(RATE, seed=1, noise_probability=0.5)
    draw = chain.draw(len(tones), SAMPLES)
    chosen = numpy(draw["step_5"]["active"]), numpy(draw["step_6"]["active"])
    assert all(0 < active.sum() < len(tones) for active in chosen)
    in_chunks = numpy(chain.apply(waveforms, draw))
    for module in ("augmentation", "pitch_shift"):
        monkeypatch.setattr(f"keras_tune.augment.{module}.works_in_chunks", lambda: False)
    error = numpy(chain.apply(waveforms, draw)) - in_chunks
    # Rounding, as between backends.
    assert 10 * np.log10((error**2).sum() / (in_chunks**2).sum()) < -60


def test_inside_a_model_that_trains(waveforms):
    inputs = keras.Input((SAMPLES,))
    crop, chain = RandomCrop(3000, seed=1), clmr_chain(RATE, seed=1, noise_probability=0.5)
    outputs = keras.layers.Dense(1)(chain(crop(inputs)))
    model = keras.Model(inputs, outputs)
    jit = keras.backend.backend() != "torch"
    model.compile("sgd", "mse", jit_compile=jit)
    state = [numpy(variable) for variable in chain.non_trainable_variables]
    history = model.fit(waveforms, np.zeros((6, 1)), batch_size=3, epochs=2, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    after = [numpy(variable) for variable in chain.non_trainable_variables]
    assert any((before != now).any() for before, now in zip(state, after, strict=True))


@pytest.mark.parametrize("setting", [field.name for field in dataclasses.fields(AugmentConfig)])
def test_the_published_chain_follows_every_setting(setting):
    value = getattr(AugmentConfig(), setting)
    changed = clmr_chain(RATE, **{setting: value + 1.0 if value < 0 else value * 0.9 + 0.001})
    assert changed.get_config()["layers"] != clmr_chain(RATE).get_config()["layers"]


def test_the_published_chain_has_no_other_settings():
    with pytest.raises(TypeError, match="echo"):
        clmr_chain(RATE, echo=1.0)


def test_any_policy_leaves_the_work_in_float32(waveforms):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        output = augment.Gain(seed=1)(waveforms.astype("float16"), training=True)
    finally:
        keras.config.set_dtype_policy(before)
    assert keras.backend.standardize_dtype(output.dtype) == "float32"
