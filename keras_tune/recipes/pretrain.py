"""Pretrain an encoder with a contrastive loss: NT-Xent between two views of every clip.

Without --data and --config, this runs the demo recipe: a small encoder, a corpus that is
synthesized first, and a probe of the encoder. The output folder gets encoder.keras (the encoder
alone), model.keras (everything that a resumed run needs), config.yaml, history.csv, report.md with
the training curve, report.json and TensorBoard events. A run that was stopped (SIGTERM, Ctrl-C) or
killed continues with --resume. Large batches, several devices and failures: see
docs/large_scale.md.
"""

import dataclasses
import functools
import pathlib
import sys
from typing import ClassVar, Literal

from keras_tune.errors import UserError
from keras_tune.recipes._cli import (
    prepare_determinism,
    print_compiling,
    print_precision,
    run,
)
from keras_tune.recipes._folder import demo_corpus_ahead, locked, write_report
from keras_tune.recipes._options import names_options
from keras_tune.training import config as training_config
from keras_tune.types import Count

DEMO = pathlib.Path(__file__).with_name("demo.yaml")
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


@dataclasses.dataclass
class OnlineProbeConfig:
    """A probe during training, whose score is val_probe in the history.

    Args:
        label: Label to probe; by default there is no probe.
        every: Epochs from one evaluation to the next; the first epoch is evaluated too.
        probe: The classifier that is trained on the representations.
        clips: Labelled clips of train and of valid that are used.
    """

    label: str | None = None
    every: Count = 5
    probe: Literal["knn", "logistic"] = "knn"
    clips: Count = 256


@dataclasses.dataclass
class PretrainConfig(training_config.PretrainConfig):
    """The run.

    Args:
        online_probe: A probe every few epochs.
        probe: Label to probe at the end, on the same data; by default none.
        probe_group: Label, such as the artist, whose clips stay together in the cross-validation of
            that probe; by default song, if there is such a label.
        backend: tensorflow, jax or torch; by default KERAS_BACKEND, else the first one installed.
    """

    free_on_resume: ClassVar[tuple[str, ...]] = (
        *training_config.PretrainConfig.free_on_resume,
        "online_probe",
        "probe",
        "probe_group",
        "backend",
    )

    online_probe: OnlineProbeConfig = dataclasses.field(default_factory=OnlineProbeConfig)
    probe: str | None = None
    probe_group: str | None = None
    backend: str | None = None


@names_options(label="online_probe.label")
def main(config):
    """Run the command line; see `PretrainConfig`."""
    if config.deterministic:
        prepare_determinism()
    with demo_corpus_ahead(config):
        from keras_tune.training import PretrainingRun

    pretraining = PretrainingRun(config)
    if pretraining.devices.replicas > 1 and config.online_probe.label is not None:
        raise UserError("--online_probe.label: needs a single device; use --probe")
    with locked(pretraining.folder):
        pretraining.open()
        _build(pretraining.config, pretraining)
        _check_keep_best(pretraining)
        callbacks = _callbacks(pretraining)
        _print_summary(pretraining)
        _fit(pretraining, callbacks)
        if pretraining.devices.process:
            return
        encoder = pretraining.save_encoder()
        report = pretraining.report()
        if config.probe:
            from keras_tune.evaluation import final_probe, final_probe_summary

            report["probe"] = final_probe(
                encoder, pretraining.dataset, config.probe, progress=True, group=config.probe_group
            )
            print(final_probe_summary(config.probe, report["probe"]))
        write_report(pretraining.output, pretraining.config, **report)
        _write_page(pretraining.output, report)
        print(f"encoder: {pretraining.output / 'encoder.keras'}; see report.md in the same folder")


@names_options(otherwise="--model, --augment", clip_samples="model.input_samples")
def _build(config, pretraining):
    pretraining.build()


def _callbacks(pretraining):
    from keras_tune.evaluation import OnlineProbe

    config, dataset = pretraining.config, pretraining.dataset
    for label in (config.probe, config.probe_group):
        if label is not None:
            dataset.info.label_column(label)
    chosen = config.online_probe
    if chosen.label is None:
        return []
    options = {"clips": chosen.clips, "every": chosen.every, "probe": chosen.probe}
    return [OnlineProbe.from_dataset(dataset, chosen.label, **options, between="nan")]


def _check_keep_best(pretraining):
    """Refuse a metric that the history will not have, before the first epoch."""
    config = pretraining.config
    if config.keep_best is None:
        return
    known = [metric.name for metric in pretraining.model.metrics]
    if pretraining.streams.valid is not None:
        known += [f"val_{name}" for name in known]
        if pretraining.devices.replicas == 1:
            known += ["val_effective_rank", "val_mel_accuracy"]
    if config.online_probe.label is not None:
        known.append("val_probe")
    if config.keep_best not in known:
        raise UserError(f"--keep_best {config.keep_best}: use one of {', '.join(sorted(known))}")


def _print_summary(pretraining):
    config, streams = pretraining.config, pretraining.streams
    done = pretraining.start.finished_epochs or pretraining.start.finished_steps
    if config.resume and not done:
        print(f"nothing to resume in {pretraining.output}; starting")
    print_precision(config.precision, pretraining.precision_reason)
    first = pretraining.start.finished_epochs + 1
    if first > config.epochs:
        # A cosine has ended with the last epoch.
        more = "" if config.schedule == "cosine" else "; for more, give a larger --epochs"
        print(f"all {config.epochs} epochs are finished{more}")
        return
    found = pretraining.dataset.info.counts.get("valid", 0)
    few = f" (valid has {found}, too few for a contrast)" if found and streams.valid is None else ""
    print(
        f"{config.model.preset}: {pretraining.model.encoder.count_params():,} parameters; "
        f"{streams.train_clips} clips, {streams.valid_clips} for validation{few}, "
        f"{streams.steps_per_epoch} steps per epoch, "
        f"epochs {first} to {config.epochs}"
    )
    print_compiling()


def _fit(pretraining, callbacks):
    from keras_tune.training import NotFiniteError, StoppedError, TimeLeft, stop_signals

    output = pretraining.folder
    if not sys.stdout.isatty():
        callbacks = [*callbacks, TimeLeft()]
    with stop_signals() as should_stop:
        try:
            pretraining.fit(callbacks, should_stop)
        except NotFiniteError as error:
            checkpoint = output / "model.keras"
            kept = "there is no checkpoint yet"
            if checkpoint.exists():
                kept = f"the last checkpoint is {checkpoint}"
            raise UserError(
                f"{error}: use a smaller --learning_rate, or check the clips that are listed in "
                f"{output / 'failure.json'}; {kept}"
            ) from error
        except StoppedError as error:
            print(f"stopped: {error}; resume with --resume true")
            sys.exit(should_stop.status)


def _write_page(folder, report):
    """Write report.md and training.png from `report.json`'s content and the history."""
    import pandas as pd

    from keras_tune.evaluation.plots import draw_history
    from keras_tune.files import write_text

    history, chance = pd.read_csv(folder / "history.csv"), report["chance_contrastive_accuracy"]
    shown = ["epoch", "loss", "val_loss", "contrastive_accuracy", "val_contrastive_accuracy"]
    levels = {} if chance is None else {"chance, valid": chance}
    if "val_mel_accuracy" in history:
        levels["mel statistics, valid"] = history["val_mel_accuracy"].iloc[-1]
    draw_history(folder / "training.png", history.filter(shown), {"contrastive_accuracy": levels})
    minutes = report["seconds"] / 60
    lines = [
        "# Pretraining",
        "",
        f"{report['parameters']:,} parameters, {report['steps']:,} steps in all. Since the last "
        f"start: {minutes:.1f} minutes, {report['views_per_second']:.1f} views per second.",
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
    if chance is not None:
        lines.append(f"| chance | {chance:.3f} |")
    if "probe" in report:
        lines += ["", *_probe_tables(report["probe"])]
    write_text(folder / "report.md", "\n".join([*lines, ""]))


def _probe_tables(probe):
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


cli = functools.partial(run, main, PretrainConfig, demo=DEMO)

if __name__ == "__main__":
    cli()
