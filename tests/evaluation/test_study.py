"""The model built from a probe says what the probe says."""

import keras
import numpy as np
import pytest

from keras_tune.data import LabelColumn
from keras_tune.evaluation import ClipEmbeddings, FittedProbe, Outcome, make_task
from keras_tune.evaluation.outcomes import Run
from keras_tune.evaluation.study import Study, best_head
from keras_tune.models import Tagger

pytestmark = pytest.mark.one_backend

GENRE = LabelColumn("genre", "category", ("folk", "jazz", "noise", "rock"))
HIGH = LabelColumn("high", "number")


def clips(seed, count=60, windows=2):
    """Clips of three of four genres, and a tag; representations of width 6, not standardized."""
    generator = np.random.default_rng(seed)
    names = np.array(["folk", "jazz", "rock"])[np.arange(count) % 3]
    centres = np.random.default_rng(0).normal(size=(3, 6))
    parts = centres[np.arange(count) % 3][:, None] + generator.normal(size=(count, windows, 6))
    parts = (3 + 2 * parts).astype("float32")
    return ClipEmbeddings(
        ids=[f"{seed}-{k}" for k in range(count)],
        vectors=parts.mean(axis=1),
        labels=[
            {"genre": str(name), "high": float(part[0, 0] > 3)}
            for name, part in zip(names, parts, strict=True)
        ],
        windows=parts.reshape(-1, 6),
        owners=np.repeat(np.arange(count), windows),
        crops=parts[:, 0],
    )


@pytest.mark.usefixtures("few_configurations")
@pytest.mark.parametrize("columns", [[GENRE], [GENRE, HIGH]])
@pytest.mark.parametrize("protocol", ["linear", "grid", "logistic"])
def test_a_tagger_scores_as_its_probe(protocol, columns):
    splits = {split: clips(seed) for seed, split in enumerate(("train", "valid", "test"))}
    task = make_task(columns, splits["train"].labels)
    study = Study({"mine": splits}, task, seeds=[0], resamples=2)
    study.evaluate(protocol)
    _, probe = best_head(study, "mine", [protocol])
    waveform = keras.Input((6, 1))
    encoder = keras.Model(waveform, keras.layers.Flatten()(waveform))
    head = probe.head
    tagger = Tagger.from_probe(
        encoder, head.weights, task.outputs, task.loss, head.mean, head.deviation, head.pooling
    )
    test = splits["test"]
    seen = test.vectors if tagger.pooling == "embeddings" else test.windows
    scores = getattr(keras.ops, task.loss)(tagger(seen[..., None]))
    scores = keras.ops.convert_to_numpy(scores)
    if tagger.pooling == "scores":
        scores = scores.reshape(len(test.ids), 2, -1).mean(axis=1)
    np.testing.assert_allclose(scores, probe.predict(test), atol=2e-5)


def test_the_best_head_is_the_best_on_valid_whatever_test_says():
    splits = {split: clips(seed) for seed, split in enumerate(("train", "valid", "test"))}
    task = make_task([GENRE], splits["train"].labels)
    study = Study({"mine": splits}, task, seeds=[0, 1], resamples=2)
    protocols = ["linear", "logistic", "knn"]
    for protocol in protocols:
        study.evaluate(protocol)
    protocol, probe = best_head(study, "mine", protocols)
    scores = [
        run.probe.cross_fitted_score
        for one in ("linear", "logistic")
        for run in study.outcomes[one, "mine"].runs
    ]
    assert len(scores) == 3
    assert probe.cross_fitted_score == max(scores)
    assert best_head(study, "mine", ["knn"]) is None


@pytest.mark.parametrize("unseen, best", [((0.6, 0.7), "few"), ((0.6, float("nan")), "many")])
def test_the_best_of_many_does_not_win_by_their_number(unseen, best):
    """The best of 216 probes scores higher on valid than that of six, and lower on other clips."""
    task = make_task([GENRE], [])
    study = Study({"mine": {split: clips(1) for split in ("train", "valid", "test")}}, task, [0])
    for protocol, score, other in (("many", 0.9, unseen[0]), ("few", 0.8, unseen[1])):
        probe = FittedProbe(None, {}, score, [], head=object(), cross_fitted_score=other)
        run = Run(probe, None, None, None, 0)
        study.outcomes[protocol, "mine"] = Outcome(task, [run])
    assert best_head(study, "mine", ["many", "few"])[0] == best
