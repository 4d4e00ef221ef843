import numpy as np
from keras import ops

from keras_tune.losses import covariance_loss, variance_loss


def test_terms_are_those_of_the_formula():
    z = np.random.default_rng(0).normal(0, [0.5, 1.0, 2.0], (7, 3)).astype("float32")
    z[:, 2] += z[:, 0]
    covariance = np.cov(z, rowvar=False)
    off_diagonal = sum(covariance[i, j] ** 2 for i in range(3) for j in range(3) if i != j)
    np.testing.assert_allclose(
        ops.convert_to_numpy(covariance_loss(z)), off_diagonal / 3, rtol=1e-4
    )
    short = [max(0, 1 - np.sqrt(np.var(column, ddof=1) + 1e-4)) for column in z.T]
    assert min(short) == 0 < max(short)
    np.testing.assert_allclose(ops.convert_to_numpy(variance_loss(z)), np.mean(short), rtol=1e-4)
