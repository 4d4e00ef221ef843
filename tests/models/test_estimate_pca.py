"""The representation as a map of pooled stages, against scikit-learn's PCA and ridge regression."""

import keras
import numpy as np
import pytest
from keras import ops
from seeded import seed_weights
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from keras_tune.evaluation import embedding_model
from keras_tune.layers import AcousticFeatures
from keras_tune.models import TUNe, estimate_pca, fit_representation, with_pooled_stages


def small(stages=2, dim=6):
    return seed_weights(
        TUNe(
            1,
            1,
            base_filters=2,
            tail_filters=[6, 8],
            input_samples=243,
            pooled_stages=stages,
            pooled_dim=dim,
        )
    )


def windows(count=60):
    generator = np.random.default_rng(0)
    return generator.normal(0.1, 0.3, (count, 243, 1)).astype("float32")


def pooled(encoder, x, stages=2):
    names = encoder.stage_names[-stages:]
    return ops.convert_to_numpy(embedding_model(encoder, names, "mean_std")(x))


def outputs(encoder, x):
    return ops.convert_to_numpy(encoder(x, training=False)).astype("float64")


@pytest.mark.parametrize("whitening", [0.0, 0.7, 1.0])
def test_distances_are_those_of_scikit_learn_s_pca(whitening):
    """The rotation changes no distance; the factor makes the mean variance that of 0.3."""
    encoder, x = small(), windows()
    estimate_pca(encoder, [x[:32], x[32:]], whitening=whitening)
    standardized = StandardScaler().fit_transform(pooled(encoder, x).astype("float64"))
    pca = PCA(6, svd_solver="full").fit(standardized)
    expected = pca.transform(standardized)
    expected /= expected.std(axis=0) ** whitening
    expected *= 0.3 * np.sqrt(6 / np.sum(expected.var(axis=0)))
    found = outputs(encoder, x)
    np.testing.assert_allclose(found @ found.T, expected @ expected.T, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(found.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(found.var(axis=0).mean(), 0.09, rtol=1e-3)


def test_the_components_are_spread_over_all_outputs():
    encoder, x = small(dim=12), windows()
    estimate_pca(encoder, [x], whitening=0.0)
    variances = outputs(encoder, x).var(axis=0)
    components = PCA(12).fit(StandardScaler().fit_transform(pooled(encoder, x))).explained_variance_
    assert variances.max() / variances.min() < 0.2 * components[0] / components[-1]


def test_with_few_windows_there_are_fewer_components():
    encoder, x = small(dim=20), windows(5)
    estimate_pca(encoder, [x])
    found = outputs(encoder, x)
    assert np.linalg.matrix_rank(found, tol=1e-3) == 4
    assert np.isfinite(found).all() and (found.std(axis=0) > 0).all()


def test_a_channel_that_is_always_zero_has_no_weight():
    encoder, x = small(stages=1), windows()
    norm = encoder.get_layer("tail_2").block.normalization
    gamma, beta = np.ones(8), np.zeros(8)
    gamma[3], beta[3] = 0, -1
    norm.gamma.assign(gamma)
    norm.beta.assign(beta)
    estimate_pca(encoder, [x])
    kernel, _ = encoder.get_layer("representation").get_weights()
    np.testing.assert_array_equal(kernel[[3, 11]], 0)
    assert np.abs(kernel[[2, 10]]).max() > 0


def test_the_other_weights_stay_and_the_stages_too():
    plain = seed_weights(TUNe(1, 1, base_filters=2, tail_filters=[3, 4], input_samples=243))
    encoder, x = with_pooled_stages(plain, 2, 5), windows(8)
    estimate_pca(encoder, [x])
    assert (encoder.representation_dim, encoder.output_shape) == (5, (None, 5))
    np.testing.assert_array_equal(pooled(encoder, x), pooled(plain, x))
    back = with_pooled_stages(encoder, 0)
    np.testing.assert_array_equal(outputs(back, x), outputs(plain, x))


def test_saved_and_loaded(tmp_path):
    encoder, x = small(), windows(8)
    estimate_pca(encoder, [x])
    encoder.save(tmp_path / "encoder.keras")
    again = keras.models.load_model(tmp_path / "encoder.keras")
    assert again.get_config() == encoder.get_config()
    np.testing.assert_allclose(outputs(again, x), outputs(encoder, x), rtol=1e-5, atol=1e-6)


def test_what_is_refused():
    plain = TUNe(1, 1, base_filters=2, tail_filters=[4], input_samples=243)
    with pytest.raises(ValueError, match="must be a TUNe with `pooled_stages`"):
        estimate_pca(plain, [windows()])
    with pytest.raises(ValueError, match="from 0 to 1. Received: whitening=1.5"):
        estimate_pca(small(), [windows()], whitening=1.5)
    for batches in ([], [windows(1)]):
        with pytest.raises(ValueError, match="at least two windows. Received: "):
            estimate_pca(small(), batches)
    with pytest.raises(ValueError, match="windows that differ"):
        estimate_pca(small(), [np.repeat(windows(1), 4, axis=0)])
    with pytest.raises(ValueError, match="`pooled_stages` must be from 0 to 5.*pooled_stages=6"):
        small(stages=6)
    with pytest.raises(ValueError, match="pooled_dim=0"):
        small(dim=0)


def test_acoustic_features_beside_the_stages(tmp_path):
    plain = seed_weights(TUNe(1, 1, base_filters=2, tail_filters=[6, 8], input_samples=3087))
    encoder = with_pooled_stages(plain, 2, 5, acoustic_features=True)
    x = np.random.default_rng(0).normal(0, 0.1, (40, 3087, 1)).astype("float32")
    estimate_pca(encoder, [x], whitening=0.0)
    features = ops.convert_to_numpy(AcousticFeatures(22050)(x[..., 0]))
    together = np.concatenate([pooled(plain, x), features], axis=1).astype("float64")
    # As in `estimate_pca`, what does not vary has no weight.
    together = together[:, together.std(axis=0) > 1e-6]
    expected = PCA(5, svd_solver="full").fit_transform(StandardScaler().fit_transform(together))
    expected *= 0.3 * np.sqrt(5 / np.sum(expected.var(axis=0)))
    found = outputs(encoder, x)
    np.testing.assert_allclose(found @ found.T, expected @ expected.T, rtol=1e-2, atol=1e-2)
    encoder.save(tmp_path / "encoder.keras")
    again = keras.models.load_model(tmp_path / "encoder.keras")
    np.testing.assert_allclose(outputs(again, x), found, rtol=1e-4, atol=1e-5)
    # Without pooled stages there is no map for them to be in.
    assert not with_pooled_stages(encoder, 0, acoustic_features=True).acoustic_features
    with pytest.raises(ValueError, match="a known length of at least 3072 samples"):
        with_pooled_stages(small(), 2, 5, acoustic_features=True)


@pytest.mark.parametrize("penalty", [1e-3, 0.5])
def test_the_regression_on_a_teacher_is_that_of_scikit_learn(penalty):
    encoder, teacher, x = small(), seed_weights(small(stages=1), seed=1), windows()
    before = encoder.get_layer("tail_2").get_weights()
    fit_representation(encoder, teacher, [x[:32], x[32:]], penalty)
    standardized = StandardScaler().fit_transform(pooled(encoder, x).astype("float64"))
    targets = outputs(teacher, x)
    ridge = Ridge(alpha=penalty * len(x)).fit(standardized, targets)
    np.testing.assert_allclose(outputs(encoder, x), ridge.predict(standardized), atol=1e-4)
    for one, two in zip(before, encoder.get_layer("tail_2").get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)


def test_a_regression_that_cannot_be_computed():
    with pytest.raises(ValueError, match="`penalty` must be positive. Received: penalty=0"):
        fit_representation(small(), small(), [windows()], 0)
    with pytest.raises(ValueError, match=r"`teacher` must have .* \(6,\). Received: \(7,\)"):
        fit_representation(small(), small(dim=7), [windows()])
    with pytest.raises(ValueError, match="`encoder` must be a TUNe with `pooled_stages`"):
        fit_representation(small(stages=0), small(), [windows()])
