"""Weights that are the same on every backend, whose random generators differ."""

import numpy as np


def seed_weights(model, seed=0):
    """Draw every weight of a model with NumPy, batch normalization's statistics included."""
    generator = np.random.default_rng(seed)
    weights = []
    for variable in model.weights:
        shape = tuple(variable.shape)
        if variable.path.endswith(("variance", "gamma")):
            weights.append(generator.uniform(0.5, 1.5, shape))
        elif len(shape) > 1:
            weights.append(generator.normal(0, np.sqrt(2 / np.prod(shape[:-1])), shape))
        else:
            weights.append(generator.normal(0, 0.1, shape))
    model.set_weights(weights)
    return model
