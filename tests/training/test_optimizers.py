import keras
import numpy as np
import pytest

from keras_tune.training import LARS

SHAPES = [(3, 4, 5), (5,), (6, 2), (2, 2)]


def reference(weights, gradients, rates, momentum, decay, trust):
    """The formula of the docstring, weight by weight, in double precision."""
    weights = [w.astype("float64") for w in weights]
    momenta = [np.zeros_like(w) for w in weights]
    for rate, step in zip(rates, gradients, strict=True):
        for k, g in enumerate(step):
            ratio = 1.0
            if weights[k].ndim > 1:
                g = g + decay * weights[k]
                size, slope = np.linalg.norm(weights[k]), np.linalg.norm(g)
                if size and slope:
                    ratio = trust * size / slope
            momenta[k] = momentum * momenta[k] + rate * ratio * g
            weights[k] = weights[k] - momenta[k]
    return weights


def drawn(seed=0, steps=5):
    generator = np.random.default_rng(seed)
    weights = [generator.normal(size=shape).astype("float32") for shape in SHAPES]
    # A weight that is zero, and its gradient with it in the first step.
    weights[3][:] = 0
    gradients = [
        [generator.normal(size=shape).astype("float32") for shape in SHAPES] for _ in range(steps)
    ]
    gradients[0][3][:] = 0
    return weights, gradients


def test_steps_follow_the_formula():
    weights, gradients = drawn()
    variables = [keras.Variable(w) for w in weights]
    optimizer = LARS(0.5, momentum=0.8, weight_decay=0.1, trust_coefficient=0.02)
    for step in gradients:
        optimizer.apply([keras.ops.convert_to_tensor(g) for g in step], variables)
    expected = reference(weights, gradients, [0.5] * 5, 0.8, 0.1, 0.02)
    for variable, value in zip(variables, expected, strict=True):
        np.testing.assert_allclose(
            keras.ops.convert_to_numpy(variable), value, rtol=1e-5, atol=1e-6
        )


def test_a_schedule_and_a_round_trip():
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0, decay_steps=3, warmup_target=0.6, warmup_steps=2
    )
    whole = LARS(schedule, momentum=0.5, weight_decay=1e-2, trust_coefficient=0.1)
    optimizer = keras.optimizers.deserialize(keras.optimizers.serialize(whole))
    assert isinstance(optimizer, LARS)
    weights, gradients = drawn(1)
    variables = [keras.Variable(w) for w in weights]
    for step in gradients:
        optimizer.apply([keras.ops.convert_to_tensor(g) for g in step], variables)
    # Up in a straight line over two steps, then half a period of a cosine over three.
    rates = [0, 0.3, 0.6, 0.6 * 0.75, 0.6 * 0.25]
    expected = reference(weights, gradients, rates, 0.5, 1e-2, 0.1)
    for variable, value in zip(variables, expected, strict=True):
        np.testing.assert_allclose(
            keras.ops.convert_to_numpy(variable), value, rtol=1e-4, atol=1e-6
        )


def test_the_scale_of_the_gradients_does_not_matter():
    ends = []
    for scale in (1.0, 1000.0):
        weights, gradients = drawn(2)
        variable = keras.Variable(weights[0])
        optimizer = LARS(0.1, weight_decay=0.0)
        for step in gradients:
            optimizer.apply([keras.ops.convert_to_tensor(scale * step[0])], [variable])
        ends.append(keras.ops.convert_to_numpy(variable))
    assert np.abs(ends[0] - weights[0]).max() > 1e-5
    np.testing.assert_allclose(*ends, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "argument", [{"momentum": 1.0}, {"weight_decay": -1}, {"trust_coefficient": -1.0}]
)
def test_arguments(argument):
    with pytest.raises(ValueError, match=f"{next(iter(argument))}="):
        LARS(**argument)
