import json

import keras_tuner
import pytest
from named_streams import QUIET, tiny_streams

from keras_tune.search import TUNERS, Range, Space, TUNeHyperModel, TUNeTuner, make_oracle

TINY = {"contraction_depth": 2, "tail_length": 4, "representation_dim": 4}


def tuner_of(folder, space, tuner="grid", objective="val_contrastive_accuracy", **options):
    lines = []
    settings = {"parameter_budget": None, **options}
    hypermodel = TUNeHyperModel(
        Space(**{**TINY, **space}), **settings, input_samples=243, augment=QUIET, projection_dim=4
    )
    direction = "min" if objective == "val_loss" else "max"
    oracle = make_oracle(tuner, objective, direction, max_trials=8, max_epochs=3)
    return TUNeTuner(oracle, hypermodel, folder, report=lines.append), lines


def test_a_budget_that_only_one_depth_meets(tmp_path):
    """All widths are 3; the parameters rise with the depth, and the budget lies around one."""
    space = {"decoder_depth": [0, 1, 2], "base_filters": 3}
    counts = {}
    for depth in space["decoder_depth"]:
        hypermodel = TUNeHyperModel(
            Space(**{**TINY, **space, "decoder_depth": depth}), None, input_samples=243
        )
        counts[depth] = hypermodel.configuration(keras_tuner.HyperParameters()).parameters
    assert counts[0] < counts[1] < counts[2]
    budget = (counts[1] + counts[2]) / 2
    slack = 1 - (counts[0] + counts[1]) / 2 / budget
    tuner, lines = tuner_of(tmp_path, space, parameter_budget=budget, budget_slack=slack)
    tuner.search(tiny_streams, epochs=1)
    status = {
        trial.hyperparameters.values["decoder_depth"]: trial.status
        for trial in tuner.oracle.trials.values()
    }
    assert status == {0: "FAILED", 1: "COMPLETED", 2: "FAILED"}
    assert tuner.get_best_hyperparameters()[0].values["decoder_depth"] == 1
    assert tuner.give_up_reason() is None
    assert [line for line in lines if "decoder_depth 2" in line and "failed" in line]
    outcome = json.loads((tmp_path / "trials/trial_1/outcome.json").read_text())
    assert outcome["parameters"] == counts[1]
    assert outcome["peak_memory_mb"] > 10 and outcome["seconds"] > 0


@pytest.mark.parametrize(
    "kind",
    [
        kind if kind == "hyperband" else pytest.param(kind, marks=pytest.mark.nightly)
        for kind in TUNERS
        if kind != "grid"
    ],
)
def test_every_tuner_finds_its_way_through_conditions(kind, tmp_path):
    space = {"decoder_depth": [0, 1, 2], "contraction_depth": [1, 2], "base_filters": 2}
    # Without it there would be four configurations only.
    space["learning_rate"] = Range(1e-3, 1e-1, log=True)
    tuner, _ = tuner_of(tmp_path, space, tuner=kind)
    tuner.oracle.max_trials = 5
    tuner.search(tiny_streams, epochs=1)
    trials = tuner.oracle.trials.values()
    assert len(trials) == 5 and all(trial.status == "COMPLETED" for trial in trials)
    if kind == "hyperband":
        promoted = [t for t in trials if t.hyperparameters.values.get("tuner/trial_id")]
        for trial in promoted:
            history = (tmp_path / f"trials/trial_{trial.trial_id}/history.csv").read_text()
            assert history.splitlines()[1].startswith("1,")
