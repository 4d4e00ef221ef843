import numpy as np
import pytest
from seeded import seed_weights

from keras_tune.models import Tagger, TUNe

LABELS = ["guitar", "slow", "vöcal"]


@pytest.fixture(scope="session")
def tagger():
    """A small tagger with windows of 2,500 samples, which are not a multiple of nine."""
    encoder = TUNe(
        2,
        2,
        base_filters=2,
        tail_filters=[4, 6],
        extra_links=True,
        input_samples=2500,
        name="small",
    )
    tagger = seed_weights(Tagger(encoder, hidden_units=3, labels=LABELS, name="moods"))
    # So that scores differ between windows, and it matters what is averaged over them: the logits
    # of noise are 0, and those of other sounds are far from it.
    noise = np.random.default_rng(0).uniform(-1, 1, (1, 2500, 1)).astype("float32")
    w1, b1, w2, _ = (5 * weight for weight in tagger.head.get_weights())
    hidden = np.maximum(tagger.encoder.predict(noise, verbose=0) @ w1 + b1, 0)
    tagger.head.set_weights([w1, b1, 2.5 * w2, -2.5 * (hidden @ w2)[0]])
    return tagger


@pytest.fixture(scope="session")
def clips():
    """Two clips of three windows and a remainder."""
    return np.random.default_rng(5).uniform(-1, 1, (2, 3 * 2500 + 123)).astype("float32")


@pytest.fixture(scope="session")
def predictions(tagger):
    """What Keras predicts for clips: of each window its embedding, of each clip its scores."""

    def predict(clips):
        count = clips.shape[1] // 2500
        windows = clips[:, : count * 2500].reshape(-1, 2500, 1)
        embedding = np.asarray(tagger.encoder.predict(windows, verbose=0))
        embedding = embedding.reshape(len(clips), count, -1)
        w1, b1, w2, b2 = (np.asarray(weight, "float64") for weight in tagger.head.get_weights())

        def scores(vectors):
            return 1 / (1 + np.exp(-(np.maximum(vectors @ w1 + b1, 0) @ w2 + b2)))

        return {
            "windows": embedding,
            "clips": embedding.mean(axis=1),
            "window_scores": scores(embedding),
            "scores": scores(embedding.mean(axis=1)),
        }

    return predict


@pytest.fixture(scope="session")
def version(tagger, tmp_path_factory):
    """The folder of the tagger's first version, as TensorFlow Serving would load it."""
    pytest.importorskip("tensorflow", reason="TensorFlow is not installed")
    from keras_tune.serving import export_tf_serving

    return export_tf_serving(tagger, tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def signatures(version):
    import tensorflow as tf

    loaded = tf.saved_model.load(str(version))
    # A signature lives no longer than what it was loaded from.
    yield loaded.signatures
    del loaded
