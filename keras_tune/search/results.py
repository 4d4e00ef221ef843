"""What a search found: a table of its trials, the scores at each depth, the Pareto front."""

import pandas as pd

from keras_tune.search.tuner import read_outcome, read_reason


def trial_table(tuner):
    """Tabulate all trials of a search.

    Args:
        tuner: `TUNeTuner`, not that of a worker.

    Returns:
        DataFrame with a row a trial: its identifier, status, score (of the last epoch), epochs,
        best epoch and its score, parameters, seconds of training, peak memory in MB (10⁶ bytes),
        every setting, and why it failed.

    Example:

    ```python
    trial_table(tuner).sort_values("score")
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


def outcome_row(outcome):
    """The row of a training in the table: what was measured, and the configuration."""
    measured = ("score", "best_epoch", "best_epoch_score", "epochs", "parameters", "seconds")
    measured += ("peak_memory_mb",)
    row = {key: outcome.get(key) for key in measured}
    configuration = dict(outcome["configuration"])
    augment = configuration.pop("augment")
    configuration["tail_filters"] = " ".join(map(str, configuration["tail_filters"]))
    return row | configuration | {f"augment/{key}": value for key, value in augment.items()}


def best_of_each_depth(table, direction):
    """The best completed trial of each decoder depth.

    Args:
        table: As `trial_table` gives.
        direction: "max" or "min".

    Returns:
        The rows of the table, by depth.
    """
    done = table[table["status"] == "COMPLETED"]
    # Promoted trials of Hyperband count before those that it stopped early.
    ordered = done.sort_values(["epochs", "score"], ascending=[False, direction == "min"])
    return ordered.drop_duplicates("decoder_depth").sort_values("decoder_depth")


def scores_by_depth(runs):
    """Mean and spread of the score over seeds, at each decoder depth.

    Args:
        runs: DataFrame with the columns `decoder_depth` and `score`, a row a run.

    Returns:
        DataFrame by `decoder_depth` with `mean`, `std` (of the sample, NaN for one run), `min`,
        `max` and `count`.

    Example:

    ```python
    runs = pd.DataFrame({"decoder_depth": [0, 0, 4], "score": [0.5, 0.7, 0.9]})
    scores_by_depth(runs).loc[0, "mean"]  # 0.6
    ```
    """
    return runs.groupby("decoder_depth")["score"].agg(["mean", "std", "min", "max", "count"])


def pareto_front(table, cost, direction="max"):
    """The rows that no other beats in score without costing more.

    Args:
        table: DataFrame with the columns `score` and `cost`'s.
        cost: Name of the column that should be small: "parameters" or "seconds".
        direction: "max" or "min": which scores are better. Defaults to "max".

    Returns:
        The rows of the front, by rising cost.

    Example:

    ```python
    table = pd.DataFrame({"score": [0.5, 0.4, 0.9], "parameters": [1, 2, 3]})
    pareto_front(table, "parameters").index.tolist()  # [0, 2]
    ```
    """
    rows = table.dropna(subset=["score", cost])
    gain = rows["score"] if direction == "max" else -rows["score"]
    ordered = rows.assign(_gain=gain).sort_values([cost, "_gain"], ascending=[True, False])
    better = ordered["_gain"] > ordered["_gain"].cummax().shift(fill_value=-float("inf"))
    return ordered[better].drop(columns="_gain")
