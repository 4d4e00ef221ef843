import math

import keras
import keras_tuner
import numpy as np
import pytest
from keras_tuner.errors import FailedTrialError

from keras_tune.errors import UserError
from keras_tune.search import Range, Space, TUNeHyperModel

SMALL = {"tail_length": 5, "representation_dim": 8, "contraction_depth": 2}


def sample(hypermodel, count, seed=0):
    """Configurations as KerasTuner's random oracle draws them."""
    hp = keras_tuner.HyperParameters()
    hypermodel.declare_hyperparameters(hp)
    oracle = keras_tuner.oracles.RandomSearchOracle(
        keras_tuner.Objective("loss", "min"), count, hyperparameters=hp, seed=seed + 1
    )
    for _ in range(count):
        drawn = hp.copy()
        drawn.values = oracle._random_values()
        yield drawn


def test_the_defaults_are_the_published_encoders():
    hypermodel = TUNeHyperModel()
    hp = keras_tuner.HyperParameters()
    hypermodel.declare_hyperparameters(hp)
    assert [entry.name for entry in hp.space if len(getattr(entry, "values", ())) > 1] == [
        "decoder_depth"
    ]
    hp.values["decoder_depth"] = 0
    clmr = hypermodel.configuration(hp)
    assert (clmr.base_filters, clmr.extra_links, clmr.contraction_depth) == (129, False, None)
    hp.values["decoder_depth"] = 4
    hp.ensure_active_values()
    assert hypermodel.configuration(hp).base_filters == 11


def test_what_only_decoders_have_is_searched_for_them_alone():
    space = Space(
        decoder_depth=[0, 1, 2, 3],
        contraction_depth=[2, 3],
        tail_length=[4, 5],
        extra_links=[False, True],
        base_filters=4,
        learning_rate=Range(1e-4, 1e-2, log=True),
        augment={"gain_probability": Range(0.0, 1.0), "max_cents": [100.0, 700.0]},
    )
    hypermodel = TUNeHyperModel(space, parameter_budget=None)
    seen = set()
    for hp in sample(hypermodel, 60):
        chosen = hypermodel.configuration(hp)
        seen.add((chosen.decoder_depth, chosen.contraction_depth))
        decoder_only = {"tail_length", "extra_links"} & {
            name for name in hp.values if hp.is_active(name)
        }
        assert len(decoder_only) == (2 if chosen.decoder_depth else 0)
        assert 1e-4 <= chosen.learning_rate <= 1e-2
        assert set(chosen.augment) == {"gain_probability", "max_cents"}
    assert seen == {(0, None), (1, 2), (1, 3), (2, 2), (2, 3), (3, 3)}


def test_every_encoder_keeps_the_budget():
    space = Space(
        decoder_depth=[0, 1, 2, 3, 4],
        contraction_depth=[4, 5],
        tail_length=[5, 7, 9],
        extra_links=[False, True],
        representation_dim=[64, 512],
    )
    hypermodel = TUNeHyperModel(space, parameter_budget=2.4e6)
    for hp in sample(hypermodel, 50):
        assert 0.65 * 2.4e6 <= hypermodel.configuration(hp).parameters <= 2.4e6


def test_build_makes_what_the_configuration_says():
    space = Space(decoder_depth=2, **SMALL, learning_rate=0.01, temperature=0.2, augment={})
    hypermodel = TUNeHyperModel(
        space,
        3000,
        budget_slack=0.6,
        input_samples=243,
        augment={"gain_probability": 0.5},
        precision="mixed_bfloat16",
    )
    hp = keras_tuner.HyperParameters()
    # As KerasTuner does before every trial.
    keras.utils.clear_session()
    keras.config.set_dtype_policy("float32")
    try:
        model = hypermodel.build(hp)
        chosen = hypermodel.configuration(hp)
        encoder = model.encoder
        assert encoder.get_layer("bottleneck").compute_dtype == "bfloat16"
    finally:
        keras.config.set_dtype_policy("float32")
    parameters = sum(math.prod(weight.shape) for weight in encoder.trainable_weights)
    assert parameters == chosen.parameters <= 3000
    assert (encoder.decoder_depth, encoder.contraction_depth) == (2, 2)
    assert encoder.extra_links and encoder.representation_dim == 8
    assert model.temperature == 0.2
    np.testing.assert_allclose(float(model.optimizer.learning_rate), 0.01, rtol=1e-6)


@pytest.mark.parametrize(
    "space, budget, message",
    [
        ({"tail_length": 6, "base_filters": 2}, None, "input_samples"),
        ({"contraction_depth": 6, "base_filters": 2}, None, "input_samples"),
        ({}, 10, "above the budget"),
        ({"base_filters": 2}, 10, "a width of 2 has [0-9,]+ parameters, which is above the budget"),
    ],
)
def test_what_cannot_work_fails_as_a_trial(space, budget, message):
    space = Space(**{"decoder_depth": 2, **SMALL, **space})
    hypermodel = TUNeHyperModel(space, budget, input_samples=243)
    with pytest.raises(FailedTrialError, match=message):
        hypermodel.build(keras_tuner.HyperParameters())


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="only JAX distributes this way")
def test_the_distribution_is_set_for_every_trial():
    hypermodel = TUNeHyperModel(distribution="data_parallel")
    keras.utils.clear_session()
    try:
        hypermodel.prepare()
        assert isinstance(keras.distribution.distribution(), keras.distribution.DataParallel)
    finally:
        keras.distribution.set_distribution(None)


@pytest.mark.parametrize(
    "space, message",
    [
        ({"decoder_depth": []}, "decoder_depth"),
        ({"decoder_depth": [2, 2]}, "twice"),
        ({"decoder_depth": 5}, "contraction_depth"),
        ({"learning_rate": 0.0}, "positive"),
        ({"learning_rate": Range(1e-2, 1e-4)}, "below"),
        ({"temperature": Range(0.0, 1.0, log=True)}, "above 0"),
        ({"base_filters": 0}, "at least 1"),
    ],
)
def test_spaces_that_make_no_sense(space, message):
    with pytest.raises(UserError, match=message):
        Space(**space)


def test_settings_that_make_no_sense():
    with pytest.raises(ValueError, match="Received: parameter_budget=None"):
        TUNeHyperModel(parameter_budget=None)
    with pytest.raises(ValueError, match=r"Received: space\.augment\.echo=1\.0"):
        TUNeHyperModel(Space(augment={"echo": 1.0}))
    with pytest.raises(ValueError, match="Received: budget_slack=2"):
        TUNeHyperModel(budget_slack=2)
    if keras.backend.backend() != "jax":
        with pytest.raises(ValueError, match="needs the JAX backend"):
            TUNeHyperModel(distribution="data_parallel")


def test_another_seed_leaves_the_first_hypermodel_as_it_is():
    hypermodel = TUNeHyperModel(Space(**SMALL, decoder_depth=1, base_filters=2), None)
    other = hypermodel.with_seed(7)
    assert (other.seed, hypermodel.seed) == (7, 42)
    # What KerasTuner calls is the copy's own method.
    assert other.build.__self__ is other
