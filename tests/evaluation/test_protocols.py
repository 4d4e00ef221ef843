import numpy as np
import pytest

from keras_tune.data import LabelColumn
from keras_tune.errors import UserError
from keras_tune.evaluation import ClipEmbeddings, Fold, fit_probe, judge, make_task
from keras_tune.evaluation.protocols import combine_songs, grid_configurations

GENRE = LabelColumn("genre", "category", ("folk", "jazz", "rock"))
LEVEL = LabelColumn("level", "number")
HIGH = LabelColumn("high", "number")


def embeddings(count=90, seed=0, separation=3.0, windows=3):
    """Clips whose representation tells their labels, to a degree."""
    generator = np.random.default_rng(seed)
    names = [GENRE.values[k % 3] for k in range(count)]
    centres = np.random.default_rng(99).normal(size=(3, 8)) * separation
    truth = np.stack([centres[GENRE.values.index(name)] for name in names])
    parts = (truth[:, None] + generator.normal(size=(count, windows, 8))).astype("float32")
    vectors = parts.mean(axis=1)
    labels = [
        {"genre": name, "level": 5 + 100 * float(v[0]), "high": float(v[1] > 0)}
        for name, v in zip(names, vectors, strict=True)
    ]
    return ClipEmbeddings(
        ids=[f"{seed}-{k}" for k in range(count)],
        vectors=vectors,
        labels=labels,
        windows=parts.reshape(-1, 8),
        owners=np.repeat(np.arange(count), windows),
        crops=parts[:, 0],
    )


@pytest.mark.usefixtures("few_configurations")
@pytest.mark.parametrize("protocol", ["linear", "grid", "knn", "logistic"])
@pytest.mark.parametrize("columns, least", [([GENRE], 0.9), ([GENRE, HIGH], 0.8), ([LEVEL], 0.6)])
def test_what_is_there_is_found(protocol, columns, least):
    train, valid, test = (embeddings(seed=seed) for seed in (1, 2, 3))
    task = make_task(columns, train.labels)
    probe = fit_probe(protocol, train, valid, task)
    predictions = probe.predict(test)
    assert predictions.shape == (90, len(task.outputs))
    _, targets = task.encode(test.labels)
    assert task.scores(targets, predictions)[task.primary] > least
    scores = [candidate["valid_score"] for candidate in probe.alternatives]
    assert probe.valid_score == max(scores)
    assert {**probe.configuration, "valid_score": probe.valid_score} in probe.alternatives


def test_there_are_216_probes_in_the_grid():
    configurations = grid_configurations()
    assert len(set(configurations)) == len(configurations) == 216


@pytest.mark.parametrize("protocol", ["knn", "logistic"])
def test_nothing_is_found_in_noise(protocol):
    clips = [embeddings(300, seed, separation=0.0) for seed in (1, 2, 3)]
    merged = ClipEmbeddings.merge(clips)
    task = make_task([GENRE], merged.labels)
    fold = Fold(np.arange(300), np.arange(300, 600), np.arange(600, 900))
    outcome = judge(protocol, merged, [fold], task)
    assert 0.2 < outcome.scores()["accuracy"] < 0.47


def test_the_choice_never_sees_the_test_split():
    clips = [embeddings(60, seed, 0.5) for seed in (1, 2, 3)]
    task = make_task([GENRE], clips[0].labels)
    fold = Fold(np.arange(60), np.arange(60, 120), np.arange(120, 180))
    other = embeddings(60, 3, 0.5)
    other.labels[:] = [{"genre": "folk"}] * 60
    for protocol in ("knn", "logistic"):
        found = [
            judge(protocol, ClipEmbeddings.merge([*clips[:2], test]), [fold], task).runs[0].probe
            for test in (clips[2], other)
        ]
        assert found[0].configuration == found[1].configuration
        assert found[0].alternatives == found[1].alternatives


def test_linear_averages_the_windows_of_a_clip():
    train, valid, test = (embeddings(seed=seed) for seed in (1, 2, 3))
    task = make_task([GENRE], train.labels)
    probe = fit_probe("linear", train, valid, task)
    windows = ClipEmbeddings(
        ids=[str(k) for k in range(len(test.windows))],
        vectors=test.windows,
        labels=[{}] * len(test.windows),
        windows=test.windows,
        owners=np.arange(len(test.windows)),
    )
    expected = probe.predict(windows).reshape(90, 3, 3).mean(axis=1)
    np.testing.assert_allclose(probe.predict(test), expected, atol=1e-6)


def test_clips_of_a_song_are_combined():
    labels = [{"song": "a"}, {"song": "b"}, {"song": "a"}, {"song": None}]
    predictions = np.array([[0.2, 0.8], [0.5, 0.5], [0.6, 0.4], [0.9, 0.1]])
    targets, combined = combine_songs(labels, np.array([1, 0, 1, 0]), predictions)
    found = sorted(zip(targets.tolist(), combined.tolist(), strict=True))
    assert [row[0] for row in found] == [0, 0, 1]
    np.testing.assert_allclose([row[1] for row in found], [[0.5, 0.5], [0.9, 0.1], [0.4, 0.6]])


def test_an_outcome_is_the_mean_over_runs_and_its_interval_holds_it():
    merged = ClipEmbeddings.merge([embeddings(60, seed, 0.4) for seed in (1, 2, 3)])
    for row, labels in enumerate(merged.labels):
        labels["artist"] = f"artist {row // 3}"
    task = make_task([GENRE], merged.labels)
    thirds = np.split(np.arange(180), 3)
    folds = [Fold(thirds[k], thirds[k - 1], thirds[k - 2]) for k in range(3)]
    outcome = judge("logistic", merged, folds, task, group="artist")
    singles = [judge("logistic", merged, [fold], task).scores()["accuracy"] for fold in folds]
    assert outcome.scores()["accuracy"] == pytest.approx(np.mean(singles))
    samples = outcome.samples(300)
    low, high = outcome.report(samples)["interval_95"]
    assert low < outcome.scores()["accuracy"] < high
    assert abs(samples["accuracy"].mean() - outcome.scores()["accuracy"]) < 0.03


def test_clips_without_the_label_are_left_out():
    train, valid, test = (embeddings(seed=seed) for seed in (1, 2, 3))
    task = make_task([GENRE], train.labels)
    whole = fit_probe("logistic", train, valid, task).predict(test)
    unlabelled = embeddings(30, 7, 50.0)
    unlabelled.labels[:] = [{"genre": None}] * 30
    mixed = ClipEmbeddings.merge([train, unlabelled])
    found = fit_probe("logistic", mixed, valid, task).predict(test)
    np.testing.assert_allclose(found, whole, atol=1e-6)


def test_targets_that_do_not_do():
    train, valid = embeddings(12, 1), embeddings(12, 2)
    task = make_task([LabelColumn("mood", "category", ("a", "b"))], train.labels)
    with pytest.raises(UserError, match="--target mood: no clip of the train split"):
        fit_probe("knn", train, valid, task)
    train.labels[:] = [{"genre": "rock"}] * 12
    with pytest.raises(UserError, match="fewer than two classes"):
        fit_probe("knn", train, valid, make_task([GENRE], train.labels))
    with pytest.raises(UserError, match="--protocol svm: unknown"):
        fit_probe("svm", train, valid, task)
