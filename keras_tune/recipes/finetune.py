"""Train an encoder end to end on labels: the supervised baseline of a representation.

A linear head, or one with a hidden layer, is put on a pretrained or an untrained encoder, and
trained on random crops; the encoder is trained as well or frozen. Training stops when the loss on
valid no longer falls. On test, predictions are averaged over consecutive windows. The output folder
gets tagger.keras, history.csv, report.json and config.yaml. A run that was stopped (SIGTERM,
Ctrl-C) or killed leaves the best epoch so far in tagger.keras, and continues with --resume.
"""

import dataclasses
import sys
import time
from typing import Literal

from keras_tune.errors import UserError
from keras_tune.recipes._cli import names_options, run
from keras_tune.recipes._folder import writes
from keras_tune.recipes._lines import print_compiling
from keras_tune.types import (
    DEFAULT_ENCODER,
    BatchSize,
    Count,
    CountFromZero,
    Finite,
    Positive,
    Seed,
    Width,
)


@dataclasses.dataclass
class FinetuneConfig:
    """What to train, on what.

    Args:
        data: Folder written by `prepare`, or an .npz file of clips.
        target: The label to predict, or several: [a,b,c].
        output: Folder of the run.
        encoder: A .keras file, the folder of a pretraining run, tune_plus_open, or
            untrained:PRESET.
        task: classification, tagging, key or regression; by default what fits the labels.
        threshold: Smallest number for which a tag is present; makes columns of numbers tags.
        frozen: Whether the encoder is frozen throughout.
        frozen_epochs: Epochs at the beginning in which the encoder is frozen.
        hidden_units: Width of a hidden layer of the head; by default the head is linear.
        epochs: Largest number of epochs.
        patience: Epochs without a lower loss on valid after which training stops.
        batch_size: Clips of a batch.
        learning_rate: Learning rate of Adam.
        seed: Seed of head, order and crops.
        resamples: Resamples of the bootstrap.
        resume: Whether to resume the run in the output folder.
        jit_compile: Whether to compile with XLA; by default if that is fast on the backend.
        backend: tensorflow, jax or torch; by default KERAS_BACKEND, or what is installed.
    """

    data: str
    target: list[str] | str
    output: str
    encoder: str = DEFAULT_ENCODER
    task: Literal["classification", "tagging", "key", "regression"] | None = None
    threshold: Finite | None = None
    frozen: bool = False
    frozen_epochs: CountFromZero = 0
    hidden_units: Width | None = None
    epochs: Count = 100
    patience: Count = 10
    batch_size: BatchSize = 48
    learning_rate: Positive = 3e-4
    seed: Seed = 42
    resamples: Count = 1000
    resume: bool = False
    jit_compile: bool | None = None
    backend: str | None = None


# What may differ between a run and its continuation.
FREE_ON_RESUME = ("epochs", "output", "resume", "backend", "jit_compile", "resamples")


@names_options(columns="target", kind="task")
@writes("folder")
def main(config):
    """Run the command line; see `FinetuneConfig`."""
    import keras

    from keras_tune.data import open_dataset
    from keras_tune.models import Tagger
    from keras_tune.recipes._folder import local_path, write_report
    from keras_tune.recipes._load import named_encoder
    from keras_tune.training import load_checkpoint, stop_signals
    from keras_tune.training.run_folder import open_run_folder, write_config

    if config.encoder == "mel":
        raise UserError("--encoder mel: has no weights to train")
    dataset = open_dataset(config.data)
    info = dataset.info
    info.check_splits(config.data)
    keras.utils.set_random_seed(config.seed)
    labels = _Labels(config, dataset)
    output = local_path(config.output)
    start = open_run_folder(output, config, FREE_ON_RESUME)
    if start.finished_epochs or start.finished_steps:
        tagger = load_checkpoint(output / "model.keras", compile=False)
        if list(tagger.labels) != list(labels.task.outputs):
            raise UserError(
                f"--resume: the run in {output} learned {_listed(tagger.labels)}, but the set now "
                f"has {_listed(labels.task.outputs)}; train anew in another folder"
            )
    else:
        tagger = Tagger(
            named_encoder(config.encoder, info.sample_rate, config.seed),
            labels=labels.task.outputs,
            hidden_units=config.hidden_units,
            activation="softmax" if labels.task.loss == "softmax" else "sigmoid",
            pooling="scores",
        )
    output.mkdir(parents=True, exist_ok=True)
    write_config(output, config)
    print_compiling()
    started = time.monotonic()
    with stop_signals() as should_stop:
        epochs, valid_clips = _train(tagger, labels, dataset, config, output, start, should_stop)
    _save(tagger, output)
    report = _score(tagger, labels, dataset, config)
    report["epochs"] = epochs
    report["valid_clips"] = valid_clips
    report["seconds"] = round(time.monotonic() - started, 1)
    write_report(output, config, splits=info.fingerprints, **report)
    low, high = report["interval_95"]
    print(f"test {report['metric']}: {report['score']:.3f} [{low:.3f}, {high:.3f}]")
    print(f"report: {output / 'report.json'}")


def _listed(names):
    """The first names of a list."""
    return ", ".join(map(str, names[:10])) + (", …" if len(names) > 10 else "")


class _Labels:
    """The task, and the targets of batches of label vectors."""

    def __init__(self, config, dataset):
        import numpy as np

        from keras_tune.evaluation.tasks import make_task

        target = [config.target] if isinstance(config.target, str) else config.target
        found = [dataset.info.label_column(name) for name in target]
        self.columns = [column for column, _ in found]
        self.indices = [index for _, index in found]
        vectors = dataset.label_vectors("train")
        rows = [{c.name: c.decode(vector[p]) for c, p in found} for vector in vectors]
        self.task = make_task(self.columns, rows, config.task, config.threshold)
        known, targets = self.task.encode(rows)
        if not len(known):
            raise UserError(f"--target {', '.join(target)}: no clip of train has this label")
        self.mean, self.deviation = 0.0, 1.0
        if self.task.loss == "mse":
            deviation = targets.std(axis=0)
            self.mean, self.deviation = targets.mean(axis=0), np.where(deviation > 0, deviation, 1)

    def of(self, vectors):
        """Targets for the loss, and a weight that is 0 for clips without labels."""
        import numpy as np

        values = np.asarray(vectors, "float64")[:, self.indices]
        missing = [
            (values[:, index] < 0) if column.kind == "category" else np.isnan(values[:, index])
            for index, column in enumerate(self.columns)
        ]
        known = ~np.any(missing, axis=0)
        targets = self.task.targets(np.where(known[:, None], values, 0))
        if self.task.loss == "softmax":
            return targets, known.astype("float32")
        scaled = (targets - self.mean) / self.deviation
        return scaled.astype("float32"), known.astype("float32")


def _save(tagger, output):
    """Write the tagger with all layers trainable, for further training."""
    from keras_tune.models.saved import save_model

    tagger.encoder.trainable = True
    save_model(tagger, output / "tagger.keras", "; use a smaller --learning_rate")


def _batches(dataset, split, labels, **options):
    """Iterate over batches (waveforms, targets, weights) of a split.

    Args:
        dataset: `keras_tune.data.AudioDataset`.
        split: The split.
        labels: `_Labels`.
        **options: Fields of `keras_tune.data.BatchOptions`.
    """
    from keras_tune.data.audio import to_float

    for batch in dataset.batches(split, labels=True, **options).as_numpy_iterator():
        yield (to_float(batch["audio"])[..., None], *labels.of(batch["labels"]))


def _train(tagger, labels, dataset, config, output, start, should_stop):
    """Train in one phase, or with a frozen encoder at first.

    Args:
        tagger: `Tagger`, that of the checkpoint if the run is resumed.
        labels: `_Labels`.
        dataset: `keras_tune.data.AudioDataset`.
        config: `FinetuneConfig`.
        output: Folder of the run.
        start: `Progress`, where the run starts.
        should_stop: As `stop_signals` yields it.

    Returns:
        The number of epochs, and the number of clips of valid in the loss.
    """
    import keras
    import numpy as np

    from keras_tune.evaluation.embeddings import window_length
    from keras_tune.training import Checkpoint, EpochSeed, KeepBest, NotFiniteError, StoppedError

    losses = {
        "softmax": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        "sigmoid": keras.losses.BinaryCrossentropy(from_logits=True),
        "mse": keras.losses.MeanSquaredError(),
    }
    samples = window_length(tagger.encoder)
    count = len(dataset.label_vectors("train"))
    steps = max(1, count // config.batch_size)
    crops = {"clip_samples": samples, "batch_size": config.batch_size}
    in_order = {"shuffle": False, "drop_remainder": False}
    valid = list(_batches(dataset, "valid", labels, **crops, **in_order))
    valid = tuple(np.concatenate(part) for part in zip(*valid, strict=True))
    held = config.epochs if config.frozen else min(config.frozen_epochs, config.epochs)
    # The head and then the whole model are two trainings: the second has its own patience.
    phases = [(True, held)] if config.frozen else [(True, held), (False, config.epochs)]
    epoch, step = start.finished_epochs, start.finished_steps
    notes = dict(start.notes)
    first_phase = notes.pop("phase", 0)
    for phase, (frozen, last) in enumerate(phases):
        if phase < first_phase or last <= epoch and not notes:
            continue
        best = KeepBest(output / "tagger.keras", config.patience, **notes)
        tagger.encoder.trainable = not frozen
        tagger.compile(
            keras.optimizers.Adam(config.learning_rate),
            losses[labels.task.loss],
            jit_compile="auto" if config.jit_compile is None else config.jit_compile,
        )
        if notes:
            # The state of the optimizer, which now knows what it trains.
            tagger.optimizer.build(tagger.trainable_variables)
            tagger.load_weights(output / "model.keras")
        notes = {}
        while epoch < last and not best.stopped:
            stream = _batches(
                dataset,
                "train",
                labels,
                clip_samples=samples,
                batch_size=min(config.batch_size, count),
                repeat=True,
                seed=config.seed,
                steps_per_epoch=steps,
                initial_epoch=epoch,
                initial_step=step,
            )
            try:
                history = tagger.fit(
                    stream,
                    validation_data=valid,
                    validation_batch_size=config.batch_size,
                    # The rest of an epoch first, since `fit` cannot begin within one.
                    epochs=epoch + 1 if step else last,
                    initial_epoch=epoch,
                    steps_per_epoch=steps - step,
                    shuffle=False,
                    callbacks=[
                        EpochSeed(None, start if step else None),
                        keras.callbacks.CSVLogger(str(output / "history.csv"), append=True),
                        best,
                        Checkpoint(
                            output / "model.keras",
                            should_stop,
                            step,
                            lambda phase=phase, best=best: {"phase": phase, **best.notes()},
                        ),
                    ],
                    verbose=1 if sys.stdout.isatty() else 2,
                )
            except NotFiniteError as error:
                raise UserError(
                    f"{error}: use a smaller --learning_rate, or check the labels of the clips"
                ) from error
            except StoppedError as error:
                if best.best is not None:
                    best.restore(tagger)
                    _save(tagger, output)
                print(f"stopped: {error}; resume with --resume true")
                sys.exit(should_stop.status)
            epoch, step = history.epoch[-1] + 1, 0
        best.restore(tagger)
        if phase + 1 < len(phases):
            epoch = last
    tagger.encoder.trainable = True
    return epoch, len(valid[0])


def _score(tagger, labels, dataset, config):
    """Predict valid and test over consecutive windows, and return the report of the scores."""
    import numpy as np

    from keras_tune.evaluation import Outcome, embed_clips
    from keras_tune.evaluation.outcomes import predict_test
    from keras_tune.evaluation.probe_stack import activate
    from keras_tune.evaluation.protocols import FittedProbe

    task = labels.task

    def predict(clips):
        values = activate(clips.windows, task.loss) * labels.deviation + labels.mean
        sums = np.zeros((len(clips.ids), values.shape[1]))
        np.add.at(sums, clips.owners, values)
        return sums / np.bincount(clips.owners)[:, None]

    found = {}
    for split in ("valid", "test"):
        clips = embed_clips(tagger, dataset.records(split), batch_size=config.batch_size)
        probe = FittedProbe(predict, {}, found.get("valid", float("nan")), [])
        one = predict_test(probe, clips, task, seed=config.seed)
        found[split] = task.scores(one.targets, one.predictions)[task.primary]
    outcome = Outcome(task, [one])
    return outcome.report(outcome.samples(config.resamples)) | {"test_clips": len(one.targets)}


def cli(argv=None):
    """Parse a list of strings, by default the command line's, and run `main`."""
    run(main, FinetuneConfig, argv)


if __name__ == "__main__":
    cli()
