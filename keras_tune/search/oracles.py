"""KerasTuner's four ways of choosing what to try next, and what all of them need on top."""

import pathlib

import keras_tuner
from keras_tuner.oracles import (
    BayesianOptimizationOracle,
    GridSearchOracle,
    HyperbandOracle,
    RandomSearchOracle,
)

from keras_tune.files import write_json


class _Ours:
    """What every oracle needs on top of KerasTuner's: files that a kill cannot halve, and an end.

    KerasTuner writes its state in place, and a process that is killed while it does leaves a file
    that cannot be read any more. Here each is written in one step.

    A search ends after some failures in a row, without an exception: KerasTuner raises in the
    middle of an update, its chief would keep its lock, and its workers would wait for ever. Here
    the next request for a trial is told that the search is over. Failures from before a restart do
    not count, or nothing could be mended.
    """

    _counted_from = 0

    def save(self):
        write_json(self._get_oracle_fname(), self.get_state())

    def _save_trial(self, trial):
        folder = pathlib.Path(self._get_trial_dir(trial.trial_id))
        write_json(folder / "trial.json", trial.get_state())

    @property
    def gave_up(self):
        """The identifiers of the last trials, if all of them failed; else an empty list."""
        last = self.end_order[self._counted_from :][-self.max_consecutive_failed_trials :]
        failed = [name for name in last if self.trials[name].status == "FAILED"]
        return failed if len(failed) == self.max_consecutive_failed_trials else []

    def _check_consecutive_failures(self):
        pass

    def populate_space(self, trial_id):
        if self.gave_up:
            return {"status": "STOPPED"}
        return super().populate_space(trial_id)

    def set_state(self, state):
        super().set_state(state)
        self._counted_from = len(self.end_order)


class _Hyperband(_Ours, HyperbandOracle):
    """Hyperband whose brackets fill up again when a trial fails.

    A bracket promotes only once its first round is complete; KerasTuner's counts failed trials as
    part of it and then waits for successes that never come.
    """

    def end_trial(self, trial):
        super().end_trial(trial)
        if self.trials[trial.trial_id].status == "FAILED":
            for bracket in self._brackets:
                first = bracket["rounds"][0]
                first[:] = [entry for entry in first if entry["id"] != trial.trial_id]
            self.save()


class _Bayesian(_Ours, BayesianOptimizationOracle):
    pass


class _Random(_Ours, RandomSearchOracle):
    pass


class _Grid(_Ours, GridSearchOracle):
    """A grid search that can go on after a restart.

    KerasTuner's keeps its place in memory alone: started again it either stops at once or raises.
    Here the next trial is the first combination that has not been tried, and what has been tried
    is in the saved state.
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


def make_oracle(tuner, objective, direction, max_trials=None, max_epochs=100, seed=0, failures=3):
    """Make what chooses the trials.

    Args:
        tuner: "hyperband", "bayesian", "random" or "grid".
        objective: Name of the metric.
        direction: "max" or "min".
        max_trials: Integer, trials at most. Defaults to None: as many as the tuner takes, for the
            Bayesian and the random one 10.
        max_epochs: Integer, the epochs that Hyperband gives its best. Defaults to 100.
        seed: Integer. Defaults to 0.
        failures: Integer, failed trials in a row after which the search ends. Defaults to 3.

    Returns:
        A KerasTuner oracle.

    Raises:
        ValueError: There is no such tuner.

    Example:

    ```python
    oracle = make_oracle("random", "val_loss", "min", max_trials=20)
    ```
    """
    if tuner not in _ORACLES:
        raise ValueError(f"`tuner` must be one of {', '.join(TUNERS)}. Received: tuner={tuner}")
    options = {
        "objective": keras_tuner.Objective(objective, direction),
        # KerasTuner takes 0 for no seed at all.
        "seed": seed + 1,
        "max_consecutive_failed_trials": failures,
    }
    if tuner == "hyperband":
        oracle = _Hyperband(max_epochs=max_epochs, **options)
        # Its constructor does not take it, though it keeps to it.
        oracle.max_trials = max_trials
        return oracle
    if tuner in ("bayesian", "random"):
        max_trials = max_trials or 10
    return _ORACLES[tuner](max_trials=max_trials, **options)
