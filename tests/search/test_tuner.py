import configparser
import json
import pathlib
import re
from importlib import metadata

import keras_tuner
import pytest
from named_streams import QUIET, tiny_streams

from keras_tune.search import TUNERS, Range, Space, TUNeHyperModel, TUNeTuner, make_oracle, tuner

pytestmark = pytest.mark.one_backend

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
    """All widths are 3, the parameters rise with the depth, and the budget is a limit only."""
    space = {"decoder_depth": [0, 1, 2], "base_filters": 3}
    counts = {}
    for depth in space["decoder_depth"]:
        hypermodel = TUNeHyperModel(
            Space(**{**TINY, **space, "decoder_depth": depth}), None, input_samples=243
        )
        counts[depth] = hypermodel.configuration(keras_tuner.HyperParameters()).parameters
    assert counts[0] < counts[1] < counts[2]
    # Far more than the smallest model has: a fixed width makes no use of the slack.
    budget = counts[1] - 1
    tuner, lines = tuner_of(tmp_path, space, parameter_budget=budget, budget_slack=0.0)
    tuner.search(tiny_streams, epochs=1)
    status = {
        trial.hyperparameters.values["decoder_depth"]: trial.status
        for trial in tuner.oracle.trials.values()
    }
    assert status == {0: "COMPLETED", 1: "FAILED", 2: "FAILED"}
    assert tuner.get_best_hyperparameters()[0].values["decoder_depth"] == 0
    assert tuner.give_up_reason() is None
    assert [line for line in lines if "decoder_depth 2" in line and "failed" in line]
    outcome = json.loads((tmp_path / "trials/trial_0/outcome.json").read_text())
    assert outcome["parameters"] == counts[0]
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


def installed_within(requirement):
    from packaging.requirements import Requirement

    parsed = Requirement(requirement)
    return parsed.specifier.contains(metadata.version(parsed.name)), parsed.specifier


@pytest.mark.parametrize("name", ["keras", "keras-tuner"])
def test_the_installed_version_is_within_the_tested_ones(name):
    setup = configparser.ConfigParser()
    setup.read(pathlib.Path(__file__).parents[2] / "setup.cfg")
    lines = setup["options"]["install_requires"].splitlines()
    (requirement,) = (line for line in lines if re.match(rf"{name}[<>=]", line))
    within, specifier = installed_within(requirement)
    assert within
    # Both ends are given.
    assert {part.operator for part in specifier} == {">=", "<"}


@pytest.mark.parametrize("name", tuner.INTERNALS)
def test_the_internals_of_keras_tuner_exist(name, tmp_path):
    owner, _, attribute = name.partition(".")
    search, _ = tuner_of(tmp_path, {"decoder_depth": [0, 1], "base_filters": 2})
    objects = {
        "Oracle": search.oracle,
        "GridSearchOracle": search.oracle,
        "HyperbandOracle": make_oracle("hyperband", "val_loss", "min"),
        "BaseTuner": search,
    }
    if owner == "oracle_client":
        objects[owner] = pytest.importorskip("keras_tuner.src.distribute.oracle_client")
    assert hasattr(objects[owner], attribute), (
        f"KerasTuner {metadata.version('keras-tuner')} has no {name}: {tuner.INTERNALS[name]}"
    )


def started(oracle, tuner_id="tuner0"):
    trial = oracle.create_trial(tuner_id)
    return trial if trial.status == "RUNNING" else None


def ended(oracle, trial, status="COMPLETED"):
    if status == "COMPLETED":
        oracle.update_trial(trial.trial_id, {"val_contrastive_accuracy": 0.5})
    trial.status, trial.message = status, None if status == "COMPLETED" else "broken"
    oracle.end_trial(trial)


def test_a_resumed_grid_goes_through_what_is_left(tmp_path):
    """KerasTuner's own grid search keeps its place in memory only."""
    space = {"decoder_depth": [0, 1, 2], "base_filters": 2}
    tried = []
    for _ in range(2):
        search, _ = tuner_of(tmp_path, space)
        for _ in range(2):
            if trial := started(search.oracle):
                tried.append(trial.hyperparameters.values["decoder_depth"])
                ended(search.oracle, trial)
                search.save()
    assert sorted(tried) == [0, 1, 2]


def test_failures_in_a_row_end_the_search_but_not_the_one_that_resumes(tmp_path):
    space = {"decoder_depth": [0, 1, 2, 3], "contraction_depth": 3, "base_filters": 2}
    search, _ = tuner_of(tmp_path, space)
    names = []
    for _ in range(3):
        trial = started(search.oracle)
        names.append(trial.trial_id)
        ended(search.oracle, trial, "FAILED")
    assert search.oracle.gave_up == names
    assert started(search.oracle) is None
    search.save()
    again, _ = tuner_of(tmp_path, space)
    assert again.oracle.gave_up == []
    assert started(again.oracle) is not None


def test_a_failed_trial_is_not_part_of_its_bracket(tmp_path):
    space = {"decoder_depth": 1, "base_filters": 2, "learning_rate": Range(1e-3, 1e-1)}
    search, _ = tuner_of(tmp_path, space, tuner="hyperband")
    first = started(search.oracle)
    (entry,) = search.oracle._brackets[0]["rounds"][0]
    assert entry["id"] == first.trial_id
    ended(search.oracle, first, "FAILED")
    assert search.oracle._brackets[0]["rounds"][0] == []
