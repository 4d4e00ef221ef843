"""The report of a pretraining run for people: report.md, and training.png beside it."""

from keras_tune.files import write_text

# Names of the history's columns in words, in the order of the table.
METRICS = {
    "loss": "loss, training views",
    "val_loss": "loss, valid",
    "contrastive_accuracy": "contrastive accuracy, training views",
    "val_contrastive_accuracy": "contrastive accuracy, valid",
    "val_mel_accuracy": "contrastive accuracy of mel statistics (untrained), valid",
    "val_effective_rank": "effective rank of the representation",
    "val_probe": "online probe",
}


def write_run_report(folder, report):
    """Write report.md and training.png from `report.json`'s content and the history.

    Args:
        folder: `pathlib.Path`, the run folder, which has history.csv.
        report: Dict, as `PretrainingRun.report` gives it, with `probe` where there was one.

    Example:

    ```python
    from keras_tune.recipes._run_report import write_run_report

    write_run_report(run.output, run.report())
    ```
    """
    import pandas as pd

    history = pd.read_csv(folder / "history.csv")
    _draw(folder / "training.png", history, report["chance_contrastive_accuracy"])
    minutes = report["seconds"] / 60
    lines = [
        "# Pretraining",
        "",
        f"{report['parameters']:,} parameters, {report['steps']:,} steps in all. Since it was last "
        f"started: {minutes:.1f} minutes, {report['views_per_second']:.1f} views a second.",
        "",
        "![loss and contrastive accuracy by epoch](training.png)",
        "",
        "| after the last epoch | |",
        "|---|---|",
        *(
            f"| {words} | {report['final'][key]:.3f} |"
            for key, words in METRICS.items()
            if key in report["final"]
        ),
    ]
    if report["chance_contrastive_accuracy"] is not None:
        lines.append(f"| chance | {report['chance_contrastive_accuracy']:.3f} |")
    if "probe" in report:
        lines += ["", *_probe(report["probe"])]
    write_text(folder / "report.md", "\n".join([*lines, ""]))


def _probe(probe):
    """The tables of the final probe."""
    parts = [(probe, f"Probe of {probe['target']}: {probe['metric']} on test")]
    if probe["unseen"]:
        title = f"The same on {probe['unseen']['folds']} folds of valid and test"
        parts.append((probe["unseen"], title))
    for results, title in parts:
        yield from (f"## {title}", "")
        yield "| encoder | score | 95 % interval | pretrained minus this | 95 % interval |"
        yield "|---|---|---|---|---|"
        for name in probe["encoders"]:
            low, high = results[name]["interval_95"]
            row = f"| {name} | {results[name]['score']:.3f} | {low:.3f} to {high:.3f} |"
            difference = results[name].get("pretrained_minus_this")
            if difference is None:
                yield f"{row} | |"
                continue
            low, high = difference["interval_95"]
            yield f"{row} {difference['difference']:+.3f} | {low:+.3f} to {high:+.3f} |"
        yield ""
    if "chance" in probe:
        yield f"The most frequent class alone gives {probe['chance']:.3f}."


def _draw(path, history, chance):
    """Loss and contrastive accuracy against the epoch, with chance and mel statistics."""
    from matplotlib.ticker import MaxNLocator

    from keras_tune.evaluation.plots import new_figure, save_figure

    figure, axes = new_figure(9, 3.6, (1, 2))
    epochs = history["epoch"] + 1
    for axis, metric in zip(axes, ("loss", "contrastive_accuracy"), strict=True):
        for key, label in ((metric, "training views"), (f"val_{metric}", "valid")):
            if key in history:
                axis.plot(epochs, history[key], "." if len(history) == 1 else "-", label=label)
        axis.set_xlabel("epoch")
        axis.set_ylabel(metric.replace("_", " "))
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid(alpha=0.3)
    if "val_mel_accuracy" in history:
        level = history["val_mel_accuracy"].iloc[-1]
        axes[1].axhline(level, color="tab:green", linestyle="--", label="mel statistics, valid")
    if chance is not None:
        axes[1].axhline(chance, color="gray", linestyle=":", label="chance, valid")
    for axis in axes:
        axis.legend(fontsize="small")
    save_figure(figure, path)
