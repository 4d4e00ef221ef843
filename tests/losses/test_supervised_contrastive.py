"""Supervised contrast against a slow version of the formula, and against NT-Xent."""

import numpy as np
import pytest
from keras import ops

from keras_tune.losses import nt_xent, supervised_contrastive


def slow(z_i, z_j, groups, temperature):
    """Khosla et al. (NeurIPS 2020), equation 2, one anchor after the other."""
    z = np.concatenate([z_i, z_j]).astype("float64")
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    labels = np.concatenate([groups, groups])
    losses = []
    for i in range(len(z)):
        others = [a for a in range(len(z)) if a != i]
        total = sum(np.exp(z[i] @ z[a] / temperature) for a in others)
        positives = [p for p in others if labels[p] == labels[i]]
        terms = [np.log(np.exp(z[i] @ z[p] / temperature) / total) for p in positives]
        losses.append(-sum(terms) / len(positives))
    return np.array(losses)


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_against_the_formula(temperature):
    z_i, z_j = np.random.default_rng(0).normal(size=(2, 7, 16)).astype("float32")
    groups = np.array([0, 1, 0, 2, 2, 2, 3])
    found = ops.convert_to_numpy(supervised_contrastive(z_i, z_j, groups, temperature))
    np.testing.assert_allclose(found, slow(z_i, z_j, groups, temperature), rtol=2e-5)


def test_it_is_nt_xent_where_no_clips_share_a_label():
    z_i, z_j = np.random.default_rng(1).normal(size=(2, 6, 8)).astype("float32")
    found = supervised_contrastive(z_i, z_j, np.arange(6) + 5, 0.2)
    expected = nt_xent(z_i, z_j, 0.2)
    np.testing.assert_allclose(*map(ops.convert_to_numpy, (found, expected)), rtol=1e-5)
