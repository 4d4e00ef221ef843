import numpy as np
import pytest
from scipy import stats

from keras_tune.data import LabelColumn
from keras_tune.evaluation import (
    ClipEmbeddings,
    Fold,
    Outcome,
    evaluate,
    group_folds,
    make_task,
)
from keras_tune.evaluation.outcomes import Run, predict_test
from keras_tune.evaluation.protocols import FittedProbe

pytestmark = pytest.mark.one_backend


def clips(count=200, artists=40, seed=0):
    generator = np.random.default_rng(seed)
    artist = generator.integers(0, artists, count)
    return artist % 4, np.array([f"artist {number}" for number in artist])


@pytest.mark.parametrize("seed", [0, 1])
def test_folds_share_no_group_and_cover_all_clips_once(seed):
    strata, groups = clips()
    folds = group_folds(strata, groups, 5, seed)
    tests = np.concatenate([test for _, _, test in folds])
    assert sorted(tests) == list(range(200))
    for train, valid, test in folds:
        assert sorted(np.concatenate([train, valid, test])) == list(range(200))
        sets = [set(groups[rows]) for rows in (train, valid, test)]
        assert not (sets[0] & sets[1] or sets[0] & sets[2] or sets[1] & sets[2])
        shares = np.bincount(strata[test], minlength=4) / len(test)
        np.testing.assert_allclose(shares, np.bincount(strata) / 200, atol=0.15)


def test_the_inner_choice_does_not_depend_on_the_outer_fold():
    # Other labels in the outer fold must not move a clip between train and valid.
    strata, groups = clips()
    train, valid, test = group_folds(strata, groups, 5)[0]
    from sklearn.model_selection import StratifiedGroupKFold

    rest = np.sort(np.concatenate([train, valid]))
    splitter = StratifiedGroupKFold(5, shuffle=True, random_state=0)
    inner_train, inner_valid = next(splitter.split(rest[:, None], strata[rest], groups[rest]))
    assert rest[inner_train].tolist() == train.tolist()
    assert rest[inner_valid].tolist() == valid.tolist()


@pytest.mark.parametrize("copies, folds", [(5, 5), (3, 5)])
def test_folds_of_classes_that_have_fewer_clips(copies, folds):
    # Two dozen keys with a few songs each: in the whole set, or without a fold.
    strata, groups = np.repeat(np.arange(24), copies), np.arange(24 * copies)
    cuts = group_folds(strata, groups, folds)
    assert sorted(np.concatenate([test for _, _, test in cuts])) == groups.tolist()
    for train, valid, test in cuts:
        assert sorted(np.concatenate([train, valid, test])) == groups.tolist()
        assert len(valid) == pytest.approx((len(groups) - len(test)) / 5, abs=1)


@pytest.mark.parametrize("protocol", ["knn", "logistic"])
def test_seeds_that_have_folds_in_common(protocol):
    """Rows of the confusion matrix add up to the clips of a class, as their definition says."""
    generator = np.random.default_rng(0)
    rows = [{"genre": ("jazz", "rock")[k % 2]} for k in range(60)]
    vectors = generator.normal(size=(60, 4)) + np.arange(60)[:, None] % 2
    clips = ClipEmbeddings([str(k) for k in range(60)], vectors, rows)
    parts = np.split(np.arange(60), 3)

    def fold(test, seed):
        train, valid = (part for k, part in enumerate(parts) if k != test)
        return Fold(train, valid, parts[test], seed)

    halves = np.split(np.arange(60), [20, 25, 35, 60])
    other = [Fold(halves[0], halves[1], halves[2], 1), Fold(halves[0], halves[1], halves[3], 1)]
    folds = [fold(k, 0) for k in range(3)] + [fold(0, 1), *other] + [fold(k, 2) for k in range(3)]
    task = make_task([LabelColumn("genre", "category", ("jazz", "rock"))], rows)
    outcome = evaluate(protocol, clips, folds, task)
    # The third seed repeats the first one.
    assert [run.seed for run in outcome.runs] == [0, 0, 0, 1, 1, 1]
    for seed, tested in ((0, 60), (1, 55)):
        runs = [run for run in outcome.runs if run.seed == seed]
        assert sum(len(run.targets) for run in runs) == tested
        counts = np.array(Outcome(task, runs).confusion()["counts"])
        assert counts.sum() == tested
    assert outcome.runs[3].predictions is outcome.runs[0].predictions


def test_songs_have_their_own_groups():
    """Clips of which some have no song, in an order that is not that of their ids."""
    ids, songs = ["z", "y", "x", "w"], [None, "b", "b", None]
    rows = [
        {"key": key, "song": song, "artist": f"artist {name}"}
        for key, song, name in zip(["C major", "A minor"] * 2, songs, ids, strict=True)
    ]
    pytest.importorskip("mir_eval")
    task = make_task([LabelColumn("key", "category", ("A minor", "C major"))], rows, "key")
    vectors = np.arange(8.0).reshape(4, 2)
    probe = FittedProbe(lambda clips: clips.vectors, {}, 0.0, [])
    run = predict_test(probe, ClipEmbeddings(ids, vectors, rows), task, "artist")
    found = dict(zip(run.groups, run.predictions.tolist(), strict=True))
    assert found["artist artist z"] == [0.0, 1.0]
    assert found["artist artist w"] == [6.0, 7.0]
    assert found["artist artist y"] == [3.0, 4.0]


def test_too_few_groups():
    with pytest.raises(ValueError, match="number of groups, which is 3. Received: folds=5"):
        group_folds([0, 1, 0, 1], ["a", "b", "c", "c"], 5)
    # One of two folds has two of the three groups, so that one is left for train and valid.
    with pytest.raises(ValueError, match="must leave two groups .* Received: folds=2"):
        group_folds([0, 1] * 6, np.repeat([0, 1, 2], 4), 2)


def answers(count, seed=0):
    """Classes of clips, and answers of which 70 % are right."""
    generator = np.random.default_rng(seed)
    truth = generator.integers(0, 2, count)
    return truth, np.where(generator.random(count) < 0.7, truth, 1 - truth)


def interval(truth, predicted, groups, resamples):
    task = make_task([LabelColumn("genre", "category", ("jazz", "rock"))], [])
    run = Run(None, truth, np.eye(2)[predicted], groups, 0)
    outcome = Outcome(task, [run])
    return np.quantile(outcome.samples(resamples)["accuracy"], [0.025, 0.975])


def test_the_interval_of_an_accuracy_is_near_the_binomial_one():
    truth, predicted = answers(200)
    low, high = interval(truth, predicted, np.arange(200), resamples=4000)
    right = int((truth == predicted).sum())
    expected = stats.binomtest(right, 200).proportion_ci(0.95, method="wilson")
    assert low == pytest.approx(expected.low, abs=0.015)
    assert high == pytest.approx(expected.high, abs=0.015)


def test_copies_of_a_song_do_not_narrow_the_interval():
    truth, predicted = answers(50)
    songs = np.arange(50)
    single = interval(truth, predicted, songs, resamples=2000)
    copies = [np.repeat(values, 10) for values in (truth, predicted, songs)]
    grouped = interval(*copies, resamples=2000)
    ungrouped = interval(*copies[:2], np.arange(500), resamples=2000)
    assert grouped == pytest.approx(single, abs=0.02)
    assert ungrouped[1] - ungrouped[0] < 0.5 * (grouped[1] - grouped[0])


@pytest.mark.parametrize(
    ("column", "kind", "reference"),
    [
        (LabelColumn("genre", "category", ("folk", "jazz")), None, "most_frequent"),
        (LabelColumn("level", "number"), None, "mean"),
    ],
)
def test_chance_is_the_score_of_scikit_learn_s_dummy(column, kind, reference):
    from sklearn.dummy import DummyClassifier, DummyRegressor

    generator = np.random.default_rng(0)
    values = generator.choice(["folk", "jazz"], 40, p=[0.7, 0.3]).tolist()
    if column.kind == "number":
        values = generator.normal(size=40).tolist()
    embedded = ClipEmbeddings(
        [str(k) for k in range(40)],
        generator.normal(size=(40, 3)).astype("float32"),
        [{column.name: value} for value in values],
    )
    task = make_task([column], embedded.labels, kind)
    outcome = evaluate("knn", embedded, [Fold(*np.split(np.arange(40), [15, 25]))], task)
    dummy = {"most_frequent": DummyClassifier, "mean": DummyRegressor}[reference]
    features, tested = np.zeros((15, 1)), values[25:]
    expected = dummy(strategy=reference).fit(features, tested).score(features, tested)
    assert outcome.chance() == pytest.approx(expected, abs=1e-6)
    assert outcome.report(outcome.samples(10))["chance"] == outcome.chance()


def test_the_score_on_valid_is_that_of_the_folds_that_have_one():
    """In one of two folds, no clip of valid has the tag, and all probes are alike there."""
    generator = np.random.default_rng(0)
    labels = [{"tag": float(k % 2 and not 20 <= k < 30)} for k in range(60)]
    vectors = generator.normal(size=(60, 3)) + [[row["tag"]] for row in labels]
    embeddings = ClipEmbeddings([str(k) for k in range(60)], vectors, labels)
    task = make_task([LabelColumn("tag", "number")], labels)
    train, without, valid, test = np.split(np.arange(60), [20, 30, 40])
    folds = [Fold(train, without, test), Fold(train, valid, test)]
    both, one, none = (
        evaluate("knn", embeddings, some, task) for some in (folds, folds[1:], folds[:1])
    )
    both, one, none = (outcome.report(outcome.samples(10)) for outcome in (both, one, none))
    assert both["valid_score"] == pytest.approx(one["valid_score"]) and none["valid_score"] is None
    assert [run["valid_score"] for run in both["chosen_on_valid"]] == [None, one["valid_score"]]
