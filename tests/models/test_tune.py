import keras
import numpy as np
import pytest
from keras import ops
from seeded import seed_weights

from keras_tune.errors import UserError
from keras_tune.evaluation.encoders import encoder_fingerprint
from keras_tune.models import TUNe

# Parameters with a 50-way linear head, and time steps averaged at the end: Vélez Vásquez &
# Burgoyne (ISMIR 2022), table 1 and appendix table S3. tune_clmr_tail is given as 9.72 MB.
PUBLISHED = {
    "tune_vanilla": (2_366_046, 729),
    "tune_contractive_1": (2_284_350, 729),
    "tune_contractive_2": (2_144_256, 729),
    "tune_contractive_3": (1_656_394, 729),
    "tune_expansive_1": (2_344_898, 729),
    "tune_expansive_2": (2_381_496, 729),
    "tune_expansive_3": (2_344_426, 729),
    "tune_tail_1": (2_321_562, 243),
    "tune_tail_2": (2_258_508, 81),
    "tune_tail_3": (2_266_836, 27),
    "tune_tail_4": (2_315_784, 9),
    "tune_tail_5": (2_122_620, 3),
    "tune_plus": (2_246_040, 3),
    "tune_plus_large": (7_432_782, 3),
    "tune_tail_5_large": (4_387_116, 3),
    "tune_vanilla_small": (364_908, 729),
    "tune_plus_1024": (9_820_024, 3),
    "tune_plus_256": (1_436_296, 3),
    "tune_plus_128": (588_936, 3),
    "tune_plus_64": (335_392, 3),
    "tune_plus_32": (248_256, 3),
    "tune_clmr_tail": (2_548_155, 1),
    "clmr": (2_394_162, 1),
}


def trainable_parameters(model):
    return sum(int(np.prod(variable.shape)) for variable in model.trainable_variables)


def noise(*shape, seed=0):
    return np.random.default_rng(seed).normal(0, 0.1, shape).astype("float32")


def small(**arguments):
    return TUNe(base_filters=2, tail_filters=[4, 8, 8, 8, 8, 8, 8, 8, 16], **arguments)


@pytest.mark.parametrize("preset", PUBLISHED)
def test_published_parameters_and_resolution(preset):
    model = TUNe.from_preset(preset, load_weights=False)
    parameters, steps = PUBLISHED[preset]
    head = model.representation_dim * 50 + 50
    assert trainable_parameters(model) + head == parameters
    last = model.get_layer(model.stage_names[-1])
    axis = 2 if last.data_format == "channels_first" else 1
    assert last.output.shape[axis] == steps
    assert model.output_shape == (None, model.representation_dim)
    assert model.layers[-1].name == "representation"


def test_stages_are_named_and_can_be_tapped():
    model = TUNe.from_preset("tune_plus", load_weights=False)
    assert model.stage_names == (
        *(f"contract_{k}" for k in (1, 2, 3, 4)),
        "bottleneck",
        *(f"expand_{k}" for k in (1, 2, 3, 4)),
        *(f"tail_{k}" for k in range(1, 10)),
    )
    tap = keras.Model(model.input, model.get_layer("bottleneck").output)
    assert sorted(tap(noise(1, 59049, 1)).shape[1:]) == [176, 729]


def test_depth_zero_is_clmr_whatever_the_preset():
    for model in (
        TUNe(decoder_depth=0),
        TUNe.from_preset("tune_plus", load_weights=False, decoder_depth=0),
    ):
        assert trainable_parameters(model) + 512 * 50 + 50 == 2_394_162
        assert model.stage_names[0] == "stem"
    narrow = TUNe.from_preset("tune_plus", load_weights=False, decoder_depth=0, base_filters=16)
    assert narrow.representation_dim == 64
    deep = {"contraction_depth": 5, "base_filters": 2}
    assert TUNe.from_preset("clmr", load_weights=False, **deep).stage_names[0] == "stem"


@pytest.mark.parametrize(
    ("preset", "depth"),
    [
        ("tune_plus_32", "contraction_depth"),
        ("tune_plus_32", "decoder_depth"),
        ("clmr", "contraction_depth"),
    ],
)
def test_overrides_that_are_none_change_nothing(preset, depth):
    sizes = {"base_filters": 2, depth: 3}
    none = dict.fromkeys({"contraction_depth", "decoder_depth", "tail_filters"} - {depth})
    one, two = (
        TUNe.from_preset(preset, load_weights=False, **sizes, **others) for others in ({}, none)
    )
    assert one.get_config() == two.get_config()


def test_shallower_decoders_shorten_the_tail_as_published():
    # tune_expansive_1 is tune_vanilla with one expansive stage fewer; the width is the same.
    model = TUNe.from_preset("tune_vanilla", load_weights=False, decoder_depth=3)
    assert trainable_parameters(model) + 512 * 50 + 50 == PUBLISHED["tune_expansive_1"][0]
    for depth in range(1, 5):
        model = TUNe.from_preset(
            "tune_plus", load_weights=False, decoder_depth=depth, base_filters=2
        )
        assert model.min_samples == 19683
        assert len([name for name in model.stage_names if name.startswith("tail")]) == 5 + depth
        assert TUNe(decoder_depth=depth, base_filters=2).min_samples == 19683


@pytest.mark.parametrize("preset", ["tune_plus", "clmr", "tune_clmr_tail"])
def test_outputs_do_not_depend_on_the_layout(preset):
    if keras.backend.backend() == "tensorflow":
        pytest.skip("TensorFlow on a CPU convolves in channels_last only")
    models = [
        TUNe.from_preset(preset, load_weights=False, data_format=data_format)
        for data_format in ("channels_first", "channels_last")
    ]
    seed_weights(models[0])
    models[1].set_weights(models[0].get_weights())
    x = noise(1, 59049, 1)
    first, last = (ops.convert_to_numpy(model(x)) for model in models)
    np.testing.assert_allclose(first, last, rtol=1e-4, atol=1e-4 * np.abs(last).max())


@pytest.mark.parametrize("arguments", [{"extra_links": True}, {"decoder_depth": 2}, {}])
def test_saved_models_come_back_bit_for_bit(tmp_path, arguments):
    model = seed_weights(
        TUNe.from_preset("tune_plus_32", load_weights=False, base_filters=2, **arguments)
    )
    model.save(tmp_path / "encoder.keras")
    restored = keras.models.load_model(tmp_path / "encoder.keras")
    assert type(restored) is TUNe
    assert restored.get_config() == model.get_config()
    for before, after in zip(model.get_weights(), restored.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)
    x = noise(1, 59049, 1)
    np.testing.assert_array_equal(model.predict(x, verbose=0), restored.predict(x, verbose=0))


def trainable_layers(model):
    return [layer.trainable for layer in model._flatten_layers()]


def freeze_all(model):
    model.trainable = False


def freeze_a_block(model):
    model.get_layer("contract_1").trainable = False


def freeze_a_part_of_a_block(model):
    model.get_layer("expand_1").block.normalization.trainable = False


def freeze_all_but_the_tail(model):
    model.trainable = False
    model.trainable = True
    for layer in model.layers:
        layer.trainable = layer.name.startswith("tail")
    model.get_layer("tail_1").block.convolution.trainable = False


@pytest.mark.parametrize(
    "freeze", [freeze_all, freeze_a_block, freeze_a_part_of_a_block, freeze_all_but_the_tail]
)
def test_what_is_frozen_stays_frozen_when_saved(tmp_path, freeze):
    model = seed_weights(TUNe(1, 1, base_filters=2, tail_filters=[3, 4], input_samples=27))
    assert all(trainable_layers(model))
    freeze(model)
    flags, names = trainable_layers(model), [v.path for v in model.trainable_variables]
    assert not all(flags)
    model.save(tmp_path / "encoder.keras")
    restored = keras.models.load_model(tmp_path / "encoder.keras")
    assert trainable_layers(restored) == flags
    assert [v.path for v in restored.trainable_variables] == names
    for before, after in zip(model.get_weights(), restored.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)
    # Not a different encoder in a report.
    fingerprint = encoder_fingerprint(restored)
    restored.trainable = True
    assert encoder_fingerprint(restored) == fingerprint


def test_any_length_with_the_same_weights():
    fixed = seed_weights(small())
    free = small(input_samples=None)
    free.set_weights(fixed.get_weights())
    x = noise(2, 59049, 1)
    np.testing.assert_allclose(
        ops.convert_to_numpy(free(x)), ops.convert_to_numpy(fixed(x)), rtol=1e-5
    )
    # What exceeds a multiple of 3 ** 4 is cut off before anything else sees it.
    longer = np.concatenate([x, noise(2, 80, 1, seed=1)], axis=1)
    np.testing.assert_allclose(
        ops.convert_to_numpy(free(longer)), ops.convert_to_numpy(fixed(x)), rtol=1e-5
    )
    assert free(noise(1, 100_000, 1)).shape == (1, 16)


def test_blocks_follow_the_published_arithmetic():
    """The whole of a small TUNe+ against plain NumPy loops over the definition."""
    model = seed_weights(
        TUNe(
            contraction_depth=1,
            decoder_depth=1,
            base_filters=2,
            tail_filters=[3, 4],
            extra_links=True,
            input_samples=27,
        )
    )
    weights = {v.path: ops.convert_to_numpy(v) for v in model.variables}

    def get(block, part, name):
        (found,) = [
            value
            for path, value in weights.items()
            if block in path.split("/") and path.endswith(f"{part}/{name}")
        ]
        return found.astype("float64")

    def block(x, name):
        kernel, bias = get(name, "convolution", "kernel"), get(name, "convolution", "bias")
        padded = np.pad(x, ((1, 1), (0, 0)))
        y = (
            np.stack([sum(padded[t + k] @ kernel[k] for k in range(3)) for t in range(len(x))])
            + bias
        )
        gamma, beta = get(name, "normalization", "gamma"), get(name, "normalization", "beta")
        mean = get(name, "normalization", "moving_mean")
        variance = get(name, "normalization", "moving_variance")
        return np.maximum((y - mean) / np.sqrt(variance + 1e-5) * gamma + beta, 0)

    def pool(x):
        return x[: len(x) // 3 * 3].reshape(-1, 3, x.shape[1]).max(axis=1)

    def upsample(x, name):
        kernel, bias = get(name, "upsampling", "kernel"), get(name, "upsampling", "bias")
        y = np.zeros((3 * len(x), kernel.shape[1]))
        for t in range(len(x)):
            for k in range(3):
                y[3 * t + k] = kernel[k] @ x[t]
        return y + bias

    x = noise(1, 27, 1)
    skip = block(x[0].astype("float64"), "contract_1")
    bottleneck = block(pool(skip), "bottleneck")
    joined = np.concatenate([upsample(bottleneck, "expand_1"), skip], axis=1)
    expanded = block(joined, "expand_1")
    tail_1 = block(np.concatenate([pool(expanded), bottleneck], axis=1), "tail_1")
    tail_2 = block(pool(tail_1), "tail_2")
    found = ops.convert_to_numpy(model(x))[0]
    np.testing.assert_allclose(found, tail_2.mean(axis=0), rtol=1e-4)


def test_mixed_precision_gives_a_float32_representation():
    model = small(dtype="mixed_bfloat16")
    assert model.get_layer("tail_9").compute_dtype == "bfloat16"
    output = model(noise(2, 59049, 1))
    assert keras.backend.standardize_dtype(output.dtype) == "float32"
    assert keras.config.dtype_policy().name == "float32"
    assert TUNe.from_config(model.get_config()).get_layer("tail_9").compute_dtype == "bfloat16"
    # Whatever the global policy is.
    keras.config.set_dtype_policy("mixed_float16")
    model = small(level=0.1, dtype="float32", input_samples=59050)
    layers = [layer for layer in model._flatten_layers() if layer not in (model, model.layers[0])]
    assert {layer.compute_dtype for layer in layers} == {"float32"}


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"decoder_depth": 5}, "decoder_depth=5"),
        ({"contraction_depth": 0, "decoder_depth": 0}, "contraction_depth=0"),
        ({"decoder_depth": 0, "extra_links": True}, "extra_links"),
        ({"input_samples": 1000}, "at least 19683"),
        ({"base_filters": 0}, "base_filters=0"),
        ({"base_filters": 0, "decoder_depth": 0}, r"base_filters=0, tail_filters=\(0, 0,"),
        ({"tail_filters": []}, "tail_filters"),
        ({"tail_type": "long"}, "tail_type=long"),
        ({"data_format": "channels"}, "data_format=channels"),
        ({"sample_rate": 0}, "sample_rate=0"),
        ({"level": -1.0}, "level=-1.0"),
    ],
)
def test_arguments_that_do_not_fit(arguments, message):
    with pytest.raises(ValueError, match=message):
        TUNe(**arguments)


def test_unknown_preset_names_the_nearest():
    with pytest.raises(UserError, match="did you mean tune_plus.*Received: preset=tune_plsu"):
        TUNe.from_preset("tune_plsu")


def test_waveforms_too_short_for_the_pooling_are_refused():
    with pytest.raises(ValueError, match="at least 19683 samples"):
        small(input_samples=None)(noise(1, 19000, 1))


def test_level_and_sample_rate_are_kept_and_loudness_is_not_seen(tmp_path):
    model = seed_weights(small(level=0.05, sample_rate=16000))
    model.save(tmp_path / "encoder.keras")
    loaded = keras.models.load_model(tmp_path / "encoder.keras")
    assert (loaded.level, loaded.sample_rate) == (0.05, 16000)
    x = noise(2, 59049, 1)
    found = ops.convert_to_numpy(model(x))
    np.testing.assert_array_equal(ops.convert_to_numpy(loaded(x)), found)
    np.testing.assert_allclose(ops.convert_to_numpy(model(0.01 * x)), found, rtol=1e-4, atol=1e-6)
    # It is what an encoder without it makes of a waveform of that level.
    plain = small()
    plain.set_weights(model.get_weights())
    level = x * 0.05 / np.sqrt(np.mean(np.square(x), axis=1, keepdims=True))
    np.testing.assert_allclose(ops.convert_to_numpy(plain(level)), found, rtol=1e-4, atol=1e-6)


def test_configurations_of_earlier_versions_have_the_published_rate_and_no_level():
    config = small().get_config()
    for key in ("sample_rate", "level", "trainable", "layers_trainable"):
        del config[key]
    model = TUNe.from_config(config)
    assert all(trainable_layers(model))
    assert model.sample_rate == 22050 and model.level is None
