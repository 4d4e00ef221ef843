import numpy as np
import pytest
from sklearn.metrics import accuracy_score, average_precision_score, r2_score, roc_auc_score

from keras_tune.data import LabelColumn
from keras_tune.evaluation import make_task
from keras_tune.evaluation.tasks import average_precision, roc_auc

pytestmark = pytest.mark.one_backend

GENRE = LabelColumn("genre", "category", ("jazz", "rock", "ska"))
CALM = LabelColumn("calm", "number")
SAD = LabelColumn("sad", "number")
TEMPO = LabelColumn("tempo", "number")
KEY = LabelColumn("key", "category", ("A minor", "C major", "C minor", "G major"))


def labels(count, seed=0):
    generator = np.random.default_rng(seed)
    return [
        {
            "genre": GENRE.values[generator.integers(3)],
            "calm": float(generator.random()),
            "sad": float(generator.random()),
            "key": KEY.values[generator.integers(4)],
        }
        for _ in range(count)
    ]


@pytest.mark.parametrize(
    "columns, options, kind",
    [
        ([GENRE], {}, "classification"),
        ([CALM], {}, "regression"),
        ([TEMPO], {}, "regression"),  # in none of the rows
        ([CALM, SAD], {"threshold": 0.3}, "tagging"),
        ([GENRE, CALM], {"threshold": 0.5}, "tagging"),
        ([KEY], {"kind": "key"}, "key"),
        ([GENRE], {"kind": "tagging"}, "tagging"),
    ],
)
def test_the_task_fits_the_labels(columns, options, kind):
    if kind == "key":
        pytest.importorskip("mir_eval")
    assert make_task(columns, labels(20), **options).kind == kind


def test_zeros_and_ones_are_tags():
    rows = [{"calm": float(k % 2)} for k in range(6)]
    rows += [{"calm": None}, {"calm": float("nan")}, {}]
    task = make_task([CALM], rows)
    assert (task.kind, task.threshold) == ("tagging", 0.5)
    # Where nothing is cut there is no threshold, and where something is there is one.
    assert make_task([GENRE], rows, "tagging").threshold is None
    assert make_task([GENRE, CALM], rows).threshold == 0.5
    assert make_task([GENRE, CALM], labels(9), threshold=0.3).threshold == 0.3


def test_wrong_tasks():
    with pytest.raises(ValueError, match=r"label twice. Received: columns=\['calm', 'calm'\]"):
        make_task([CALM, CALM], labels(9))
    with pytest.raises(ValueError, match=r"one column .* columns=\['calm', 'sad'\]"):
        make_task([CALM, SAD], labels(5), "classification")
    with pytest.raises(ValueError, match=r"must be numbers .* columns=\['genre'\]"):
        make_task([GENRE], labels(5), "regression")
    # Where numbers are to be cut in two, the user says where.
    for columns, kind in (([GENRE, CALM], None), ([CALM, SAD], "tagging")):
        with pytest.raises(ValueError, match="`threshold` must be given, as calm"):
            make_task(columns, labels(5), kind)
    with pytest.raises(ValueError, match="only tagging has one. Received: threshold=0.3"):
        make_task([CALM], labels(5), "regression", 0.3)


def test_tags_come_from_thresholds_and_categories():
    task = make_task([GENRE, CALM], [], threshold=0.5)
    rows, targets = task.encode(
        [
            {"genre": "rock", "calm": 0.5},
            {"genre": None, "calm": 0.9},
            {"genre": "ska", "calm": float("nan")},
            {"genre": "jazz", "calm": 0.49},
        ]
    )
    assert task.outputs == ["jazz", "rock", "ska", "calm"]
    assert rows.tolist() == [0, 3]
    assert targets.astype(int).tolist() == [[0, 1, 0, 1], [1, 0, 0, 0]]


@pytest.mark.parametrize(
    "columns, kind",
    [
        ([GENRE], "classification"),
        ([GENRE, CALM, SAD], "tagging"),
        ([CALM, SAD], "regression"),
        ([KEY], "key"),
    ],
)
def test_scores_are_those_of_scikit_learn_and_mir_eval(columns, kind):
    if kind == "key":
        key = pytest.importorskip("mir_eval").key
    threshold = 0.5 if kind == "tagging" else None
    task = make_task(columns, labels(40), kind, threshold)
    _, targets = task.encode(labels(40))
    predictions = np.random.default_rng(1).random((5, 40, len(task.outputs)))
    quick = task.quick_scores(targets, predictions)
    assert list(quick) == list(task.metrics)
    for probe, prediction in enumerate(predictions):
        named = prediction.argmax(axis=-1)
        expected = {}
        if kind in ("classification", "key"):
            expected["accuracy"] = accuracy_score(targets, named)
        if kind == "key":
            pairs = zip(targets, named, strict=True)
            weights = [key.weighted_score(KEY.values[a], KEY.values[b]) for a, b in pairs]
            expected["weighted_score"] = np.mean(weights)
        if kind == "tagging":
            auc = expected["roc_auc"] = roc_auc_score(targets, prediction)
            ap = expected["average_precision"] = average_precision_score(targets, prediction)
            expected["mean_of_roc_auc_and_ap"] = (auc + ap) / 2
        if kind == "regression":
            expected["r2"] = r2_score(targets, prediction)
        scores = task.scores(targets, prediction)
        for metric in task.metrics:
            assert quick[metric][probe] == pytest.approx(expected.pop(metric), abs=1e-12)
            assert scores[metric] == quick[metric][probe]
        assert not expected


def test_near_keys_count_in_part():
    pytest.importorskip("mir_eval")
    task = make_task([KEY], [], "key")
    truth = np.array([1, 1, 1, 1])
    named = np.eye(4)[[1, 3, 0, 2]]
    # C major named C major, G major (a fifth above), A minor (relative), C minor (parallel).
    assert task.scores(truth, named)["weighted_score"] == pytest.approx((1.0 + 0.5 + 0.3 + 0.2) / 4)


def test_a_score_of_one_value_is_that_of_scikit_learn():
    task = make_task([CALM], labels(30))
    _, targets = task.encode(labels(30))
    predictions = np.random.default_rng(2).random((30, 1))
    expected = {"r2": r2_score(targets, predictions)}
    assert task.scores(targets, predictions) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("values", [3, 10, None])
def test_all_at_once_as_scikit_learn_one_by_one(values):
    generator = np.random.default_rng(0)
    truth = generator.random((57, 4)) < [0.1, 0.5, 0.9, 0.3]
    scores = generator.random((3, 57, 4)) + 0.3 * truth
    if values:
        # Few different values: most clips share theirs with others.
        scores = np.round(scores * values)
    auc, precision = roc_auc(truth, scores), average_precision(truth, scores)
    assert auc.shape == precision.shape == (3, 4)
    for probe in range(3):
        for tag in range(4):
            columns = truth[:, tag], scores[probe, :, tag]
            assert auc[probe, tag] == pytest.approx(roc_auc_score(*columns), abs=1e-12)
            assert precision[probe, tag] == pytest.approx(
                average_precision_score(*columns), abs=1e-12
            )


# The mean of several 0.1 is not 0.1 to the last bit.
@pytest.mark.parametrize("value", [5.0, 0.1])
def test_values_that_do_not_differ_have_no_score(value):
    task = make_task([LabelColumn("tempo", "number")], [], kind="regression")
    targets, predictions = np.full((6, 1), value), value + np.arange(6.0)[:, None]
    assert np.isnan(task.scores(targets, predictions)["r2"])
    assert np.isnan(task.quick_scores(targets, predictions)["r2"])
    # Of two columns, one of which varies, the mean is not defined either.
    task = make_task([LabelColumn(name, "number") for name in "ab"], [], kind="regression")
    two = np.concatenate([targets, predictions], axis=1)
    found = task.scores(two, two + 0.1)
    assert np.isnan(found["r2"]) and found["r2_b"] == pytest.approx(1 - 6 * 0.01 / 17.5)
    assert np.isnan(task.quick_scores(two, two + 0.1)["r2"])


def test_a_tag_that_nobody_has_has_no_score():
    truth = np.array([[0, 1], [0, 1], [0, 1]], bool)
    scores = np.array([[0.1, 0.2], [0.3, 0.1], [0.2, 0.2]])
    assert np.isnan(roc_auc(truth, scores)).all()
    assert np.isnan(average_precision(truth, scores)[0])


def test_a_threshold_is_compared_in_the_precision_of_labels():
    for value in np.arange(1, 10) / 10:
        # As a prepared set returns it.
        stored = float(np.float32(value))
        task = make_task([CALM], [{"calm": stored}, {"calm": 0.0}], "tagging", threshold=value)
        assert task.encode([{"calm": stored}])[1].tolist() == [[True]]


def test_values_of_two_columns_with_one_name_are_two_tags():
    mood = LabelColumn("mood", "category", ("calm", "unknown"))
    genre = LabelColumn("genre", "category", ("jazz", "unknown"))
    task = make_task([genre, mood], [{"genre": "jazz", "mood": "calm"}], "tagging")
    assert task.outputs == ["jazz", "genre: unknown", "calm", "mood: unknown"]
