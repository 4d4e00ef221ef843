import keras
import numpy as np
import pytest
from seeded import seed_weights

from keras_tune.augment import Compose, PolarityInversion
from keras_tune.models import TUNe
from keras_tune.training import ContrastiveModel

SAMPLES = 81


def plain_encoder():
    """An encoder whose batch normalization keeps to its moving averages."""
    inputs = keras.Input((SAMPLES, 1))
    x = keras.layers.Conv1D(4, 3, strides=3, activation="tanh")(inputs)
    x = keras.layers.BatchNormalization(trainable=False)(x)
    # Wide enough that no clip has a hidden layer of zeros only, whose projection has no direction.
    x = keras.layers.Conv1D(32, 3, strides=3, activation="tanh")(x)
    return keras.Model(inputs, keras.layers.GlobalAveragePooling1D()(x))


def tune_encoder():
    return TUNe(
        contraction_depth=1,
        decoder_depth=1,
        base_filters=2,
        tail_filters=[4, 6],
        input_samples=SAMPLES,
    )


def clips(seed=0, count=12):
    shape = (count, 2, SAMPLES)
    return np.random.default_rng(seed).normal(0, 0.5, shape).astype("float32")


def built(encoder, micro_batch=None, **options):
    chain = Compose([PolarityInversion(0.5)], seed=1)
    options = {"projection_dim": 5, "augmenter": chain, "seed": 1, **options}
    return seed_weights(ContrastiveModel(encoder, micro_batch=micro_batch, **options))


def trained(encoder, micro_batch, steps=2, **options):
    """A model after some steps with an optimizer that adds the plain gradients up."""
    model = built(encoder, micro_batch, **options)
    model.compile(keras.optimizers.SGD(0.1), jit_compile=False)
    logs = [model.train_on_batch(clips(step), return_dict=True) for step in range(steps)]
    return model, logs


@pytest.mark.parametrize("separate_views", [False, True])
def test_gradients_are_those_of_the_whole_batch(separate_views):
    whole, expected = trained(plain_encoder(), None, separate_views=separate_views)
    start = built(plain_encoder()).get_weights()
    assert max(np.abs(a - b).max() for a, b in zip(start, whole.get_weights(), strict=True)) > 1e-2
    for micro_batch in (3, 12):
        model, logs = trained(plain_encoder(), micro_batch, separate_views=separate_views)
        for one, two in zip(model.get_weights(), whole.get_weights(), strict=True):
            np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-6)
        for found, wanted in zip(logs, expected, strict=True):
            assert set(found) == set(wanted)
            for name, value in wanted.items():
                assert float(found[name]) == pytest.approx(float(value), rel=1e-4, abs=1e-5)


def test_groups_and_weights_are_those_of_the_whole_batch():
    """The masked pairs lie in different chunks."""
    batch = {
        "audio": clips(),
        "group": np.array([0, 1, 2, 0, 3, 4, 0, 5, 1, 6, 7, 8], "int32"),
        "weight": np.linspace(0.5, 1.5, 12).astype("float32"),
    }
    found = {}
    for micro_batch, given in ((None, batch), (3, batch), (4, clips())):
        model = built(plain_encoder(), micro_batch)
        model.compile(keras.optimizers.SGD(0.1), jit_compile=False)
        logs = model.train_on_batch(given, return_dict=True)
        found[micro_batch] = [*model.get_weights(), *(float(logs[key]) for key in sorted(logs))]
    for one, two in zip(found[None], found[3], strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-5)
    assert max(np.abs(a - b).max() for a, b in zip(found[None], found[4], strict=True)) > 1e-3


def test_accumulated_small_batches_would_be_something_else():
    whole, _ = trained(plain_encoder(), None, steps=1, augmenter=None)
    small = built(plain_encoder(), augmenter=None)
    small.compile(keras.optimizers.SGD(0.1, gradient_accumulation_steps=4), jit_compile=False)
    for part in np.split(clips(), 4):
        small.train_on_batch(part)
    differences = [
        np.abs(a - b).max() for a, b in zip(whole.get_weights(), small.get_weights(), strict=True)
    ]
    assert max(differences) > 1e-3


def test_batch_normalization_sees_a_micro_batch_at_a_time():
    """Each chunk moves the averages once, and the first of the two passes does not."""
    model, _ = trained(tune_encoder(), 6, steps=1, augmenter=None)
    reference = built(tune_encoder(), augmenter=None)
    views = keras.ops.convert_to_numpy(reference.make_views(clips(), training=True))
    for first in (0, 1):
        # The chunks take every other pair.
        chunk = views.reshape(12, 2, SAMPLES)[first::2].reshape(12, SAMPLES)
        reference.project(keras.ops.convert_to_tensor(chunk), training=True)
    averages = [
        keras.ops.convert_to_numpy(first_normalization(m).moving_mean) for m in (model, reference)
    ]
    np.testing.assert_allclose(*averages, rtol=1e-4, atol=1e-6)


def first_normalization(model):
    layers = model.encoder._flatten_layers()
    return next(layer for layer in layers if isinstance(layer, keras.layers.BatchNormalization))


def test_fit_compiled_and_saved(tmp_path):
    model, _ = trained(tune_encoder(), 4, steps=0)
    jit_compile = keras.backend.backend() != "torch"
    model.compile(keras.optimizers.Adam(1e-3), jit_compile=jit_compile)
    history = model.fit(clips(), batch_size=12, epochs=2, shuffle=False, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    model.save(tmp_path / "model.keras")
    assert keras.models.load_model(tmp_path / "model.keras").micro_batch == 4


def test_a_batch_that_cannot_be_divided():
    model, _ = trained(plain_encoder(), 5, steps=0)
    with pytest.raises(ValueError, match="micro_batch=5, a batch of 12"):
        model.train_on_batch(clips())
    with pytest.raises(ValueError, match="micro_batch=0"):
        ContrastiveModel(plain_encoder(), micro_batch=0)
