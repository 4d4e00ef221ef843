"""The search itself, and everything in it that depends on the internals of KerasTuner.

KerasTuner chooses the trials. Where it would lose a search (a kill in the middle of a write, a grid
that starts again, a chief that never ends) this module overrides parts of it that are not public,
which `INTERNALS` lists. setup.cfg allows the versions with which the tests of this module have run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import keras_tuner
from keras_tuner.engine.base_tuner import BaseTuner
from keras_tuner.errors import FailedTrialError, FatalError
from keras_tuner.oracles import (
    BayesianOptimizationOracle,
    GridSearchOracle,
    HyperbandOracle,
    RandomSearchOracle,
)

from keras_tune.errors import UserError
from keras_tune.files import write_json, write_text
from keras_tune.search.hypermodel import TUNeHyperModel
from keras_tune.search.job import Job, run, run_isolated
from keras_tune.search.results import (
    OUTCOME,
    REASON,
    describe,
    read_outcome,
    read_reason,
    reason_of,
    summary_of,
)

# The parts of KerasTuner that are used here without being public, and what breaks without them.
INTERNALS = {
    "Oracle._get_oracle_fname": "a kill in the middle of a write leaves an unreadable state",
    "Oracle._get_trial_dir": "a kill in the middle of a write leaves an unreadable trial",
    "Oracle._save_trial": "a kill in the middle of a write leaves an unreadable trial",
    "Oracle._check_consecutive_failures": "the chief raises with its lock held, and workers hang",
    "Oracle.end_order": "the search cannot tell that its last trials failed in a row",
    "Oracle.max_consecutive_failed_trials": "the search does not know after how many to end",
    "Oracle._duplicate": "a resumed grid search tries its first combinations again",
    "GridSearchOracle._get_next_combination": "a resumed grid search has no next combination",
    "HyperbandOracle._brackets": "a bracket with a failed trial never promotes",
    "BaseTuner._populate_initial_space": "a model is built for every branch of the space first",
    "BaseTuner._get_tuner_fname": "a kill in the middle of a write leaves an unreadable tuner",
    "BaseTuner._is_worker": "workers write the state that belongs to their chief",
    "BaseTuner._try_run_and_update_trial": "an error of the data is taken for a failed trial",
    "oracle_client.TIMEOUT": "a worker whose chief is gone waits for an hour",
}

# A search gives up after this many failed trials in a row.
FAILURES = 3
MODEL = "model.keras"


class ResumableOracle(keras_tuner.Oracle):
    """The base class of the oracles here: safe files, and an end after failures.

    Files are written in one step: KerasTuner writes its state in place, and a kill in the middle
    leaves a file that cannot be read.

    A search ends after several failures in a row, without an exception: KerasTuner raises in the
    middle of an update, so that its chief keeps its lock and its workers wait forever. Here the
    next request for a trial is answered with the end of the search. Failures from before a restart
    do not count, so that a search can be resumed once their cause is fixed.
    """

    _counted_from = 0

    def save(self) -> None:
        write_json(self._get_oracle_fname(), self.get_state())

    def _save_trial(self, trial):
        folder = pathlib.Path(self._get_trial_dir(trial.trial_id))
        write_json(folder / "trial.json", trial.get_state())

    @property
    def gave_up(self) -> list[str]:
        """The identifiers of the last trials if all of them failed, else an empty list."""
        last = self.end_order[self._counted_from :][-self.max_consecutive_failed_trials :]
        failed = [name for name in last if self.trials[name].status == "FAILED"]
        return failed if len(failed) == self.max_consecutive_failed_trials else []

    def _check_consecutive_failures(self):
        pass

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        if self.gave_up:
            return {"status": "STOPPED"}
        return super().populate_space(trial_id)

    def set_state(self, state: dict[str, Any]) -> None:
        super().set_state(state)
        self._counted_from = len(self.end_order)


class _Hyperband(ResumableOracle, HyperbandOracle):
    """Hyperband whose brackets are filled again when a trial fails.

    A bracket promotes only once its first round is complete; KerasTuner counts failed trials as
    part of it, and then never finishes.
    """

    def end_trial(self, trial):
        super().end_trial(trial)
        if self.trials[trial.trial_id].status == "FAILED":
            for bracket in self._brackets:
                first = bracket["rounds"][0]
                first[:] = [entry for entry in first if entry["id"] != trial.trial_id]
            self.save()


class _Bayesian(ResumableOracle, BayesianOptimizationOracle):
    pass


class _Random(ResumableOracle, RandomSearchOracle):
    pass


class _Grid(ResumableOracle, GridSearchOracle):
    """A grid search that can be resumed after a restart.

    KerasTuner keeps the position in the grid in memory only: after a restart it either stops at
    once or raises. Here the next trial is the first combination that has not been tried, which the
    saved state tells.
    """

    def populate_space(self, trial_id):
        if self.gave_up:
            return {"status": "STOPPED"}
        space = self.get_space()
        values = {hp.name: hp.default for hp in space.space if space.is_active(hp)}
        while values is not None and self._duplicate(values):
            values = self._get_next_combination(values)
        return {"status": "STOPPED"} if values is None else {"status": "RUNNING", "values": values}


_ORACLES = {"hyperband": _Hyperband, "bayesian": _Bayesian, "random": _Random, "grid": _Grid}
TUNERS = tuple(_ORACLES)


def make_oracle(
    tuner: str,
    objective: str,
    direction: str,
    max_trials: int | None = None,
    max_epochs: int = 100,
    seed: int = 0,
) -> keras_tuner.Oracle:
    """Make the oracle that chooses the trials.

    Args:
        tuner: "hyperband", "bayesian", "random" or "grid".
        objective: Name of the metric.
        direction: "max" or "min".
        max_trials: Integer, the maximum number of trials. Defaults to None: as many as the tuner
            needs, and 10 for "bayesian" and "random".
        max_epochs: Integer, the epochs that Hyperband gives its best trials. Defaults to 100.
        seed: Integer. Defaults to 0.

    Returns:
        A KerasTuner oracle.

    Raises:
        ValueError: The tuner is unknown.

    Example:

    ```python
    from keras_tune.search import make_oracle

    oracle = make_oracle("random", "val_loss", "min", max_trials=20)
    ```
    """
    if tuner not in _ORACLES:
        raise ValueError(f"`tuner` must be one of {', '.join(TUNERS)}. Received: tuner={tuner}")
    options = {
        "objective": keras_tuner.Objective(objective, direction),
        # KerasTuner takes 0 for no seed at all.
        "seed": seed + 1,
        "max_consecutive_failed_trials": FAILURES,
    }
    if tuner == "hyperband":
        oracle = _Hyperband(max_epochs=max_epochs, **options)
        # The oracle respects it, but its constructor has no such argument.
        oracle.max_trials = max_trials
        return oracle
    if tuner in ("bayesian", "random"):
        max_trials = max_trials or 10
    return _ORACLES[tuner](max_trials=max_trials, **options)


class TUNeTuner(BaseTuner):
    """Search with any oracle, with each trial in this process or in a separate one.

    If a configuration cannot work, only its trial fails, with a line that names it; the search ends
    after three failures in a row (`give_up_reason`). A trial that Hyperband promotes resumes where
    it stopped, including its optimizer. The folder of each trial keeps its results: `outcome.json`,
    and `history.csv` with the metrics of every epoch. A tuner on a folder that contains a search
    resumes it.

    Args:
        oracle: An oracle from `make_oracle`.
        hypermodel: `TUNeHyperModel`.
        directory: Folder of the search.
        isolated: Whether each trial runs in its own process. Defaults to False.
        report: Function of a line of text, called when a trial ends or a worker waits. Defaults to
            `print`.
        chief_timeout: Number, the seconds without an answer after which a worker gives up on its
            chief. Defaults to 600.

    Raises:
        UserError: In a worker, if its chief is gone.

    Example:

    ```python
    from keras_tune.search import Space, TUNeHyperModel, TUNeTuner, make_oracle

    oracle = make_oracle("grid", "val_contrastive_accuracy", "max")
    hypermodel = TUNeHyperModel(Space(decoder_depth=[0, 2, 4]))
    tuner = TUNeTuner(oracle, hypermodel, "runs/search")
    tuner.give_up_reason()  # None
    ```
    """

    def __init__(
        self,
        oracle: keras_tuner.Oracle,
        hypermodel: TUNeHyperModel,
        directory: str | os.PathLike,
        isolated: bool = False,
        report: Callable[[str], Any] = print,
        chief_timeout: float = 600,
    ):
        self.isolated = isolated
        self.report = report
        self.chief_timeout = chief_timeout
        # Its tables are for notebooks.
        oracle.verbose = 0
        if self.is_worker:
            # KerasTuner asks the chief for its space below, and waits for it without a message.
            report(f"{os.environ['KERASTUNER_TUNER_ID']}: waiting for the chief at {_chief()}")
        with self._with_timeout():
            super().__init__(oracle, hypermodel, directory=str(directory), project_name="trials")

    @property
    def is_worker(self) -> bool:
        """Whether this process is a worker of a chief, by KerasTuner's environment variables."""
        return self._is_worker()

    def _populate_initial_space(self):
        # KerasTuner would build a model for every branch of the space only to see its settings.
        hp = self.oracle.get_space()
        self.hypermodel.declare_hyperparameters(hp)
        self.oracle.update_space(hp)

    def save(self) -> None:
        if not self.is_worker:
            self.oracle.save()
        write_json(self._get_tuner_fname(), self.get_state())

    def search(
        self,
        streams: Callable[[int, int], Any],
        epochs: int,
        callbacks: Callable[[], list] | None = None,
    ) -> None:
        """Run trials until the oracle has enough.

        If KerasTuner's environment variables name a chief, this process is the chief or one of its
        workers.

        Args:
            streams: As in `Job`.
            epochs: Integer, the maximum number of epochs of a trial.
            callbacks: As in `Job`. Defaults to None.

        Raises:
            UserError: Something other than a configuration is wrong, or the chief of a worker is
                gone.

        Example:

        ```python
        tuner.search(streams, epochs=1)
        tuner.get_best_hyperparameters()[0].values["decoder_depth"]  # 1
        ```
        """
        with self._with_timeout():
            super().search(streams, epochs, callbacks)

    @contextlib.contextmanager
    def _with_timeout(self) -> Iterator[None]:
        """Limit how long a worker waits for an answer of its chief within the block."""
        if not self.is_worker:
            yield
            return
        # Here, since it may not be installed and only workers need it.
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
                f"the chief at {_chief()} did not respond for {self.chief_timeout:g} s: the search "
                "has ended, or the chief has stopped. Start the chief and then its workers to "
                "resume the search."
            ) from error

    def run_trial(self, trial: Any, streams: Any, epochs: int, callbacks: Any) -> dict[str, float]:
        """Train one trial and return its score; KerasTuner calls this."""
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
            outcome = self._train(job)
        except UserError as error:
            raise _SharedError(error) from error
        write_json(folder / OUTCOME, outcome)
        objective = self.oracle.objective.name
        if not math.isfinite(outcome["score"]):
            raise FailedTrialError(f"{objective} is {outcome['score']}: training diverged")
        return {objective: outcome["score"]}

    def _train(self, job):
        """Train a configuration; returns the results to keep."""
        objective = self.oracle.objective
        outcome = (run_isolated if self.isolated else run)(job)
        outcome |= summary_of(outcome.pop("history"), objective.name, objective.direction)
        outcome["best_epoch"] += job.initial_epoch
        outcome["epochs"] = job.epochs
        configuration = job.hypermodel.configuration(job.hyperparameters)
        return {**outcome, "configuration": dataclasses.asdict(configuration)}

    def repeat(
        self,
        trial_id: str,
        seed: int,
        streams: Callable[[int, int], Any],
        epochs: int,
        callbacks: Callable[[], list] | None = None,
    ) -> dict[str, Any]:
        """Train the configuration of a trial again, with another seed.

        The results are kept in the folder of the search, and existing results are not computed
        again.

        Args:
            trial_id: String, the identifier of the trial.
            seed: Integer, the seed of weights, crops and augmentations.
            streams: As in `Job`; their order should depend on the same seed.
            epochs: Integer, the epochs of the training.
            callbacks: As in `Job`. Defaults to None.

        Returns:
            A dict with the results, as the `outcome.json` of a trial has them.

        Raises:
            UserError: The training failed, or its score is not finite.

        Example:

        ```python
        tuner.search(streams, epochs=1)
        [trial] = tuner.oracle.trials
        tuner.repeat(trial, seed=43, streams=streams, epochs=1)["score"]
        ```
        """
        path = pathlib.Path(self.directory) / "repeats" / f"trial_{trial_id}_seed_{seed}.json"
        if not path.exists():
            hyperparameters = self.oracle.get_trial(trial_id).hyperparameters
            hypermodel = self.hypermodel.with_seed(seed)
            try:
                outcome = self._train(Job(hypermodel, hyperparameters, streams, epochs, callbacks))
            except FailedTrialError as error:
                raise UserError(f"trial {trial_id} with seed {seed}: {error}") from error
            objective = self.oracle.objective.name
            if not math.isfinite(outcome["score"]):
                raise UserError(
                    f"trial {trial_id} with seed {seed}: its {objective} is not finite; use a "
                    "smaller `learning_rate`, or another `seed`"
                )
            write_json(path, outcome)
            depth = outcome["configuration"]["decoder_depth"]
            self.report(f"decoder depth {depth}, seed {seed}: {objective} {outcome['score']:.4f}")
        return json.loads(path.read_text(encoding="utf-8"))

    def _try_run_and_update_trial(self, trial, *arguments, **options):
        try:
            super()._try_run_and_update_trial(trial, *arguments, **options)
        except _SharedError as error:
            raise error.args[0] from None
        if trial.message:
            # The messages of a worker do not reach its chief otherwise.
            write_text(pathlib.Path(self.get_trial_dir(trial.trial_id)) / REASON, reason_of(trial))

    def on_trial_end(self, trial: Any) -> None:
        """Report the result of a trial; KerasTuner calls this."""
        super().on_trial_end(trial)
        self.report(f"trial {trial.trial_id} ({describe(trial)}): {self._result(trial)}")

    def _result(self, trial):
        if trial.message:
            return f"failed: {reason_of(trial)}"
        outcome = read_outcome(self, trial.trial_id)
        return (
            f"{self.oracle.objective.name} {outcome['score']:.4f} after {outcome['epochs']} "
            f"epochs, {outcome['parameters']:,} parameters, {outcome['seconds']:.0f} s"
        )

    def give_up_reason(self) -> str | None:
        """Why the search ended early; None if it did not.

        Returns:
            String that names the trials and their errors, or None.

        Example:

        ```python
        tuner.give_up_reason()  # None
        ```
        """
        trials = [self.oracle.trials[name] for name in self.oracle.gave_up]
        named = "; ".join(f"trial {trial.trial_id} ({describe(trial)})" for trial in trials)
        if not trials:
            return None
        last = read_reason(self, trials[-1].trial_id)
        return f"{len(trials)} trials in a row failed, {named}: {last}"


def _chief():
    """The address of a worker's chief."""
    return f"{os.environ['KERASTUNER_ORACLE_IP']}:{os.environ['KERASTUNER_ORACLE_PORT']}"


class _SharedError(FatalError):
    """Passes an error that every configuration would have through KerasTuner's own handling."""
