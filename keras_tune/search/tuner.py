"""The tuner: KerasTuner's search, with trials that are trained, named and recorded our way."""

import contextlib
import dataclasses
import json
import math
import os
import pathlib

import keras_tuner
from keras_tuner.engine.base_tuner import BaseTuner

from keras_tune.errors import UserError
from keras_tune.files import write_json, write_text
from keras_tune.search.job import Job, run, run_isolated

OUTCOME = "outcome.json"
MODEL = "model.keras"
REASON = "reason.txt"


class TUNeTuner(BaseTuner):
    """Search with any oracle, each trial in this process or in one of its own.

    A trial whose configuration cannot work fails alone, and a line names it; the search ends after
    three of them in a row (`give_up_reason`). A trial that Hyperband promotes goes on where it
    stopped, optimizer included. What every trial gave is kept in its folder: `outcome.json`, and
    `history.csv` with the metrics of every epoch. A tuner on a folder that holds a search goes on
    with it.

    Args:
        oracle: As `make_oracle` makes.
        hypermodel: `TUNeHyperModel`.
        directory: Folder of the search.
        isolated: Whether each trial gets a process of its own. Defaults to False.
        report: Function of a line of text, called when a trial ends or a worker waits. Defaults to
            `print`.
        chief_timeout: Number, seconds without an answer after which a worker takes its chief for
            gone. Defaults to 600.

    Raises:
        UserError: In a worker, if its chief is gone.

    Example:

    ```python
    oracle = make_oracle("grid", "val_contrastive_accuracy", "max")
    tuner = TUNeTuner(oracle, TUNeHyperModel(space), "runs/search")
    tuner.search(streams, epochs=10)
    tuner.get_best_hyperparameters()[0].values
    ```
    """

    def __init__(
        self, oracle, hypermodel, directory, isolated=False, report=print, chief_timeout=600
    ):
        self.isolated = isolated
        self.report = report
        self.chief_timeout = chief_timeout
        # Its tables are for notebooks.
        oracle.verbose = 0
        if self._is_worker():
            # KerasTuner asks the chief for its space below, and waits for it without a word.
            report(f"{os.environ['KERASTUNER_TUNER_ID']}: waiting for the chief at {_chief()}")
        with self._hearing_from_chief():
            super().__init__(oracle, hypermodel, directory=str(directory), project_name="trials")

    def _populate_initial_space(self):
        # KerasTuner would build a model for every branch of the space, only to see what it asks.
        hp = self.oracle.get_space()
        self.hypermodel.declare_hyperparameters(hp)
        self.oracle.update_space(hp)

    def save(self):
        if not self._is_worker():
            self.oracle.save()
        write_json(self._get_tuner_fname(), self.get_state())

    def search(self, streams, epochs, callbacks=None):
        """Run trials until the oracle has enough.

        Where KerasTuner's environment variables name a chief, this process is the chief or one of
        its workers.

        Args:
            streams: As in `Job`.
            epochs: Integer, the epochs of a trial, at most.
            callbacks: As in `Job`. Defaults to None.

        Raises:
            UserError: What is wrong is not the configuration, or a worker's chief is gone.
        """
        with self._hearing_from_chief():
            super().search(streams, epochs, callbacks)

    @contextlib.contextmanager
    def _hearing_from_chief(self):
        """Let what a worker asks of its chief within the block wait for so long and no longer."""
        if not self._is_worker():
            yield
            return
        # Here, since not everybody has it and only workers need it.
        import grpc
        from keras_tuner.src.distribute import oracle_client

        # One hour for each question otherwise.
        oracle_client.TIMEOUT = self.chief_timeout
        try:
            yield
        except grpc.RpcError as error:
            gone = (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE)
            if error.code() not in gone:
                raise
            raise UserError(
                f"no answer from the chief at {_chief()} for {self.chief_timeout:g} s: the search "
                "has ended, or the chief is gone. Start it, and then its workers; the search goes "
                "on where it stopped."
            ) from error

    def run_trial(self, trial, streams, epochs, callbacks):
        values = trial.hyperparameters.values
        folder = pathlib.Path(self.get_trial_dir(trial.trial_id))
        job = Job(
            self.hypermodel,
            trial.hyperparameters,
            streams,
            epochs=values.get("tuner/epochs", epochs),
            callbacks=callbacks,
            initial_epoch=values.get("tuner/initial_epoch", 0),
            history=folder / "history.csv",
        )
        if "tuner/epochs" in values:
            job.save = folder / MODEL
        if values.get("tuner/trial_id"):
            job.warm_start = pathlib.Path(self.get_trial_dir(values["tuner/trial_id"])) / MODEL
        try:
            outcome = (run_isolated if self.isolated else run)(job)
        except UserError as error:
            raise _Shared(error) from error
        objective = self.oracle.objective
        outcome |= summary_of(outcome.pop("history"), objective.name, objective.direction)
        outcome["best_epoch"] += job.initial_epoch
        outcome["epochs"] = job.epochs
        outcome["configuration"] = dataclasses.asdict(
            self.hypermodel.configuration(trial.hyperparameters)
        )
        write_json(folder / OUTCOME, outcome)
        if not math.isfinite(outcome["score"]):
            raise keras_tuner.errors.FailedTrialError(
                f"{objective.name} is {outcome['score']}: training diverged"
            )
        return {objective.name: outcome["score"]}

    def _try_run_and_update_trial(self, trial, *arguments, **options):
        try:
            super()._try_run_and_update_trial(trial, *arguments, **options)
        except _Shared as error:
            raise error.args[0] from None
        if trial.message:
            # A worker's messages do not reach its chief otherwise.
            write_text(pathlib.Path(self.get_trial_dir(trial.trial_id)) / REASON, _reason(trial))

    def on_trial_end(self, trial):
        super().on_trial_end(trial)
        self.report(f"trial {trial.trial_id} ({describe(trial)}): {self._result(trial)}")

    def _result(self, trial):
        if trial.message:
            return f"failed: {_reason(trial)}"
        outcome = read_outcome(self, trial.trial_id)
        return (
            f"{self.oracle.objective.name} {outcome['score']:.4f} after {outcome['epochs']} "
            f"epochs, {outcome['parameters']:,} parameters, {outcome['seconds']:.0f} s"
        )

    def give_up_reason(self):
        """Why the search ended before its time; None if it did not.

        Returns:
            String that names the trials and their errors, or None.
        """
        trials = [self.oracle.trials[name] for name in self.oracle.gave_up]
        named = "; ".join(f"trial {trial.trial_id} ({describe(trial)})" for trial in trials)
        if not trials:
            return None
        last = read_reason(self, trials[-1].trial_id)
        return f"{len(trials)} trials in a row failed, {named}: {last}"


def _chief():
    """Where a worker's chief listens."""
    return f"{os.environ['KERASTUNER_ORACLE_IP']}:{os.environ['KERASTUNER_ORACLE_PORT']}"


class _Shared(keras_tuner.errors.FatalError):
    """Carries an error that no other configuration would mend through KerasTuner's own catch."""


def summary_of(history, metric, direction):
    """The score of a training: its last epoch's value, which no look at the others has chosen.

    Args:
        history: Dict from metric to a list of values.
        metric: Name of the metric.
        direction: "max" or "min".

    Returns:
        A dict with `score`, `best_epoch` (from 1), `best_epoch_score`, which is better than the
        score by luck, too, and `last`, the last epoch's metrics. All scores are NaN if one is.

    Raises:
        UserError: There is no such metric.
    """
    if metric not in history:
        raise _Shared(
            UserError(f"--objective {metric}: the trial reports {', '.join(sorted(history))} only")
        )
    values = history[metric]
    best = max(values) if direction == "max" else min(values)
    finite = all(math.isfinite(value) for value in values)
    return {
        "score": values[-1] if finite else math.nan,
        "best_epoch": values.index(best) + 1 if finite else len(values),
        "best_epoch_score": best if finite else math.nan,
        "last": {name: series[-1] for name, series in history.items()},
    }


def describe(trial):
    """A trial's free hyperparameters, in a line."""
    fixed = {hp.name for hp in trial.hyperparameters.space if type(hp).__name__ == "Fixed"}
    return ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in trial.hyperparameters.values.items()
        if name not in fixed and not name.startswith("tuner/")
    )


def _reason(trial):
    """The last line of the error that a trial failed with, without the name of its class."""
    line = (trial.message or "").strip().splitlines()[-1:] or ["not known"]
    return line[0].removeprefix("keras_tuner.src.errors.FailedTrialError: ")


def read_reason(tuner, trial_id):
    """Why a trial failed, a line."""
    path = pathlib.Path(tuner.get_trial_dir(trial_id)) / REASON
    return path.read_text(encoding="utf-8") if path.exists() else "not known"


def read_outcome(tuner, trial_id):
    """What a trial has left in its folder, a dict; empty if it left nothing."""
    path = pathlib.Path(tuner.get_trial_dir(trial_id)) / OUTCOME
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
