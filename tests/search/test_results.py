import numpy as np
import pandas as pd
import pytest

from keras_tune.search import pareto_front, scores_by_depth
from keras_tune.search.results import best_of_each_depth, summary_of

pytestmark = pytest.mark.one_backend


@pytest.mark.parametrize("direction", ["max", "min"])
def test_the_front_against_the_definition(direction):
    generator = np.random.default_rng(0)
    # Whole numbers, so that ties happen.
    table = pd.DataFrame(generator.integers(0, 12, (60, 2)), columns=["score", "parameters"])
    front = pareto_front(table, "parameters", direction)
    points = set(map(tuple, table.to_numpy()))
    sign = 1 if direction == "max" else -1

    def beaten(score, cost):
        return any(
            sign * other >= sign * score and price <= cost and (other, price) != (score, cost)
            for other, price in points
        )

    expected = {point for point in points if not beaten(*point)}
    assert set(map(tuple, front[["score", "parameters"]].to_numpy())) == expected
    assert len(front) == len(expected) and front["parameters"].is_monotonic_increasing


def test_failed_trials_are_on_no_front():
    table = pd.DataFrame({"score": [np.nan, 0.5], "seconds": [1.0, 2.0]})
    assert pareto_front(table, "seconds").index.tolist() == [1]


def test_spread_over_seeds():
    runs = pd.DataFrame({"decoder_depth": [0, 0, 4], "score": [0.5, 0.7, 0.9]})
    spread = scores_by_depth(runs)
    assert spread.loc[0, "mean"] == pytest.approx(0.6)
    assert spread.loc[0, "std"] == pytest.approx(0.2 / 2**0.5)
    assert np.isnan(spread.loc[4, "std"]) and spread["count"].tolist() == [2, 1]


def test_trials_of_all_epochs_come_before_higher_scores_of_fewer():
    table = pd.DataFrame(
        [
            (0, "COMPLETED", 3, 0.9),
            (0, "COMPLETED", 9, 0.5),
            (0, "COMPLETED", 9, 0.6),
            (1, "FAILED", np.nan, np.nan),
            (2, "COMPLETED", 3, 0.1),
        ],
        columns=["decoder_depth", "status", "epochs", "score"],
    )
    assert best_of_each_depth(table, "max")["score"].tolist() == [0.6, 0.1]
    assert best_of_each_depth(table, "min")["score"].tolist() == [0.5, 0.1]


@pytest.mark.parametrize("direction", ["max", "min"])
def test_the_score_is_that_of_the_last_epoch(direction):
    history = {"val_loss": [0.5, 0.2, 0.9, 0.4], "loss": [4, 3, 2, 1]}
    found = summary_of(history, "val_loss", direction)
    assert found["score"] == 0.4 and found["last"] == {"val_loss": 0.4, "loss": 1}
    expected = (3, 0.9) if direction == "max" else (2, 0.2)
    assert (found["best_epoch"], found["best_epoch_score"]) == expected
    # A training that has diverged on the way has no score.
    assert np.isnan(summary_of({"val_loss": [np.nan, 0.1]}, "val_loss", direction)["score"])
