import dataclasses
import sys

import numpy as np
import pytest

from keras_tune.data import LabelColumn
from keras_tune.errors import UserError
from keras_tune.evaluation import ClipEmbeddings, Fold, evaluate, fit_probe, make_task
from keras_tune.evaluation.protocols import (
    EPOCH_STEPS,
    combine_songs,
    cross_fitted_score,
    grid_configurations,
    groups_of,
    mean_of_known,
)
from keras_tune.evaluation.study import Study

pytestmark = pytest.mark.one_backend

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
    outcome = evaluate(protocol, merged, [fold], task)
    assert 0.2 < outcome.scores()["accuracy"] < 0.47


def test_the_choice_never_sees_the_test_split():
    clips = [embeddings(60, seed, 0.5) for seed in (1, 2, 3)]
    task = make_task([GENRE], clips[0].labels)
    fold = Fold(np.arange(60), np.arange(60, 120), np.arange(120, 180))
    other = embeddings(60, 3, 0.5)
    other.labels[:] = [{"genre": "folk"}] * 60
    for protocol in ("knn", "logistic"):
        found = [
            evaluate(protocol, ClipEmbeddings.merge([*clips[:2], test]), [fold], task).runs[0].probe
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


def in_songs(clips, size):
    """The same clips, `size` of them a song."""
    for row, labels in enumerate(clips.labels):
        labels["song"] = f"song {row // size}"
    return clips


def test_tags_of_a_song_s_clips_are_scored_clip_by_clip():
    """The clips of a song have other tags; what tells them all scores 1."""
    generator = np.random.default_rng(0)
    columns = [LabelColumn(name, "number") for name in "abcd"]

    def clips(seed):
        tags = (np.random.default_rng(seed).random((60, 4)) < 0.4).astype("float32")
        return ClipEmbeddings(
            ids=[f"{seed}-{k}" for k in range(60)],
            vectors=tags,
            labels=[
                {**dict(zip("abcd", map(float, row), strict=True)), "song": f"song {k // 3}"}
                for k, row in enumerate(tags)
            ],
            windows=tags,
            owners=np.arange(60),
            crops=tags,
        )

    merged = ClipEmbeddings.merge([clips(seed) for seed in (1, 2, 3)])
    task = make_task(columns, merged.labels)
    assert task.kind == "tagging"
    thirds = np.split(generator.permutation(180), 3)
    outcome = evaluate("logistic", merged, [Fold(*thirds)], task)
    scores = outcome.scores()
    assert scores["roc_auc"] == scores["average_precision"] == 1
    # On valid too, by which the probe is chosen.
    assert outcome.runs[0].probe.valid_score == 1
    assert len(outcome.runs[0].targets) == 60
    # Songs are still what the bootstrap draws.
    assert set(outcome.runs[0].groups) <= {f"song song {k}" for k in range(20)}


def test_the_key_is_that_of_the_whole_song():
    pytest.importorskip("mir_eval")
    key = LabelColumn("genre", "category", ("C major", "E minor", "Gb major"))
    names = dict(zip(GENRE.values, key.values, strict=True))
    clips = []
    for seed in (1, 2, 3):
        # Three clips in a row have three genres: put those of one genre next to each other.
        some = embeddings(90, seed, 0.4)
        some = some.take(np.argsort([labels["genre"] for labels in some.labels], kind="stable"))
        for labels in some.labels:
            labels["genre"] = names[labels["genre"]]
        clips.append(in_songs(some, 5))
    task = make_task([key], clips[0].labels, "key")
    train, valid, test = clips
    merged = ClipEmbeddings.merge(clips)
    fold = Fold(np.arange(90), np.arange(90, 180), np.arange(180, 270))
    outcome = evaluate("knn", merged, [fold], task)
    probe = fit_probe("knn", train, valid, task)

    def by_hand(clips):
        predictions = probe.predict(clips)
        right = []
        for song in sorted({labels["song"] for labels in clips.labels}):
            rows = [k for k, labels in enumerate(clips.labels) if labels["song"] == song]
            named = key.values[sum(predictions[row] for row in rows).argmax()]
            right.append(named == clips.labels[rows[0]]["genre"])
        return sum(right) / len(right)

    assert outcome.scores()["accuracy"] == pytest.approx(by_hand(test))
    # Clip by clip another score comes out: the songs do matter here.
    single = probe.predict(test).argmax(axis=-1) == task.encode(test.labels)[1]
    assert outcome.scores()["accuracy"] != pytest.approx(single.mean())


def test_linear_trains_small_sets_as_long_as_the_published_set(monkeypatch):
    """Sixty clips are one batch: an epoch is one step, not 74."""
    evaluations = []
    module = sys.modules["keras_tune.evaluation.probe_training"]
    original = module._Run.update

    def seen(run, scores, schedule):
        evaluations.append(run.stack.steps)
        return original(run, scores, schedule)

    monkeypatch.setattr(module._Run, "update", seen)
    train, valid = (embeddings(60, seed, 0.3) for seed in (1, 2))
    task = make_task([GENRE], train.labels)
    fit_probe("linear", train, valid, task)
    assert EPOCH_STEPS == int(np.ceil(18706 / 256))
    assert min(evaluations) == EPOCH_STEPS
    # Ten evaluations without improvement, at the least.
    assert max(evaluations) >= 10 * EPOCH_STEPS
    # A share of the labels, too, is trained as long.
    evaluations.clear()
    study = Study({"mine": {"train": train, "valid": valid, "test": valid}}, task, [0])
    study.label_fractions("linear", [0.2])
    assert min(evaluations) == EPOCH_STEPS and max(evaluations) >= 10 * EPOCH_STEPS


def test_the_best_of_many_guesses_is_worth_no_more_than_that_of_few():
    generator = np.random.default_rng(0)
    task = make_task([GENRE], [])
    targets = generator.integers(0, 3, 200)
    labels = [{} for _ in targets]
    guesses = generator.random((216, 200, 3))
    plain = [task.quick_scores(targets, guesses[:count])["accuracy"].max() for count in (6, 216)]
    found = [cross_fitted_score(task, labels, targets, guesses[:count]) for count in (6, 216)]
    # The maximum rises with the number; what was chosen on other clips stays at chance.
    assert plain[1] > plain[0] > 1 / 3 + 0.02
    spread = np.sqrt(1 / 3 * 2 / 3 / 200)
    np.testing.assert_allclose(found, 1 / 3, atol=2.5 * spread)
    # A candidate that knows is found on either half, and loses nothing.
    guesses[100] = np.eye(3)[targets]
    assert cross_fitted_score(task, labels, targets, guesses) == 1


def test_songs_do_not_help_the_choice_on_the_other_half():
    """A candidate per song that knows this song alone: no song is in both halves."""
    generator = np.random.default_rng(1)
    task = make_task([GENRE], [])
    targets = np.repeat(generator.integers(0, 3, 2), 30)
    labels = [{"song": str(row // 30)} for row in range(60)]
    wrong = np.eye(3)[(targets + 1) % 3]
    candidates = np.stack([wrong, wrong])
    for song in (0, 1):
        rows = slice(30 * song, 30 * song + 30)
        candidates[song, rows] = np.eye(3)[targets[rows]]
    assert cross_fitted_score(task, labels, targets, candidates) == 0
    assert np.isnan(cross_fitted_score(task, labels[:1], targets[:1], candidates[:, :1]))


def test_the_confusion_of_several_seeds_is_their_mean():
    from sklearn.metrics import confusion_matrix

    merged = ClipEmbeddings.merge([embeddings(60, seed, 0.4) for seed in (1, 2, 3)])
    task = make_task([GENRE], merged.labels)
    thirds = np.split(np.arange(180), 3)
    folds = [
        Fold(thirds[k - seed], thirds[k - 1 + seed], thirds[k - 2], seed)
        for seed in (0, 1)
        for k in range(3)
    ]
    outcome = evaluate("logistic", merged, folds, task)
    found = outcome.confusion()
    assert (found["runs"], found["seeds"]) == (6, 2)
    # Each class has 60 clips, however often they were tested.
    np.testing.assert_allclose(np.sum(found["counts"], axis=1), 60)
    by_hand = np.zeros((3, 3))
    for run in outcome.runs:
        by_hand += confusion_matrix(run.targets, run.predictions.argmax(-1), labels=[0, 1, 2]) / 2
    np.testing.assert_allclose(found["counts"], by_hand)
    assert outcome.report(outcome.samples(5))["confusion"] == found


def test_an_outcome_is_the_mean_over_runs_and_its_interval_holds_it():
    merged = ClipEmbeddings.merge([embeddings(60, seed, 0.4) for seed in (1, 2, 3)])
    for row, labels in enumerate(merged.labels):
        labels["artist"] = f"artist {row // 3}"
    task = make_task([GENRE], merged.labels)
    thirds = np.split(np.arange(180), 3)
    folds = [Fold(thirds[k], thirds[k - 1], thirds[k - 2]) for k in range(3)]
    outcome = evaluate("logistic", merged, folds, task, group="artist")
    singles = [evaluate("logistic", merged, [fold], task).scores()["accuracy"] for fold in folds]
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
    with pytest.raises(UserError, match="no clip of the train split has the label mood"):
        fit_probe("knn", train, valid, task)
    train.labels[:] = [{"genre": "rock"}] * 12
    with pytest.raises(UserError, match="fewer than two classes"):
        fit_probe("knn", train, valid, make_task([GENRE], train.labels))
    with pytest.raises(ValueError, match="one of linear, .* Received: protocol=svm"):
        fit_probe("svm", train, valid, task)


def test_clips_without_a_group_are_groups_of_their_own():
    rows = [{"artist": 3.0}, {"artist": float("nan")}, {"artist": None}, {}, {"artist": 3.0}]
    groups = groups_of(rows, "artist", ["a", "b", "c", "d", "e"])
    assert groups.tolist() == ["artist 3.0", "clip b", "clip c", "clip d", "artist 3.0"]


def test_scores_that_are_undefined_are_none_or_an_error():
    train, valid, test = (embeddings(30, seed) for seed in range(3))
    task = make_task([HIGH], train.labels, "tagging")

    def report(valid, test):
        clips = ClipEmbeddings.merge([train, valid, test])
        outcome = evaluate("logistic", clips, [Fold(*np.split(np.arange(90), [30, 60]))], task)
        return outcome.report(outcome.samples(20))

    def only_high(clips):
        labels = [{**row, "high": 1.0} for row in clips.labels]
        return dataclasses.replace(clips, labels=labels)

    found = report(only_high(valid), test)
    assert found["valid_score"] is None and found["chosen_on_valid"][0]["valid_score"] is None
    assert np.isfinite(found["score"])
    with pytest.raises(UserError, match="is undefined, since all test clips have the same labels"):
        report(valid, only_high(test))


@pytest.mark.filterwarnings("error")
def test_the_mean_leaves_out_what_is_undefined():
    assert mean_of_known([1.0, float("nan"), 2.0]) == 1.5
    assert np.isnan(mean_of_known([float("nan")] * 2))
