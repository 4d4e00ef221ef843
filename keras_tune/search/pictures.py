"""Pictures of a search, drawn by matplotlib without a display."""

import pathlib

import numpy as np

from keras_tune.files import atomic_path


def draw_depths(path, runs, metric):
    """Draw score against decoder depth: every run, and mean and deviation over seeds.

    Args:
        path: The `.png` to write.
        runs: DataFrame with the columns `decoder_depth` and `score`, a row a run.
        metric: Name of the score.

    Example:

    ```python
    draw_depths("depths.png", runs, "val_contrastive_accuracy")
    ```
    """
    from keras_tune.search.results import scores_by_depth

    spread = scores_by_depth(runs)
    figure, axes = _figure(6, 4)
    axes.plot(runs["decoder_depth"], runs["score"], ".", color="tab:gray", label="runs")
    axes.errorbar(
        spread.index,
        spread["mean"],
        spread["std"].fillna(0),
        fmt="o-",
        color="tab:blue",
        capsize=4,
        label="mean and standard deviation over seeds",
    )
    axes.set_xticks(spread.index)
    axes.set(xlabel="decoder depth (0: CLMR)", ylabel=metric)
    axes.grid(alpha=0.3)
    # Above the axes, where it covers no run.
    figure.legend(loc="outside upper center", ncols=2)
    _save(figure, path)


def draw_pareto(path, table, direction, metric):
    """Draw score against parameters and against training time, with the fronts.

    Args:
        path: The `.png` to write.
        table: DataFrame with the columns `score`, `decoder_depth`, `parameters` and `seconds`.
        direction: "max" or "min": which scores are better.
        metric: Name of the score.
    """
    from keras_tune.search.results import pareto_front

    figure, panels = _figure(10, 4, (1, 2))
    for axes, cost in zip(np.ravel(panels), ("parameters", "seconds"), strict=True):
        points = axes.scatter(table[cost], table["score"], c=table["decoder_depth"], cmap="viridis")
        front = pareto_front(table, cost, direction)
        axes.step(front[cost], front["score"], where="post", color="tab:red", label="front")
        axes.set(xlabel=cost if cost == "parameters" else "seconds of training", ylabel=metric)
        axes.locator_params(axis="x", nbins=5)
        axes.grid(alpha=0.3)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center")
    figure.colorbar(points, label="decoder depth")
    _save(figure, path)


def _figure(width, height, panels=(1, 1)):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # A figure of its own, not pyplot's: nothing of the caller's matplotlib is changed.
    figure = Figure((width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(*panels)


def _save(figure, path):
    with atomic_path(pathlib.Path(path)) as temporary:
        figure.savefig(temporary, dpi=110)
