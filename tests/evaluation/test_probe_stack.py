import itertools

import keras
import numpy as np
import pytest

from keras_tune.evaluation import ProbeConfiguration, Schedule, train_probes
from keras_tune.evaluation.probe_stack import ProbeStack, loss_gradients, mean_losses
from keras_tune.evaluation.probe_training import Plateau

pytestmark = pytest.mark.one_backend


def data(count=90, width=6, outputs=3, seed=0, loss="softmax"):
    generator = np.random.default_rng(seed)
    centres = np.random.default_rng(9).normal(size=(outputs, width))
    classes = generator.integers(0, outputs, count)
    features = (centres[classes] + generator.normal(size=(count, width))).astype("float32")
    if loss == "softmax":
        return features, classes
    targets = (features @ centres.T > 0).astype("float32")
    return features, targets if loss == "sigmoid" else targets + 0.1 * features[:, :outputs]


MIXED = [
    ProbeConfiguration(True, None, 32, 1e-2, 0.25, 0.0),
    ProbeConfiguration(False, 5, 32, 1e-3, 0.5, 1e-3),
    ProbeConfiguration(False, None, 32, 1e-3, 0.5, 1e-1),
    ProbeConfiguration(True, 5, 32, 1e-2, 0.25, 0.0),
    ProbeConfiguration(True, None, 16, 1e-1, 0.0, 0.0),
    ProbeConfiguration(False, None, 32, 3e-2, 0.25, 1e-4),
    ProbeConfiguration(True, None, 32, 1e-1, 0.75, 0.0),
]


@pytest.mark.parametrize(
    "loss, configurations",
    [("softmax", MIXED), ("sigmoid", MIXED[:3]), ("mse", MIXED[-2:])],
)
def test_probes_of_a_stack_are_those_trained_alone(loss, configurations):
    train, valid = data(seed=1, loss=loss), data(60, seed=2, loss=loss)
    # Short patience, so that probes leave the stack at different times and it is made smaller.
    schedule = Schedule(patience=2, max_evaluations=12, plateau_patience=1)
    together = train_probes(train, valid, configurations, loss, 3, "loss", schedule, seed=5)
    if loss == "softmax":
        assert len({probe.steps for probe in together}) > 1
    for configuration, probe in zip(configurations, together, strict=True):
        [alone] = train_probes(train, valid, [configuration], loss, 3, "loss", schedule, seed=5)
        assert probe.configuration == configuration
        assert probe.steps == alone.steps
        assert probe.valid_score == pytest.approx(alone.valid_score, rel=1e-5)
        for stacked, single in zip(probe.weights, alone.weights, strict=True):
            np.testing.assert_allclose(stacked, single, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("hidden", [None, 5])
def test_a_probe_is_what_keras_trains(hidden):
    """The same batches through Dense layers, Adam and L2 regularizers of Keras."""
    features, classes = data(48)
    configuration = ProbeConfiguration(False, hidden, 48, 1e-2, 0.0, 0.02)
    one_evaluation = Schedule(min_steps=15, max_evaluations=1)
    train = (features, classes)
    [probe] = train_probes(train, train, [configuration], "softmax", 3, "loss", one_evaluation)

    start = ProbeConfiguration(False, hidden, 48, 0.0, 0.0, 0.0)
    [initial] = train_probes(train, train, [start], "softmax", 3, "loss", one_evaluation)
    regularizer = {"kernel_regularizer": keras.regularizers.L2(0.01)}
    regularizer["bias_regularizer"] = keras.regularizers.L2(0.01)
    layers = [keras.layers.Dense(3, **regularizer)]
    if hidden:
        layers.insert(0, keras.layers.Dense(hidden, activation="relu", **regularizer))
    model = keras.Sequential([keras.Input((6,)), *layers])
    model.set_weights([w if w.shape[0] > 1 else w[0] for w in initial.weights])
    model.compile(
        keras.optimizers.Adam(1e-2, epsilon=1e-8),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    for _ in range(15):
        model.train_on_batch(features, classes)
    for found, expected in zip(probe.weights, model.get_weights(), strict=True):
        np.testing.assert_allclose(found.reshape(expected.shape), expected, atol=2e-5)


def test_the_best_evaluation_is_kept():
    """A score that is highest early: the probe is that of the best evaluation, not the last one."""
    train, valid = data(seed=1), data(60, seed=2)
    evaluations = []

    def falling(outputs):
        evaluations.append(outputs.copy())
        return np.full(len(outputs), -float(len(evaluations)))

    [probe] = train_probes(
        train,
        valid,
        [ProbeConfiguration(learning_rate=1e-1)],
        "softmax",
        3,
        falling,
        Schedule(patience=3),
    )
    assert len(evaluations) == 4
    assert probe.valid_score == -1
    first = np.exp(evaluations[0][0]) / np.exp(evaluations[0][0]).sum(-1, keepdims=True)
    np.testing.assert_allclose(probe.predict(valid[0]), first, atol=1e-5)


@pytest.mark.parametrize("patience", [0, 1, 5])
def test_the_learning_rate_falls_when_pytorch_s_does(patience):
    torch = pytest.importorskip("torch")
    generator = np.random.default_rng(patience)
    # Losses that fall, stay within a ten-thousandth, and rise.
    losses = 2 * np.exp(-np.cumsum(generator.choice([0.0, 2e-5, 1e-3, -1e-3], 400)))
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=patience, eps=0.0)
    plateau, falls = Plateau(patience), 0
    for loss in losses:
        before = optimizer.param_groups[0]["lr"]
        scheduler.step(loss)
        fell = optimizer.param_groups[0]["lr"] < before
        assert plateau.update(-loss) == fell
        falls += fell
        # Back up, so that it does not end at 0.
        optimizer.param_groups[0]["lr"] = 1.0
    assert 3 < falls < 390


def test_a_plateau_of_patience_5_is_left_at_the_sixth_evaluation():
    """As PyTorch documents it: the rate falls after more than `patience` evaluations in a row."""
    plateau = Plateau(5)
    assert [plateau.update(score) for score in [-1.0] + 14 * [-1.0]] == [
        number in (6, 12) for number in range(15)
    ]
    # Scores to maximize: a ten-thousandth more is no improvement, twice that is.
    plateau = Plateau(0)
    assert [plateau.update(score) for score in (0.5, 0.50004, 0.5002)] == [False, True, False]


def test_probes_learn_slower_from_a_plateau_on():
    """All scores are equal: from the seventh to the eighth, steps become a tenth as long."""
    features, classes = data(48)
    outputs = []

    def level(found):
        outputs.append(found[0].copy())
        return np.zeros(len(found))

    train_probes(
        (features, classes),
        (features, classes),
        [ProbeConfiguration(learning_rate=1e-3)],
        "softmax",
        3,
        level,
        Schedule(patience=100, max_evaluations=10, plateau_patience=5),
    )
    lengths = [np.abs(after - before).max() for before, after in itertools.pairwise(outputs)]
    falls = np.array(lengths[1:]) / lengths[:-1]
    # Looks 1 to 7: the first is the best one, the sixth after it is the seventh.
    assert int(np.argmin(falls)) == 5
    assert falls[5] == pytest.approx(0.1, rel=0.1)


@pytest.mark.parametrize("loss", ["softmax", "sigmoid", "mse"])
def test_gradients_are_those_of_the_losses(loss):
    outputs = np.random.default_rng(0).normal(size=(2, 5, 3))
    _, targets = data(5, loss=loss)
    found = loss_gradients(targets, outputs, loss)
    for place in np.ndindex(outputs.shape):
        change = np.zeros_like(outputs)
        change[place] = 1e-5
        up, down = (mean_losses(targets, outputs + sign * change, loss) for sign in (1, -1))
        assert found[place] == pytest.approx((up - down)[place[0]] / 2e-5, abs=1e-6)


def test_probes_of_different_inputs_do_not_share_a_stack():
    configurations = [ProbeConfiguration(dropout=rate) for rate in (0.0, 0.5)]
    with pytest.raises(ValueError, match="Received: configurations="):
        ProbeStack(configurations, 6, 3, "softmax")
