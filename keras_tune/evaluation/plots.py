"""Pictures for a report, drawn by matplotlib without a display."""

import pathlib

import numpy as np

from keras_tune.files import atomic_path, write_text

COLOURS = ("tab:blue", "tab:gray", "tab:orange", "tab:green", "tab:red", "tab:purple")
COLOURS += ("tab:brown", "tab:pink", "tab:olive", "tab:cyan", "black", "gold", "navy", "lime")
# Beyond some thousand dots a map takes minutes and shows no more.
MOST_DOTS = 3000


def draw_layers(path, curves, metric):
    """Draw the score of each stage, with intervals.

    Args:
        path: The `.png` to write.
        curves: Dict from the name of an encoder to a dict from stage to a dict with `score` and
            `interval_95`.
        metric: Name of the metric.

    Example:

    ```python
    draw_layers("layers.png", {"pretrained": {"tail_9": report}}, "accuracy")
    ```
    """
    figure, axes = _figure(9, 4.5)
    for colour, (name, curve) in zip(COLOURS, curves.items(), strict=False):
        scores = [entry["score"] for entry in curve.values()]
        low, high = np.transpose([entry["interval_95"] for entry in curve.values()])
        axes.plot(list(curve), scores, "o-", color=colour, label=name)
        axes.fill_between(np.arange(len(scores)), low, high, color=colour, alpha=0.12)
    axes.set_ylabel(_in_words(metric))
    _slant(axes)
    axes.grid(alpha=0.3)
    _legend(figure, axes)
    _save(figure, path)


def draw_scores(path, results, metric):
    """Draw the scores of all protocols and representations side by side, with intervals.

    Args:
        path: The `.png` to write.
        results: Dict from protocol to a dict from representation to a dict with `score` and
            `interval_95`.
        metric: Name of the metric.
    """
    names = list(dict.fromkeys(name for entries in results.values() for name in entries))
    figure, axes = _figure(max(4.5, 1.5 + 1.6 * len(results)), 4)
    for place, (colour, name) in enumerate(zip(COLOURS, names, strict=False)):
        # Not every protocol can evaluate every representation.
        columns = [column for column, found in enumerate(results.values()) if name in found]
        entries = [found[name] for found in results.values() if name in found]
        scores = np.array([entry["score"] for entry in entries])
        limits = np.transpose([entry["interval_95"] for entry in entries])
        spread = np.maximum(np.abs(limits - scores), 0)
        at = np.array(columns) + (place - (len(names) - 1) / 2) * min(0.2, 0.8 / len(names))
        axes.errorbar(at, scores, spread, fmt="o", color=colour, capsize=3, label=name)
    axes.set_xticks(np.arange(len(results)), list(results))
    axes.set_xlim(-0.5, len(results) - 0.5)
    axes.set_ylabel(_in_words(metric))
    axes.grid(axis="y", alpha=0.3)
    _legend(figure, axes)
    _save(figure, path)


def draw_history(path, history):
    """Draw the columns of a training's history over its epochs.

    Args:
        path: The `.png` to write.
        history: DataFrame as `history.csv` holds it; `x` and `val_x` share a panel.
    """
    columns = [name for name in history.columns if name != "epoch"]
    panels = list(dict.fromkeys(name.removeprefix("val_") for name in columns))
    wide = min(3, len(panels))
    figure, all_axes = _figure(
        4 * wide, 3 * -(-len(panels) // wide), (-(-len(panels) // wide), wide)
    )
    lines = {}
    for axes, name in zip(np.ravel(all_axes), panels, strict=False):
        sides = (("train", name, "tab:blue"), ("valid", f"val_{name}", "tab:orange"))
        for side, column, colour in sides:
            if column in columns:
                [lines[side]] = axes.plot(history["epoch"] + 1, history[column], color=colour)
        axes.set_title(name)
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.3)
    figure.legend(
        lines.values(), lines, loc="outside upper center", ncols=len(lines), frameon=False
    )
    for axes in np.ravel(all_axes)[len(panels) :]:
        axes.set_visible(False)
    _save(figure, path)


def draw_map(path, vectors, labels, title=""):
    """Draw embeddings in two dimensions (t-SNE of standardized features), coloured by label.

    Args:
        path: The `.png` to write.
        vectors: Array (clips, d), at least 5 clips.
        labels: List of the clips' labels: names or numbers.
        title: String. Defaults to none.

    Source: van der Maaten & Hinton, "Visualizing data using t-SNE" (JMLR 2008).
    """
    from sklearn.manifold import TSNE
    from sklearn.preprocessing import StandardScaler

    perplexity = min(30, (len(vectors) - 1) / 4)
    features = StandardScaler().fit_transform(vectors)
    # The exact method is the faster one for few clips, above all on processors that are busy.
    method = "exact" if len(features) <= 500 else "barnes_hut"
    options = {"perplexity": perplexity, "init": "pca", "random_state": 0, "method": method}
    places = TSNE(**options).fit_transform(features)
    figure, axes = _figure(6.5, 5.5)
    if any(isinstance(label, float) for label in labels):
        dots = axes.scatter(*places.T, c=np.array(labels, float), s=16, cmap="viridis")
        figure.colorbar(dots)
    else:
        names = np.array([str(label) for label in labels])
        kinds = sorted(set(names))
        for name, colour in zip(kinds, _distinct(len(kinds)), strict=True):
            axes.scatter(*places[names == name].T, s=16, color=colour, label=name)
        # What does not fit beside the map is not listed.
        handles, shown = axes.get_legend_handles_labels()
        figure.legend(handles[:30], shown[:30], loc="outside right upper", fontsize="small")
    axes.set_title(title)
    axes.set_xticks([])
    axes.set_yticks([])
    _save(figure, path)


def draw_confusion(path, counts, classes, title=""):
    """Draw a confusion matrix, each row's counts with the row's shares as colours.

    Args:
        path: The `.png` to write.
        counts: Array (classes, classes), clips of the class of the row that were given the class of
            the column; means over several seeds need not be whole.
        classes: List of class names.
        title: String. Defaults to none.
    """
    from sklearn.metrics import ConfusionMatrixDisplay

    counts = np.asarray(counts, float)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1e-9)
    size = 3 + 0.45 * len(classes)
    figure, axes = _figure(size + 1, size)
    display = ConfusionMatrixDisplay(shares, display_labels=classes)
    display.plot(ax=axes, cmap="Blues", colorbar=False, include_values=False)
    display.im_.set_clim(0, 1)
    for row, column in np.argwhere(counts):
        colour = "white" if shares[row, column] > 0.5 else "black"
        text = f"{counts[row, column]:.1f}".removesuffix(".0")
        axes.text(column, row, text, ha="center", va="center", color=colour)
    _slant(axes)
    axes.set_title(title)
    _save(figure, path)


def draw_tags(path, tags, title=""):
    """Draw ROC-AUC and average precision of each tag as bars.

    Args:
        path: The `.png` to write.
        tags: Dict from the name of a representation to a dict from tag to a dict with `roc_auc` and
            `average_precision`.
        title: String. Defaults to none.
    """
    names = list(next(iter(tags.values())))
    figure, both = _figure(9, 1.5 + 0.3 * len(names), (1, 2), sharey=True)
    height = 0.8 / len(tags)
    for axes, metric in zip(both, ("roc_auc", "average_precision"), strict=True):
        for place, (colour, (name, scores)) in enumerate(zip(COLOURS, tags.items(), strict=False)):
            at = np.arange(len(names)) + (place - (len(tags) - 1) / 2) * height
            values = [scores[tag][metric] for tag in names]
            axes.barh(at, values, height, color=colour, label=name)
        axes.set_xlabel(_in_words(metric))
        axes.set_xlim(0, 1)
        axes.set_yticks(np.arange(len(names)), names)
        axes.grid(axis="x", alpha=0.3)
    both[0].invert_yaxis()
    # A probe that knows nothing has this ROC-AUC.
    both[0].axvline(0.5, color="black", linewidth=0.8, linestyle=":")
    figure.suptitle(title)
    _legend(figure, both[0], "outside lower center")
    _save(figure, path)


def draw_curve(path, curves, metric, xlabel, log=False):
    """Draw scores over a number: the share of labels, or the strength of a deformation.

    Args:
        path: The `.png` to write.
        curves: Dict from a name to a dict from number to a list of scores, one a seed.
        metric: Name of the metric.
        xlabel: Name of the number.
        log: Whether the number's axis is logarithmic. Defaults to False.
    """
    figure, axes = _figure(6, 4)
    for colour, (name, curve) in zip(COLOURS, curves.items(), strict=False):
        scores = [np.asarray(values) for values in curve.values()]
        means = np.array([values.mean() for values in scores])
        spread = np.array([values.std() for values in scores])
        axes.errorbar(list(curve), means, spread, fmt="o-", color=colour, capsize=3, label=name)
    if log:
        axes.set_xscale("log")
    axes.set_xlabel(xlabel)
    axes.set_ylabel(_in_words(metric))
    axes.grid(alpha=0.3)
    _legend(figure, axes)
    _save(figure, path)


def draw_deformations(path, scores, metric):
    """Draw the scores under each deformation, side by side.

    Args:
        path: The `.png` to write.
        scores: Dict from the name of a representation to a dict from deformation to score; "none"
            stands for the clips as they are.
        metric: Name of the metric.
    """
    changes = list(next(iter(scores.values())))
    figure, axes = _figure(2 + 0.75 * len(changes), 4.2)
    for place, (colour, (name, found)) in enumerate(zip(COLOURS, scores.items(), strict=False)):
        values = [found[change] for change in changes]
        # Side by side, so that equal scores do not hide each other.
        at = np.arange(len(changes)) + (place - (len(scores) - 1) / 2) * min(
            0.15, 0.8 / len(scores)
        )
        axes.plot(at, values, "o", color=colour, label=name)
        axes.axhline(found["none"], color=colour, linewidth=0.8, linestyle=":")
    axes.set_xticks(np.arange(len(changes)), changes)
    axes.set_ylabel(_in_words(metric))
    _slant(axes)
    axes.grid(alpha=0.3)
    _legend(figure, axes)
    _save(figure, path)


def draw_study(output, study, content, columns=(), history=None):
    """Draw the pictures of a study, and write its embeddings for TensorBoard's projector.

    Args:
        output: Folder to write to.
        study: `Study`.
        content: What `report.json` holds: `results` and, where there are any, `label_fraction` and
            `deformations`.
        columns: Labels for the projector. Defaults to none.
        history: Path of the `history.csv` of the encoder's training. Defaults to None; left out if
            there is no such file.

    Returns:
        List of the pictures' names.

    Example:

    ```python
    draw_study("report", study, {"results": {"knn": study.evaluate("knn")}}, ["genre"])
    ```
    """
    drawing = _Drawing(pathlib.Path(output), study)
    results = {k: v for k, v in content["results"].items() if k != "layers"}
    if results:
        drawing.draw("scores.png", draw_scores, results, study.task.primary)
    if "layers" in content["results"]:
        layers = content["results"]["layers"]
        drawing.draw("layers.png", draw_layers, layers, study.task.primary)
    for protocol in results:
        drawing.outcomes(protocol)
    for name, clips in study.clips.items():
        drawing.map(name, clips)
        write_projector(drawing.output / "projector" / name, clips, columns)
    for protocol, curves in content.get("label_fraction", {}).items():
        drawing.label_fractions(protocol, curves)
    for protocol, scores in content.get("deformations", {}).items():
        drawing.draw(f"deformations_{protocol}.png", draw_deformations, scores, study.task.primary)
    if history is not None and pathlib.Path(history).is_file():
        import pandas as pd

        drawing.draw("training.png", draw_history, pd.read_csv(history))
    return drawing.drawn


class _Drawing:
    """The pictures drawn so far."""

    def __init__(self, output, study):
        self.output, self.study = output, study
        self.drawn = []

    def draw(self, name, function, *arguments, **options):
        function(self.output / name, *arguments, **options)
        self.drawn.append(name)

    def outcomes(self, protocol):
        """Bars of each tag, or the confusion matrix of each representation."""
        task = self.study.task
        names = self.study.suitable(protocol)
        outcomes = {name: self.study.outcomes[protocol, name] for name in names}
        if task.kind == "tagging":
            tags = {name: _per_tag(outcome) for name, outcome in outcomes.items()}
            self.draw(f"tags_{protocol}.png", draw_tags, tags, protocol)
        elif task.loss == "softmax":
            for name, outcome in outcomes.items():
                self.draw(
                    f"confusion_{protocol}_{name}.png",
                    draw_confusion,
                    **_confusion(outcome, f"{protocol}, {name}"),
                )

    def map(self, name, clips):
        """A map of the clips that have the first target."""
        column = self.study.task.columns[0].name
        rows = [row for row, labels in enumerate(clips.labels) if labels.get(column) is not None]
        rows = rows[:: max(1, -(-len(rows) // MOST_DOTS))]
        if len(rows) >= 5:
            shown = [clips.labels[row][column] for row in rows]
            self.draw(
                f"map_{name}.png",
                draw_map,
                clips.vectors[rows],
                shown,
                f"{name}, by {column}",
            )

    def label_fractions(self, protocol, curves):
        numbers = {
            name: {float(fraction): scores for fraction, scores in curve.items()}
            for name, curve in curves.items()
        }
        self.draw(
            f"label_fraction_{protocol}.png",
            draw_curve,
            numbers,
            self.study.task.primary,
            "share of the labels",
            log=True,
        )


def _confusion(outcome, title):
    """What `draw_confusion` takes; the title says what the counts are the mean of."""
    found = outcome.confusion()
    if found["seeds"] > 1:
        title += f": mean over {found['seeds']} seeds"
    return {"counts": found["counts"], "classes": found["classes"], "title": title}


def _per_tag(outcome):
    """The scores of each tag, averaged over the runs that could score it."""
    found = {}
    for one in outcome.runs:
        for tag, scores in outcome.task.per_tag(one.targets, one.predictions).items():
            found.setdefault(tag, []).append(scores)
    return {
        tag: {metric: sum(s[metric] for s in runs) / len(runs) for metric in runs[0]}
        for tag, runs in found.items()
    }


def write_projector(folder, embeddings, columns=()):
    """Write `vectors.tsv`, `metadata.tsv` and the `projector_config.pbtxt` that names them.

    Open them by `tensorboard --logdir FOLDER`, or load the two tables at projector.tensorflow.org.

    Args:
        folder: Folder to write to, made if it is missing.
        embeddings: `ClipEmbeddings`.
        columns: Labels to show. Defaults to none but the ids.

    Example:

    ```python
    write_projector("runs/probe/projector", test, ["genre"])
    ```
    """
    folder = pathlib.Path(folder)
    vectors = ["\t".join(f"{value:.6g}" for value in row) for row in np.asarray(embeddings.vectors)]
    write_text(folder / "vectors.tsv", "\n".join(vectors) + "\n")
    rows = [["id", *columns]]
    for clip, labels in zip(embeddings.ids, embeddings.labels, strict=True):
        rows.append([clip, *(labels.get(column) for column in columns)])
    lines = ["\t".join(" ".join(str(cell).split()) for cell in row) for row in rows]
    if not columns:
        # A table of one column has no header.
        lines = lines[1:]
    write_text(folder / "metadata.tsv", "\n".join(lines) + "\n")
    config = (
        "embeddings {\n"
        '  tensor_name: "clips"\n'
        '  tensor_path: "vectors.tsv"\n'
        '  metadata_path: "metadata.tsv"\n'
        "}\n"
    )
    write_text(folder / "projector_config.pbtxt", config)


def _distinct(count):
    """So many colours."""
    from matplotlib import colormaps

    if count <= 10:
        return [colormaps["tab10"](place) for place in range(count)]
    return colormaps["turbo"](np.linspace(0, 1, count))


def _legend(figure, axes, place="outside upper center"):
    """A legend beside the axes, where it hides nothing."""
    handles, names = axes.get_legend_handles_labels()
    figure.legend(handles, names, loc=place, ncols=min(4, len(names)), frameon=False)


def _in_words(metric):
    """A metric's name for people."""
    words = metric.replace("_", " ").replace("roc auc", "ROC-AUC").replace("r2", "R²")
    return words.replace("and ap", "and AP")


def _slant(axes):
    """Long names under an axis, each ending at its tick."""
    for label in axes.get_xticklabels():
        label.set(rotation=45, ha="right", rotation_mode="anchor")


def _figure(width, height, panels=(1, 1), **options):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # A figure of its own, not pyplot's: nothing of the caller's matplotlib is changed.
    figure = Figure((width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(*panels, **options)


def _save(figure, path):
    with atomic_path(pathlib.Path(path)) as temporary:
        figure.savefig(temporary, dpi=110)
