"""The pictures of a study, next to its report."""

import pathlib

from keras_tune.evaluation import pictures
from keras_tune.evaluation.projector import write_projector

# Beyond some thousand dots a map takes minutes and shows no more.
MOST_DOTS = 3000


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
    draw_study("report", study, {"results": {"knn": study.judge("knn")}}, ["genre"])
    ```
    """
    drawing = _Drawing(pathlib.Path(output), study)
    results = {k: v for k, v in content["results"].items() if k != "layers"}
    if results:
        drawing.draw("scores.png", pictures.draw_scores, results, study.task.primary)
    if "layers" in content["results"]:
        layers = content["results"]["layers"]
        drawing.draw("layers.png", pictures.draw_layers, layers, study.task.primary)
    for protocol in results:
        drawing.outcomes(protocol)
    for name, clips in study.clips.items():
        drawing.map(name, clips)
        write_projector(drawing.output / "projector" / name, clips, columns)
    for protocol, curves in content.get("label_fraction", {}).items():
        drawing.label_fractions(protocol, curves)
    for protocol, scores in content.get("deformations", {}).items():
        drawing.draw(
            f"deformations_{protocol}.png", pictures.draw_deformations, scores, study.task.primary
        )
    if history is not None and pathlib.Path(history).is_file():
        import pandas as pd

        drawing.draw("training.png", pictures.draw_history, pd.read_csv(history))
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
            self.draw(f"tags_{protocol}.png", pictures.draw_tags, tags, protocol)
        elif task.loss == "softmax":
            for name, outcome in outcomes.items():
                self.draw(
                    f"confusion_{protocol}_{name}.png",
                    pictures.draw_confusion,
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
                pictures.draw_map,
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
            pictures.draw_curve,
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
