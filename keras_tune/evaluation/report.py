"""The report of a study: tables and sentences in Markdown, plots, and files for TensorBoard."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_tune.evaluation import plots
from keras_tune.files import write_text

if TYPE_CHECKING:
    from keras_tune.evaluation.study import Study

# Floats in a report that are not metrics of the test clips.
NO_METRICS = ("score", "valid_score", "cross_fitted_score", "seconds")
# With more clips a map takes minutes and shows nothing more.
MOST_DOTS = 3000


def report_markdown(
    content: dict[str, Any], versions: dict[str, str], config: dict[str, Any]
) -> str:
    """The text of `report.md`, in Markdown.

    Args:
        content: Dict, the content of `report.json`.
        versions: Dict from package to version.
        config: Dict, the configuration of the run.
    """
    target = content["target"]
    named = target if isinstance(target, str) else ", ".join(target)
    folds = content["folds"]
    clips = ", ".join(f"{count} {split}" for split, count in content["clips"].items())
    lines = [f"# {content['task']}: {named}", ""]
    if folds["number"]:
        lines.append(
            f"Cross-validation with {folds['number']} folds over {clips} clips; each "
            f"{folds['group']} is in one fold only."
        )
    else:
        lines.append(f"The set's own split: {clips} clips.")
    lines += [
        "Configurations were chosen on valid, and test was scored once. Brackets: 95 % bootstrap "
        f"interval, resampled over {folds['group'] or 'songs (or clips, if songs are unknown)'}.",
        "",
    ]
    if content["combines_songs"]:
        lines += ["The predictions of a song's clips are averaged, and songs are scored.", ""]
    if content["threshold"] is not None:
        lines += [
            "A tag made from numbers is present if the number is "
            f"{content['threshold']:g} or more.",
            "",
        ]
    lines += [*_representations(content["representations"]), ""]
    for protocol, reports in content["results"].items():
        if protocol == "layers":
            lines += _layers(reports)
        else:
            lines += [f"## {protocol}", "", *_scores(reports, content["representations"]), ""]
            lines += [*_comparisons(reports), ""]
            excluded = [name for name in content["representations"] if name not in reports]
            if excluded:
                lines += [
                    f"Not evaluated: {', '.join(excluded)}. {protocol} uses single windows, which "
                    "have no deviation over windows.",
                    "",
                ]
    for key, title in (
        ("label_fraction", "Fractions of the labels"),
        ("deformations", "Deformations"),
    ):
        for protocol, found in content.get(key, {}).items():
            lines += [f"## {title}, {protocol}", "", *_means(found), ""]
    tagger = content.get("tagger")
    if tagger:
        chosen = f"{tagger['protocol']}: {_number(tagger['valid_score'])} on valid, the best of "
        chosen += f"{tagger['candidates']}"
        if tagger["cross_fitted_score"] is not None:
            chosen += f", and {tagger['cross_fitted_score']:.3f} cross-fitted, the score by which "
            chosen += "protocols and seeds were compared"
        lines += [f"`tagger.keras` is the encoder with the probe of {chosen}.", ""]
    if content["plots"]:
        lines += [*(f"![{name}]({name})" for name in content["plots"]), ""]
    lines += ["## Configuration", ""]
    lines += [f"- {key}: {value}" for key, value in config.items() if value is not None]
    lines += [f"- split {split}: {hashed}" for split, hashed in content["splits"].items()]
    lines += [f"- folds: {folds['fingerprint']}"]
    lines += [f"- encoder {name}: {hashed}" for name, hashed in content["encoders"].items()]
    lines += [f"- {name}: {value}" for name, value in versions.items()]
    lines += [f"- seconds, {name}: {value}" for name, value in content["seconds"].items()]
    return "\n".join(lines) + "\n"


def _table(columns, rows):
    """A table in Markdown."""
    lines = [columns, ["---"] * len(columns), *rows]
    return ["| " + " | ".join(map(str, cells)) + " |" for cells in lines]


def _representations(found):
    """The table of representations, which are the rows of the tables below."""
    rows = []
    for name, about in found.items():
        level = "unchanged" if about["level"] is None else f"RMS {about['level']:g}"
        rows.append([name, about["pooling"], level, about["batch_norm"] or "none", about["width"]])
    return _table(["", "pooling", "level of windows", "batch norm", "width"], rows)


def _scores(reports, representations):
    metrics = [
        name
        for name, value in next(iter(reports.values())).items()
        if isinstance(value, float) and name not in NO_METRICS
    ]
    candidates = max(report["candidates"] for report in reports.values())
    columns = ["", "pooling", *metrics, f"on valid, best of {candidates}"]
    columns += ["cross-fitted on valid", "chosen", "seeds", "seconds"]
    rows = [
        [
            name,
            representations[name]["pooling"],
            *(_score(report, metric) for metric in metrics),
            _number(report["valid_score"]),
            _number(report["cross_fitted_score"]),
            _chosen(report),
            ", ".join(map(str, report["seeds"])),
            report["seconds"],
        ]
        for name, report in reports.items()
    ]
    return _table(columns, rows)


def _comparisons(reports):
    """Say for each baseline whether the evaluated representation, the first one, beats it."""
    first = next(iter(reports))
    sentences = []
    for name, report in reports.items():
        found = report.get(f"{first}_minus_this")
        if found is None:
            continue
        low, high = found["interval_95"]
        if low > 0:
            result = f"{first} beats {name}"
        elif high < 0:
            result = f"{first} is worse than {name}"
        else:
            result = f"{first} and {name} do not differ clearly"
        sentences.append(
            f"- {result}: difference {found['difference']:+z.3f} [{low:+z.3f}, {high:+z.3f}]."
        )
    return sentences


def _score(report, metric):
    interval = report["intervals_95"].get(metric)
    text = f"{report[metric]:z.3f}"
    return text if interval is None else f"{text} [{interval[0]:z.3f}, {interval[1]:z.3f}]"


def _number(score):
    """A score, or nothing where it is not defined."""
    return "" if score is None else f"{score:z.3f}"


def _chosen(report):
    chosen = report["chosen_on_valid"]
    if len(chosen) > 1:
        return f"one for each of {len(chosen)} runs"
    return ", ".join(f"{key} {value}" for key, value in chosen[0].items() if key != "valid_score")


def _layers(curves):
    rows = [
        [stage, *(_score(curve[stage], curve[stage]["metric"]) for curve in curves.values())]
        for stage in next(iter(curves.values()))
    ]
    return ["## layers", "", *_table(["stage", *curves], rows), ""]


def _means(found):
    """A table of scores, or of means over the scores of several seeds."""
    rows = [
        [name, *(f"{np.mean(scores):z.3f}" for scores in columns.values())]
        for name, columns in found.items()
    ]
    return _table(["", *next(iter(found.values()))], rows)


def draw_study(
    output: str | pathlib.Path,
    study: Study,
    content: dict[str, Any],
    columns: Sequence[str],
    history: str | pathlib.Path,
) -> list[str]:
    """Draw the plots of a study, and write its embeddings for TensorBoard's projector.

    Args:
        output: Folder to write to.
        study: `Study`.
        content: Dict with the `results` of `report.json` and, if there are any, `label_fraction`
            and `deformations`.
        columns: Labels for the projector.
        history: Path of the `history.csv` of the encoder's training, which may not exist.

    Returns:
        List of the names of the plots.
    """
    folder, task = pathlib.Path(output), study.task
    drawn = []

    def draw(name, function, *arguments):
        function(folder / name, *arguments)
        drawn.append(name)

    results = {k: v for k, v in content["results"].items() if k != "layers"}
    chance = next((outcome.chance() for outcome in study.outcomes.values()), None)
    if results:
        draw("scores.png", plots.draw_scores, results, task.primary, chance)
    if "layers" in content["results"]:
        draw("layers.png", plots.draw_layers, content["results"]["layers"], task.primary, chance)
    for protocol in results:
        outcomes = {name: study.outcomes[protocol, name] for name in study.suitable(protocol)}
        if task.kind == "tagging":
            tags = {name: _per_tag(outcome) for name, outcome in outcomes.items()}
            draw(f"tags_{protocol}.png", plots.draw_tags, tags, protocol)
        elif task.loss == "softmax":
            for name, outcome in outcomes.items():
                found, title = outcome.confusion(), f"{protocol}, {name}"
                if found["seeds"] > 1:
                    title += f": mean over {found['seeds']} seeds"
                file = f"confusion_{protocol}_{name}.png"
                draw(file, plots.draw_confusion, found["counts"], found["classes"], title)
    column = task.columns[0].name
    for name, clips in study.clips.items():
        rows = [row for row, labels in enumerate(clips.labels) if labels.get(column) is not None]
        rows = rows[:: max(1, -(-len(rows) // MOST_DOTS))]
        if len(rows) >= 5:
            shown = [clips.labels[row][column] for row in rows]
            title = f"t-SNE of {name}, by {column}"
            draw(f"map_{name}.png", plots.draw_map, clips.vectors[rows], shown, title)
        _write_projector(folder / "projector" / name, clips, columns)
    for protocol, curves in content.get("label_fraction", {}).items():
        file = f"label_fraction_{protocol}.png"
        draw(file, plots.draw_label_fractions, curves, task.primary)
    for protocol, scores in content.get("deformations", {}).items():
        draw(f"deformations_{protocol}.png", plots.draw_deformations, scores, task.primary)
    if pathlib.Path(history).is_file():
        import pandas as pd

        draw("training.png", plots.draw_history, pd.read_csv(history))
    return drawn


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


def _write_projector(folder, embeddings, columns):
    """Write `vectors.tsv`, `metadata.tsv` and the `projector_config.pbtxt` that names them.

    Open them with `tensorboard --logdir FOLDER`, or load both tables at projector.tensorflow.org.
    The columns are the labels to show beside the ids.
    """
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
