import keras
import numpy as np
import pytest

from keras_tune.data import open_dataset
from keras_tune.evaluation import OnlineProbe
from keras_tune.models import TUNe
from keras_tune.training import ContrastiveModel


def tones(count, seed):
    generator = np.random.default_rng(seed)
    time = np.arange(400) / 22050
    pitch = np.where(np.arange(count) % 2, 5000, 200)
    clips = 0.3 * np.sin(2 * np.pi * pitch[:, None] * time + generator.uniform(0, 6, (count, 1)))
    return clips.astype("float32"), np.array(["low", "high"])[np.arange(count) % 2]


def model(seed=0):
    keras.utils.set_random_seed(seed)
    encoder = TUNe(
        contraction_depth=1, decoder_depth=1, base_filters=2, tail_filters=[4], input_samples=243
    )
    contrastive = ContrastiveModel(encoder, seed=seed)
    contrastive.compile(keras.optimizers.Adam(1e-3))
    return contrastive


@pytest.mark.parametrize("probe", ["knn", "logistic"])
def test_the_score_is_in_every_epoch_of_the_history(tmp_path, probe):
    online = OnlineProbe(tones(20, 1), tones(10, 2), every=3, probe=probe)
    trained = model()
    looks = []
    score = online.score
    online.score = lambda: looks.append(score()) or looks[-1]
    log = keras.callbacks.CSVLogger(str(tmp_path / "history.csv"))
    history = trained.fit(
        tones(16, 3)[0], batch_size=8, epochs=4, verbose=0, callbacks=[online, log]
    ).history["val_probe"]
    assert len(looks) == 2
    assert history == [looks[0], looks[0], looks[1], looks[1]]
    # Half of both kinds: an encoder that tells nothing would score 0.5.
    assert max(looks) > 0.8
    header, *rows = (tmp_path / "history.csv").read_text().splitlines()
    assert "val_probe" in header.split(",")
    assert len(rows) == 4
    # It looks at the weights as they are.
    assert online.score() == looks[-1] or len(looks) == 3


def test_training_is_not_disturbed():
    runs = []
    for callbacks in ([], [OnlineProbe(tones(8, 1), tones(4, 2), every=1)]):
        trained = model()
        trained.fit(
            tones(16, 3)[0], batch_size=8, epochs=2, shuffle=False, verbose=0, callbacks=callbacks
        )
        runs.append(trained.encoder.get_weights())
    for plain, probed in zip(*runs, strict=True):
        np.testing.assert_allclose(plain, probed, rtol=1e-4, atol=1e-6)


def test_in_another_training_it_probes_the_other_encoder():
    online, untrained = OnlineProbe(tones(20, 1), tones(10, 2)), model(seed=1)
    online.set_model(model())
    online.score()
    for weight in untrained.encoder.weights:
        weight.assign(np.zeros(weight.shape))
    online.set_model(untrained)
    # An encoder without weights tells nothing.
    assert online.score() == 0.5


def test_arguments():
    with pytest.raises(ValueError, match="Received: probe=svm"):
        OnlineProbe(tones(4, 1), tones(4, 2), probe="svm")
    with pytest.raises(ValueError, match="3 labels"):
        OnlineProbe(tones(4, 1), (tones(4, 2)[0], ["a"] * 3))


def test_a_file_that_is_sorted_by_class(tmp_path):
    clips, _ = tones(60, 1)
    genre = np.repeat(["a", "b", "c"], 20)
    split = np.array(["train", "valid"])[np.arange(60) % 2]
    np.savez(tmp_path / "clips.npz", audio=clips, split=split, genre=genre, one=["x"] * 60)
    dataset = open_dataset(tmp_path / "clips.npz")
    probe = OnlineProbe.from_dataset(dataset, "genre", clips=10)
    for audio, names in (probe.train, probe.valid):
        assert len(audio) == len(names) == 10 and set(names) == {"a", "b", "c"}
    rows = [np.flatnonzero((clips == audio).all(axis=1))[0] for audio in probe.train[0]]
    assert genre[rows].tolist() == probe.train[1]
    with pytest.raises(ValueError, match="two values or more in the 30 clips.*label=one"):
        OnlineProbe.from_dataset(dataset, "one")


def test_numbers_are_no_classes(tmp_path):
    clips, names = tones(8, 1)
    fast = np.where(np.arange(8) == 4, np.nan, np.arange(8) % 2)
    labels = {"tempo": np.linspace(60, 180, 8), "fast": fast, "pitch": names}
    split = np.array(["train", "valid"])[np.arange(8) // 2 % 2]
    np.savez(tmp_path / "clips.npz", audio=clips, split=split, **labels)
    dataset = open_dataset(tmp_path / "clips.npz")
    with pytest.raises(ValueError, match="0 or 1. Received: tempo, which has 4 values"):
        OnlineProbe.from_dataset(dataset, "tempo")
    for label in ("fast", "pitch"):
        assert len(set(OnlineProbe.from_dataset(dataset, label).train[1])) == 2
