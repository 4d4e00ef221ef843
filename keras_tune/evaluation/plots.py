"""The plots of a report, drawn with matplotlib without a display."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_tune.files import atomic_path

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


COLOURS = ("tab:blue", "tab:gray", "tab:orange", "tab:green", "tab:red", "tab:purple")
COLOURS += ("tab:brown", "tab:pink", "tab:olive", "tab:cyan", "black", "gold", "navy", "lime")


def draw_layers(
    path: str | pathlib.Path,
    curves: dict[str, dict[str, Any]],
    metric: str,
    chance: float | None = None,
) -> None:
    """Draw the score of each stage, with intervals, from reports by encoder and stage.

    `chance` is the score of a constant prediction, which is a line if it is given.
    """
    figure, axes = new_figure(9, 4.5)
    for colour, (name, curve) in zip(COLOURS, curves.items(), strict=False):
        scores = [entry["score"] for entry in curve.values()]
        low, high = np.transpose([entry["interval_95"] for entry in curve.values()])
        axes.plot(list(curve), scores, "o-", color=colour, label=name)
        axes.fill_between(np.arange(len(scores)), low, high, color=colour, alpha=0.12)
    _slant(axes)
    _finish(figure, axes, metric, path, chance=chance)


def draw_scores(
    path: str | pathlib.Path,
    results: dict[str, dict[str, Any]],
    metric: str,
    chance: float | None = None,
) -> None:
    """Draw scores side by side, with intervals, from reports by protocol and representation.

    `chance` is the score of a constant prediction, which is a line if it is given.
    """
    names = list(dict.fromkeys(name for entries in results.values() for name in entries))
    figure, axes = new_figure(max(4.5, 1.5 + 1.6 * len(results)), 4)
    for index, (colour, name) in enumerate(zip(COLOURS, names, strict=False)):
        # Not every protocol can evaluate every representation.
        columns = [column for column, found in enumerate(results.values()) if name in found]
        entries = [found[name] for found in results.values() if name in found]
        scores = np.array([entry["score"] for entry in entries])
        limits = np.transpose([entry["interval_95"] for entry in entries])
        bars = np.maximum(np.abs(limits - scores), 0)
        at = np.array(columns) + _shift(index, len(names), 0.2)
        axes.errorbar(at, scores, bars, fmt="o", color=colour, capsize=3, label=name)
    axes.set_xticks(np.arange(len(results)), list(results))
    axes.set_xlim(-0.5, len(results) - 0.5)
    _finish(figure, axes, metric, path, grid="y", chance=chance)


def draw_history(
    path: str | pathlib.Path,
    history: pd.DataFrame,
    levels: dict[str, dict[str, float]] | None = None,
) -> None:
    """Draw the history of a training over its epochs, from the columns of `history.csv`.

    `x` and `val_x` share a panel, without the epochs in which they are NaN. `levels` has, by panel,
    a dict from a label to a number that is drawn as a line.
    """
    from matplotlib.ticker import MaxNLocator

    columns = [name for name in history.columns if name != "epoch"]
    panels = list(dict.fromkeys(name.removeprefix("val_") for name in columns))
    wide = min(3, len(panels))
    high = -(-len(panels) // wide)
    figure, all_axes = new_figure(4 * wide, 3 * high, (high, wide))
    lines = {}
    for axes, name in zip(np.ravel(all_axes), panels, strict=False):
        sides = (("train", name, "tab:blue"), ("valid", f"val_{name}", "tab:orange"))
        for side, column, colour in sides:
            if column in columns:
                known = history[history[column].notna()]
                # A line needs two epochs.
                style = "-" if len(known) > 1 else "."
                [lines[side]] = axes.plot(known["epoch"] + 1, known[column], style, color=colour)
        for colour, (label, level) in zip(
            COLOURS[3:], (levels or {}).get(name, {}).items(), strict=False
        ):
            lines[label] = axes.axhline(level, color=colour, linestyle=":")
        axes.set_title(_in_words(name))
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
    figure.legend(
        lines.values(), lines, loc="outside upper center", ncols=len(lines), frameon=False
    )
    for axes in np.ravel(all_axes)[len(panels) :]:
        axes.set_visible(False)
    save_figure(figure, path)


def draw_map(
    path: str | pathlib.Path, vectors: np.ndarray, labels: Sequence[Any], title: str
) -> None:
    """Draw embeddings in two dimensions (t-SNE of standardized features), coloured by label.

    The vectors (clips, d) are those of at least 5 clips; labels are names or numbers.

    Source: van der Maaten & Hinton, "Visualizing data using t-SNE" (JMLR 2008).
    """
    from sklearn.manifold import TSNE
    from sklearn.preprocessing import StandardScaler

    perplexity = min(30, (len(vectors) - 1) / 4)
    features = StandardScaler().fit_transform(vectors)
    # For few clips the exact method is faster, above all on busy processors.
    method = "exact" if len(features) <= 500 else "barnes_hut"
    options = {"perplexity": perplexity, "init": "pca", "random_state": 0, "method": method}
    points = TSNE(**options).fit_transform(features)
    figure, axes = new_figure(6.5, 5.5)
    if any(isinstance(label, float) for label in labels):
        dots = axes.scatter(*points.T, c=np.array(labels, float), s=16, cmap="viridis")
        figure.colorbar(dots)
    else:
        names = np.array([str(label) for label in labels])
        kinds = sorted(set(names))
        for name, colour in zip(kinds, _distinct(len(kinds)), strict=True):
            axes.scatter(*points[names == name].T, s=16, color=colour, label=name)
        # No more names fit beside the map.
        handles, shown = axes.get_legend_handles_labels()
        figure.legend(handles[:30], shown[:30], loc="outside right upper", fontsize="small")
    axes.set_title(title)
    axes.set_xticks([])
    axes.set_yticks([])
    save_figure(figure, path)


def draw_confusion(
    path: str | pathlib.Path, counts: np.ndarray, classes: Sequence[str], title: str
) -> None:
    """Draw a confusion matrix: counts as numbers, their fractions of the row as colours.

    Rows are true classes. Counts that are means over several seeds need not be whole numbers.
    """
    from sklearn.metrics import ConfusionMatrixDisplay

    counts = np.asarray(counts, float)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1e-9)
    size = 3 + 0.45 * len(classes)
    figure, axes = new_figure(size + 1, size)
    display = ConfusionMatrixDisplay(shares, display_labels=classes)
    display.plot(ax=axes, cmap="Blues", colorbar=False, include_values=False)
    display.im_.set_clim(0, 1)
    for row, column in np.argwhere(counts):
        colour = "white" if shares[row, column] > 0.5 else "black"
        text = f"{counts[row, column]:.1f}".removesuffix(".0")
        axes.text(column, row, text, ha="center", va="center", color=colour)
    _slant(axes)
    axes.set_title(title)
    save_figure(figure, path)


def draw_tags(
    path: str | pathlib.Path, tags: dict[str, dict[str, dict[str, float]]], title: str
) -> None:
    """Draw `roc_auc` and `average_precision` as bars, by representation, tag and metric."""
    names = list(next(iter(tags.values())))
    figure, both = new_figure(9, 1.5 + 0.3 * len(names), (1, 2), sharey=True)
    height = 0.8 / len(tags)
    for axes, metric in zip(both, ("roc_auc", "average_precision"), strict=True):
        for index, (colour, (name, scores)) in enumerate(zip(COLOURS, tags.items(), strict=False)):
            at = np.arange(len(names)) + _shift(index, len(tags))
            values = [scores[tag][metric] for tag in names]
            axes.barh(at, values, height, color=colour, label=name)
        axes.set_xlabel(_in_words(metric))
        axes.set_xlim(0, 1)
        axes.set_yticks(np.arange(len(names)), names)
        axes.grid(axis="x", alpha=0.3)
    both[0].invert_yaxis()
    # The ROC-AUC of guessing.
    both[0].axvline(0.5, color="black", linewidth=0.8, linestyle=":")
    figure.suptitle(title)
    _legend(figure, both[0], "outside lower center")
    save_figure(figure, path)


def draw_label_fractions(
    path: str | pathlib.Path, curves: dict[str, dict[str, list[float]]], metric: str
) -> None:
    """Draw the scores of all seeds over the fraction of the labels, as `Study` gives them."""
    figure, axes = new_figure(6, 4)
    for colour, (name, curve) in zip(COLOURS, curves.items(), strict=False):
        fractions = [float(fraction) for fraction in curve]
        scores = np.array(list(curve.values()))
        means, stds = scores.mean(axis=1), scores.std(axis=1)
        axes.errorbar(fractions, means, stds, fmt="o-", color=colour, capsize=3, label=name)
    axes.set_xscale("log")
    axes.set_xlabel("fraction of the labels")
    _finish(figure, axes, metric, path)


def draw_deformations(
    path: str | pathlib.Path, scores: dict[str, dict[str, float]], metric: str
) -> None:
    """Draw scores side by side, by representation and deformation ("none" without any)."""
    changes = list(next(iter(scores.values())))
    figure, axes = new_figure(2 + 0.75 * len(changes), 4.2)
    for index, (colour, (name, found)) in enumerate(zip(COLOURS, scores.items(), strict=False)):
        values = [found[change] for change in changes]
        at = np.arange(len(changes)) + _shift(index, len(scores), 0.15)
        axes.plot(at, values, "o", color=colour, label=name)
        axes.axhline(found["none"], color=colour, linewidth=0.8, linestyle=":")
    axes.set_xticks(np.arange(len(changes)), changes)
    _slant(axes)
    _finish(figure, axes, metric, path)


def _distinct(count):
    """A list of `count` distinct colours."""
    from matplotlib import colormaps

    if count <= 10:
        return [colormaps["tab10"](index) for index in range(count)]
    return colormaps["turbo"](np.linspace(0, 1, count))


def _finish(figure, axes, metric, path, grid="both", chance=None):
    """Label the axis of the scores, add grid and legend, and write the figure."""
    if chance is not None:
        axes.axhline(chance, color="gray", linestyle=":", label="constant prediction")
    axes.set_ylabel(_in_words(metric))
    axes.grid(axis=grid, alpha=0.3)
    _legend(figure, axes)
    save_figure(figure, path)


def _legend(figure, axes, loc="outside upper center"):
    """A legend beside the axes."""
    handles, names = axes.get_legend_handles_labels()
    figure.legend(handles, names, loc=loc, ncols=min(4, len(names)), frameon=False)


def _in_words(metric):
    """The name of a metric in words."""
    words = metric.replace("_", " ").replace("roc auc", "ROC-AUC").replace("r2", "R²")
    return words.replace("and ap", "and AP")


def _slant(axes):
    """Rotate the names under an axis so that each ends at its tick."""
    for label in axes.get_xticklabels():
        label.set(rotation=45, ha="right", rotation_mode="anchor")


def _shift(index, count, most=0.8):
    """How far to the side one of `count` marks is drawn, so that equal scores hide no other."""
    return (index - (count - 1) / 2) * min(most, 0.8 / count)


def new_figure(
    width: float, height: float, panels: tuple[int, int] = (1, 1), **options: Any
) -> tuple[Figure, Any]:
    """A figure without a display, its size in inches, and its axes (see `Figure.subplots`)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # Not pyplot's figure, so the caller's matplotlib is not changed.
    figure = Figure((width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(*panels, **options)


def save_figure(figure: Figure, path: str | pathlib.Path) -> None:
    """Write a figure to a `.png` file, in one step."""
    with atomic_path(pathlib.Path(path)) as temporary:
        figure.savefig(temporary, dpi=110)
