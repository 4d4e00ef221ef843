"""The results of a search: tables of trials, scores by depth, the Pareto front, and plots."""

from __future__ import annotations

import json
import math
import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from keras_tune.errors import UserError
from keras_tune.evaluation.plots import new_figure, save_figure

if TYPE_CHECKING:
    from keras_tune.search.tuner import TUNeTuner

# The files in the folder of a trial: its results, and why it failed.
OUTCOME = "outcome.json"
REASON = "reason.txt"


def trial_table(tuner: TUNeTuner) -> pd.DataFrame:
    """Make a table of all trials of a search.

    Args:
        tuner: `TUNeTuner`, but not that of a worker.

    Returns:
        DataFrame with one row for each trial: its identifier, status, score (of the last epoch),
        epochs, best epoch and its score, parameters, seconds of training, peak memory in MB (10⁶
        bytes), every setting, and the reason if it failed.

    Example:

    ```python
    from keras_tune.search import trial_table

    table = trial_table(tuner)
    len(table)  # the number of trials so far
    ```
    """
    rows = []
    for name, trial in sorted(tuner.oracle.trials.items()):
        outcome = read_outcome(tuner, name)
        row = {"trial": name, "seed": tuner.hypermodel.seed, "status": trial.status}
        if trial.status == "COMPLETED":
            row |= outcome_row(outcome)
        else:
            row |= {
                key: value
                for key, value in trial.hyperparameters.values.items()
                if not key.startswith("tuner/")
            }
            row["reason"] = read_reason(tuner, name)
        rows.append(row)
    return pd.DataFrame(rows)


def outcome_row(outcome: Mapping[str, Any]) -> dict[str, Any]:
    """The row of a training in the table: the measurements and the configuration."""
    measured = ["score", "best_epoch", "best_epoch_score", "epochs", "parameters", "seconds"]
    measured += ["peak_memory_mb"]
    row = {key: outcome.get(key) for key in measured}
    configuration = dict(outcome["configuration"])
    augment = configuration.pop("augment")
    configuration["tail_filters"] = " ".join(map(str, configuration["tail_filters"]))
    return row | configuration | {f"augment/{key}": value for key, value in augment.items()}


def best_of_each_depth(table: pd.DataFrame, direction: str) -> pd.DataFrame:
    """The rows of the best completed trials in `trial_table`, one for each decoder depth."""
    done = table[table["status"] == "COMPLETED"]
    # Trials that Hyperband promoted come before those that it stopped early.
    ordered = done.sort_values(["epochs", "score"], ascending=[False, direction == "min"])
    return ordered.drop_duplicates("decoder_depth").sort_values("decoder_depth")


def scores_by_depth(runs: pd.DataFrame) -> pd.DataFrame:
    """Mean and standard deviation of the score over seeds, at each decoder depth.

    Args:
        runs: DataFrame with the columns `decoder_depth` and `score`, one row for each run.

    Returns:
        DataFrame by `decoder_depth` with `mean`, `std` (with n − 1, NaN for one run), `min`,
        `max` and `count`.

    Example:

    ```python
    import pandas as pd
    from keras_tune.search import scores_by_depth

    runs = pd.DataFrame({"decoder_depth": [0, 0, 4], "score": [0.5, 0.7, 0.9]})
    scores_by_depth(runs).loc[0, "mean"]  # 0.6
    ```
    """
    return runs.groupby("decoder_depth")["score"].agg(["mean", "std", "min", "max", "count"])


def pareto_front(table: pd.DataFrame, cost: str, direction: str = "max") -> pd.DataFrame:
    """The rows for which no other row has a better score at the same or a lower cost.

    Args:
        table: DataFrame with the column `score` and the one that `cost` names.
        cost: Name of the column that should be small: "parameters" or "seconds".
        direction: "max" or "min": which scores are better. Defaults to "max".

    Returns:
        The rows of the front, in order of increasing cost.

    Example:

    ```python
    import pandas as pd
    from keras_tune.search import pareto_front

    table = pd.DataFrame({"score": [0.5, 0.4, 0.9], "parameters": [1, 2, 3]})
    pareto_front(table, "parameters").index.tolist()  # [0, 2]
    ```
    """
    rows = table.dropna(subset=["score", cost])
    gain = rows["score"].astype(float) * (1 if direction == "max" else -1)
    ordered = rows.assign(_gain=gain).sort_values([cost, "_gain"], ascending=[True, False])
    better = ordered["_gain"] > ordered["_gain"].cummax().shift(fill_value=-float("inf"))
    return ordered[better].drop(columns="_gain")


def draw_depths(path: str | pathlib.Path, runs: pd.DataFrame, metric: str) -> None:
    """Draw the score against the decoder depth: all runs, their mean and standard deviation.

    Args:
        path: The `.png` file to write.
        runs: DataFrame with the columns `decoder_depth` and `score`, one row for each run.
        metric: Name of the score.

    Example:

    ```python
    import pandas as pd
    from keras_tune.search import draw_depths

    runs = pd.DataFrame({"decoder_depth": [0, 0, 4], "score": [0.5, 0.7, 0.9]})
    draw_depths("depths.png", runs, "val_contrastive_accuracy")
    ```
    """
    scores = scores_by_depth(runs)
    figure, axes = new_figure(6, 4)
    axes.plot(runs["decoder_depth"], runs["score"], ".", color="tab:gray", label="runs")
    axes.errorbar(
        scores.index,
        scores["mean"],
        scores["std"].fillna(0),
        fmt="o-",
        color="tab:blue",
        capsize=4,
        label="mean and standard deviation over seeds",
    )
    axes.set_xticks(scores.index)
    axes.set(xlabel="decoder depth (0: CLMR)", ylabel=metric)
    axes.grid(alpha=0.3)
    # Above the axes, where it covers no run.
    figure.legend(loc="outside upper center", ncols=2)
    save_figure(figure, path)


def draw_pareto(path: str | pathlib.Path, table: pd.DataFrame, direction: str, metric: str) -> None:
    """Draw the score against parameters and against training time, with the Pareto fronts.

    Args:
        path: The `.png` file to write.
        table: DataFrame with the columns `score`, `decoder_depth`, `parameters` and `seconds`.
        direction: "max" or "min": which scores are better.
        metric: Name of the score.

    Example:

    ```python
    import pandas as pd
    from keras_tune.search import draw_pareto

    table = pd.DataFrame({"score": [0.5, 0.9], "parameters": [1, 3], "seconds": [1.0, 2.0]})
    draw_pareto("pareto.png", table.assign(decoder_depth=[0, 4]), "max", "val_probe")
    ```
    """
    figure, panels = new_figure(10, 4, (1, 2))
    for axes, cost in zip(np.ravel(panels), ("parameters", "seconds"), strict=True):
        points = axes.scatter(table[cost], table["score"], c=table["decoder_depth"], cmap="viridis")
        front = pareto_front(table, cost, direction)
        axes.step(front[cost], front["score"], where="post", color="tab:red", label="front")
        axes.set(xlabel=cost if cost == "parameters" else "seconds of training", ylabel=metric)
        axes.locator_params(axis="x", nbins=5)
        axes.grid(alpha=0.3)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center")
    figure.colorbar(points, label="decoder depth")
    save_figure(figure, path)


def summary_of(history: dict[str, list[float]], metric: str, direction: str) -> dict[str, Any]:
    """The score of a training: the value of its last epoch, which was not selected.

    Returns:
        A dict with `score`, `best_epoch` (from 1), `best_epoch_score`, which is partly luck, and
        `last`, the last epoch's metrics. If one score is NaN, all scores are NaN.

    Raises:
        UserError: The trials do not report this metric.
    """
    if metric not in history:
        raise UserError(
            f"`objective` must be one of {', '.join(sorted(history))}, which the trials report. "
            f"Received: objective={metric}"
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


def describe(trial: Any) -> str:
    """The free hyperparameters of a trial, in a line."""
    fixed = {hp.name for hp in trial.hyperparameters.space if type(hp).__name__ == "Fixed"}
    return ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in trial.hyperparameters.values.items()
        if name not in fixed and not name.startswith("tuner/")
    )


def reason_of(trial: Any) -> str:
    """The last line of the error of a failed trial, without the name of its class."""
    line = (trial.message or "").strip().splitlines()[-1:] or ["unknown reason"]
    name, _, message = line[0].partition(": ")
    return message if name.endswith("FailedTrialError") else line[0]


def read_reason(tuner: TUNeTuner, trial_id: str) -> str:
    """Why a trial failed, in a line."""
    path = pathlib.Path(tuner.get_trial_dir(trial_id)) / REASON
    return path.read_text(encoding="utf-8") if path.exists() else "unknown reason"


def read_outcome(tuner: TUNeTuner, trial_id: str) -> dict[str, Any]:
    """The results in the folder of a trial; empty if it has none."""
    path = pathlib.Path(tuner.get_trial_dir(trial_id)) / OUTCOME
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
