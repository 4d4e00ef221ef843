import keras
import numpy as np
import pytest
from keras import ops

from keras_tune.losses import nt_xent_logits
from keras_tune.models import TUNe
from keras_tune.training import (
    ContrastiveModel,
    RepresentationMonitor,
    effective_rank,
    pretext_accuracy,
)


def noise(*shape, seed=0):
    return np.random.default_rng(seed).normal(0, 0.3, shape).astype("float32")


def test_effective_rank_of_known_spectra():
    # Centering takes one dimension of an orthonormal set.
    assert effective_rank(np.eye(5)) == pytest.approx(4)
    line = np.outer(np.arange(6.0), np.ones(3))
    assert effective_rank(line) == pytest.approx(1)
    assert effective_rank(np.ones((4, 3))) == 0
    assert np.isnan(effective_rank(np.array([[np.nan, 1], [0, 1]])))
    # Two orthogonal directions, with deviations in the ratio of 3 to 1.
    cross = np.array([[3.0, 0], [-3, 0], [0, 1], [0, -1]])
    entropy = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    assert effective_rank(cross) == pytest.approx(np.exp(entropy))


def test_accuracy_is_that_of_the_contrastive_model():
    pairs = 0.5 * noise(20, 2, 6) + noise(20, 1, 6, seed=1)
    logits, labels = nt_xent_logits(pairs[:, 0], pairs[:, 1])
    best = ops.convert_to_numpy(ops.argmax(logits, axis=-1))
    expected = np.mean(best == ops.convert_to_numpy(labels))
    assert 0 < expected < 1
    assert pretext_accuracy(pairs) == pytest.approx(expected)
    assert pretext_accuracy(np.ones((4, 2, 3))) == 0


def test_groups_and_weights_in_the_accuracy():
    pairs = 0.5 * noise(6, 2, 4) + noise(6, 1, 4, seed=1)
    groups, weights = np.array([1, 1, 2, 3, 4, 1]), np.array([1, 0, 2, 0.5, 1, 1.5])
    unit = pairs / np.linalg.norm(pairs, axis=-1, keepdims=True)
    first = np.zeros(6)
    for clip in range(6):
        for view in (0, 1):
            anchor, positive = unit[clip, view], unit[clip, 1 - view]
            others = [unit[k, v] for k in range(6) if groups[k] != groups[clip] for v in (0, 1)]
            first[clip] += all(anchor @ other < anchor @ positive for other in others) / 2
    expected = np.sum(first * weights) / np.sum(weights)
    assert pretext_accuracy(pairs, groups, weights) == pytest.approx(expected)
    assert pretext_accuracy(pairs) != pytest.approx(expected)


def test_mel_statistics_have_the_task_of_the_validation():
    """The same candidates: with the clips that fill up a batch, without those of a group."""
    encoder = TUNe(1, 1, base_filters=2, tail_filters=[4, 6], input_samples=4096)
    pitch = np.linspace(200, 4000, 8)[:, None, None]
    tones = np.repeat(np.sin(2 * np.pi * pitch * np.arange(4096) / 22050), 2, axis=1)
    crops = (tones + 0.01 * noise(8, 2, 4096)).astype("float32")
    # Copies of a clip cannot be told apart.
    crops[1:4] = crops[0]
    counted = np.array([1, 0, 0, 0, 1, 1, 1, 1])
    batch = {"audio": crops, "weight": counted.astype("float32")}

    def accuracy(batches):
        monitor, logs = RepresentationMonitor(batches), {}
        monitor.set_model(ContrastiveModel(encoder))
        monitor.on_epoch_end(0, logs)
        return logs

    assert accuracy([batch])["val_mel_accuracy"] == pytest.approx(4 / 5)
    grouped = accuracy([{**batch, "group": np.array([0, 0, 0, 0, 4, 5, 6, 7])}])
    assert grouped["val_mel_accuracy"] == 1
    # The rank is that of the clips that count.
    alone = accuracy([crops[counted > 0]])
    assert alone["val_mel_accuracy"] == 1
    assert grouped["val_effective_rank"] == pytest.approx(alone["val_effective_rank"], rel=1e-5)
    with pytest.raises(ValueError, match="`batches` must have crops that count"):
        RepresentationMonitor([{**batch, "weight": np.zeros(8)}])


def test_history_has_the_rank_and_what_mel_statistics_reach():
    encoder = TUNe(1, 1, base_filters=2, tail_filters=[4, 6], input_samples=4096)
    model = ContrastiveModel(encoder, seed=0)
    model.compile("adam")
    # Each clip is a noise with a spectrum of its own, so mel statistics find the other crop.
    time = np.arange(4096) / 22050
    pitch = np.linspace(200, 4000, 8)[:, None, None]
    crops = np.repeat(np.sin(2 * np.pi * pitch * time), 2, axis=1) + 0.01 * noise(8, 2, 4096)
    crops = crops.astype("float32")
    monitor = RepresentationMonitor([crops])
    history = model.fit(crops, batch_size=8, epochs=1, verbose=0, callbacks=[monitor]).history
    assert history["val_mel_accuracy"] == [1.0]
    vectors = ops.convert_to_numpy(model.encoder(crops.reshape(-1, 4096, 1)))
    np.testing.assert_allclose(history["val_effective_rank"], effective_rank(vectors), rtol=1e-3)
    # In another training it looks at the other encoder.
    collapsed = ContrastiveModel(TUNe.from_config(encoder.get_config()), seed=0)
    for weight in collapsed.encoder.weights:
        weight.assign(np.zeros(weight.shape))
    monitor.set_model(collapsed)
    assert monitor.effective_rank() == 0


def test_there_must_be_crops():
    with pytest.raises(ValueError, match="batches"):
        RepresentationMonitor([])


def test_weight_decay_leaves_biases_alone_after_loading(tmp_path):
    from keras_tune.training import AdamW

    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.compile(AdamW(0.1, weight_decay=0.5), "mse")
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    kernel, bias = loaded.layers[0].get_weights()
    loaded.layers[0].set_weights([kernel, bias + 1])
    # Without a gradient only the decay acts: rate times decay of each kernel weight.
    zero = [ops.zeros(v.shape) for v in loaded.trainable_variables]
    loaded.optimizer.apply(zero, loaded.trainable_variables)
    found = loaded.layers[0].get_weights()
    np.testing.assert_allclose(found[0], kernel * (1 - 0.1 * 0.5), rtol=1e-5)
    np.testing.assert_allclose(found[1], bias + 1)
