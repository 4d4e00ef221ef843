"""Training an encoder end to end on labels: the supervised counterpart of a frozen encoder.

A linear head, or one with a hidden layer, is added to an encoder, and both are trained on random
crops of labelled clips. `finetune` does this in one call, `FinetuningRun` in steps.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_tune.checks import check_encoder
from keras_tune.errors import UserError
from keras_tune.machine import keep_freed_memory
from keras_tune.storage import local_output
from keras_tune.training.config import FinetuneConfig
from keras_tune.types import DEFAULT_ENCODER

if TYPE_CHECKING:
    import keras

    from keras_tune.data.dataset import AudioDataset
    from keras_tune.models import Tagger

# The name in the configuration of an encoder that was given as a model.
GIVEN = "(given)"


def finetune(
    data: str | os.PathLike | AudioDataset,
    target: str | Sequence[str],
    output: str | os.PathLike,
    encoder: keras.Model | str | os.PathLike = DEFAULT_ENCODER,
    **options: Any,
) -> Tagger:
    """Train an encoder and a head on it to predict labels, and save them as a tagger.

    Training stops when the loss on valid no longer falls, and the best epoch is kept. The output
    folder gets `tagger.keras`, the state of the run (`model.keras`), the configuration
    (`config.yaml`) and the metrics of every epoch (`history.csv`). With `resume=True` a run that
    was interrupted continues.

    Args:
        data: Folder written by `keras_tune.data.prepare`, `.npz` file of clips, or
            `keras_tune.data.AudioDataset`, with the splits train, valid and test.
        target: The label to predict, or several.
        output: Folder of the run.
        encoder: Keras model from (batch, samples, 1) to (batch, d), whose weights change, or a
            name, see `keras_tune.evaluation.named_encoder`. A run that is resumed uses that of its
            checkpoint. Defaults to "tune_plus_open", which comes with the package.
        **options: Fields of `keras_tune.training.FinetuneConfig`, such as `epochs`.

    Returns:
        `keras_tune.models.Tagger`, the best epoch on valid.

    Raises:
        ValueError: A setting does not fit the data, or the folder contains another run.
        UserError: The data lacks a split or a label, or a file is damaged.
        NotFiniteError: The loss or a weight became NaN or infinite.

    Example:

    ```python
    from keras_tune.data import save_demo
    from keras_tune.finetuning import finetune

    save_demo("demo.npz", num_clips={"train": 16, "valid": 8, "test": 8}, seconds=1.0)
    encoder = keras_tune.TUNe(1, 1, base_filters=4, tail_filters=[8], input_samples=2187)
    options = {"epochs": 1, "batch_size": 8}
    tagger = finetune("demo.npz", "instrument", "runs/instrument", encoder, **options)
    tagger.labels[0]  # "bass"
    ```
    """
    from keras_tune.data import AudioDataset

    dataset = data if isinstance(data, AudioDataset) else None
    path = data if dataset is None else dataset.path
    target = target if isinstance(target, str) else list(target)
    named = isinstance(encoder, (str, os.PathLike))
    name = os.fspath(encoder) if named else GIVEN
    config = FinetuneConfig(str(path), target, str(output), encoder=name, **options)
    run = FinetuningRun(config, dataset)
    run.build(None if named else encoder)
    run.fit()
    return run.save_tagger()


class FinetuningRun:
    """A run of `finetune` in steps: `open`, `build`, `fit`, `save_tagger`, `report`.

    `build` and `fit` do the earlier steps if necessary.

    Args:
        config: `keras_tune.training.FinetuneConfig`.
        dataset: `keras_tune.data.AudioDataset`. Defaults to the one at `config.data`.

    Raises:
        ValueError: A setting is out of range.

    Attributes:
        config: The same.
        dataset: `AudioDataset`. After `open`.
        labels: `Targets`. After `open`.
        output: `pathlib.Path`, the folder of the run.
        start: `keras_tune.training.Progress`, where this run starts. After `open`.
        tagger: `keras_tune.models.Tagger`. After `build`.
        epochs: Integer, the epochs trained, with those before the run was resumed. After `fit`.
        valid_clips: Integer, the clips of valid in its loss. After `fit`.
        seconds: Float, how long `fit` took. After `fit`.

    Example:

    ```python
    from keras_tune.data import save_demo
    from keras_tune.finetuning import FinetuningRun
    from keras_tune.training import FinetuneConfig

    save_demo("demo.npz", num_clips={"train": 16, "valid": 8, "test": 8}, seconds=1.0)
    encoder = keras_tune.TUNe(1, 1, base_filters=4, tail_filters=[8], input_samples=2187)
    run = FinetuningRun(
        FinetuneConfig("demo.npz", "instrument", "runs/steps", epochs=1, batch_size=8)
    )
    run.build(encoder)
    run.fit()
    run.save_tagger()
    run.report()["metric"]  # "accuracy"
    ```
    """

    dataset: AudioDataset
    labels: Targets
    start: Any
    tagger: Tagger
    epochs: int
    valid_clips: int
    seconds: float

    def __init__(self, config: FinetuneConfig, dataset: AudioDataset | None = None):
        config.check()
        self.config = config
        self.output = local_output(config.output)
        if dataset is not None:
            self.dataset = dataset

    def open(self) -> None:
        """Open the data, and find out where the run starts.

        Raises:
            ValueError: The folder contains another run, or the task does not fit the labels.
            UserError: The data lacks a split or a label, no clip of valid has it, or a file is
                damaged.
        """
        from keras_tune.data import open_dataset
        from keras_tune.training.run_folder import open_run_folder

        config = self.config
        if not hasattr(self, "dataset"):
            self.dataset = open_dataset(config.data)
        self.dataset.info.check_splits(config.data)
        self.labels = Targets(self.dataset, config.target, config.task, config.threshold)
        # Else its loss would be 0 in every epoch, and the first one the best.
        self.check_labels("valid")
        self.start = open_run_folder(self.output, config, config.free_on_resume)

    def check_labels(self, split: str) -> None:
        """Raise a `UserError` if no clip of a split has the labels. After `open`."""
        _, weights = self.labels.of(self.dataset.label_vectors(split))
        if not weights.any():
            words = self.labels.task.labels_in_words()
            raise UserError(f"{self.config.data}: no clip of the {split} split has {words}")

    def build(self, encoder: keras.Model | None = None) -> None:
        """Put a head on an encoder, or load both from the checkpoint of a run that is resumed.

        Keras' global seed is set, as `keras.utils.set_random_seed` does.

        Args:
            encoder: Keras model from (batch, samples, 1) to (batch, d). Defaults to the one that
                the configuration names.

        Raises:
            UserError: There is no such encoder, its sample rate differs from that of the data, or
                the checkpoint was trained on different labels.
            ValueError: The run was killed before its first checkpoint, and the encoder was given as
                a model but is not given again.
        """
        import keras

        from keras_tune.evaluation import named_encoder
        from keras_tune.models import Tagger
        from keras_tune.training import load_checkpoint

        if not hasattr(self, "start"):
            self.open()
        labels, outputs = self.labels, self.labels.task.outputs
        keep_freed_memory(keras.backend.backend())
        keras.utils.set_random_seed(self.config.seed)
        if self.start.finished_epochs or self.start.finished_steps:
            self.tagger = load_checkpoint(self.output / "model.keras", compile=False)
            if list(self.tagger.labels or ()) != list(outputs):
                raise UserError(
                    f"`resume=True`: the run in {self.output} learned "
                    f"{_listed(self.tagger.labels)}, but the set now has {_listed(outputs)}; train "
                    "anew in another folder"
                )
            return
        rate = self.dataset.info.sample_rate
        if encoder is not None:
            check_encoder("the encoder", encoder, rate)
        elif self.config.encoder == GIVEN:
            raise ValueError(
                "`encoder` was given as a model, and must be given again, since the run has no "
                f"checkpoint yet. Received: encoder={GIVEN}"
            )
        else:
            encoder = named_encoder(self.config.encoder, rate, self.config.seed)
        values = labels.task.loss == "mse"
        self.tagger = Tagger(
            encoder,
            labels=outputs,
            hidden_units=self.config.hidden_units,
            activation="linear" if values else labels.task.loss,
            pooling="scores",
            scale=labels.deviation if values else None,
            offset=labels.mean if values else None,
        )

    def fit(
        self, should_stop: Callable[[], bool] | None = None, verbose: int | None = None
    ) -> None:
        """Train until the loss on valid no longer falls, with a checkpoint after every epoch.

        The head alone is trained for `frozen_epochs`, and then the whole model, with a new
        patience. The best epoch of both is kept.

        Args:
            should_stop: Function without arguments that tells whether to stop, for example that of
                `keras_tune.training.stop_signals`. The state is saved after the current step, and
                `tagger.keras` has the best epoch so far. Defaults to never.
            verbose: As in `keras.Model.fit`. Defaults to a progress bar on a terminal, and else to
                a line for each epoch.

        Raises:
            NotFiniteError: The loss or a weight became NaN or infinite.
            StoppedError: `should_stop` returned True.
        """
        from keras_tune.training import KeepBest
        from keras_tune.training.run_folder import write_config

        if not hasattr(self, "tagger"):
            self.build()
        config = self.config
        write_config(self.output, config)
        started = time.monotonic()
        valid = self._valid()
        self.valid_clips = len(valid[0])
        frozen = config.epochs if config.frozen else min(config.frozen_epochs, config.epochs)
        phases = [(True, frozen)] if config.frozen else [(True, frozen), (False, config.epochs)]
        epoch, step = self.start.finished_epochs, self.start.finished_steps
        notes = dict(self.start.notes)
        first_phase, resumed = notes.pop("phase", 0), bool(notes)
        for phase, (is_frozen, last) in enumerate(phases):
            if phase < first_phase or last <= epoch and not resumed:
                continue
            best = KeepBest(self.output / "tagger.keras", config.patience, **notes)
            self._compile(is_frozen, restore=resumed)
            while epoch < last and not best.stopped:
                # The rest of an epoch first, since `fit` cannot begin within one.
                until = epoch + 1 if step else last
                epoch = self._fit(valid, best, phase, epoch, step, until, should_stop, verbose)
                step = 0
            best.restore(self.tagger)
            # The next training has its own patience, but replaces the tagger only by a better one.
            notes, resumed = {"kept": best.kept}, False
        self.tagger.encoder.trainable = True
        self.epochs = epoch
        self.seconds = time.monotonic() - started

    def save_tagger(self) -> Tagger:
        """Save the tagger, with all layers trainable, as `tagger.keras` in the output folder.

        Returns:
            `keras_tune.models.Tagger`.

        Raises:
            UserError: A weight is not finite.
        """
        from keras_tune.models.saved import save_model

        self.tagger.encoder.trainable = True
        save_model(self.tagger, self.output / "tagger.keras", "; use a smaller `learning_rate`")
        return self.tagger

    def report(self) -> dict[str, Any]:
        """Score the clips of test, with predictions averaged over consecutive windows.

        Returns:
            A dict of JSON values: `metric`, `score`, `interval_95`, `valid_clips`, `test_clips` and
            others.
        """
        from keras_tune.evaluation import Outcome, embed_clips
        from keras_tune.evaluation.outcomes import predict_test
        from keras_tune.evaluation.probe_stack import activate
        from keras_tune.evaluation.protocols import FittedProbe

        config, labels = self.config, self.labels
        task = labels.task

        def predict(clips):
            values = activate(clips.windows, task.loss) * labels.deviation + labels.mean
            return clips.mean_over_windows(values)

        found: dict[str, float] = {}
        for split in ("valid", "test"):
            records = self.dataset.records(split)
            clips = embed_clips(self.tagger, records, batch_size=config.batch_size)
            probe = FittedProbe(predict, {}, found.get("valid", float("nan")), [])
            one = predict_test(probe, clips, task, seed=config.seed)
            found[split] = task.scores(one.targets, one.predictions)[task.primary]
        outcome = Outcome(task, [one])
        return {
            **outcome.report(outcome.samples(config.resamples)),
            "test_clips": len(one.targets),
            "epochs": self.epochs,
            "valid_clips": self.valid_clips,
            "seconds": round(self.seconds, 1),
        }

    def _compile(self, frozen, restore):
        """Compile for training with a frozen encoder, or with one that is trained as well."""
        import keras

        losses = {
            "softmax": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            "sigmoid": keras.losses.BinaryCrossentropy(from_logits=True),
            "mse": keras.losses.MeanSquaredError(),
        }
        self.tagger.encoder.trainable = not frozen
        self.tagger.compile(
            keras.optimizers.Adam(self.config.learning_rate),
            losses[self.labels.task.loss],
            jit_compile="auto" if self.config.jit_compile is None else self.config.jit_compile,
        )
        if restore:
            # The state of the optimizer, which now knows what it trains.
            self.tagger.optimizer.build(self.tagger.trainable_variables)
            self.tagger.load_weights(self.output / "model.keras")

    def _fit(self, valid, best, phase, epoch, step, until, should_stop, verbose):
        """Train from a step of an epoch up to another epoch; return the next epoch."""
        from keras_tune.training import Checkpoint, EpochSeed, HistoryFile, StoppedError

        config, clips = self.config, self.labels.clips
        steps = max(1, clips // config.batch_size)
        stream = self._batches(
            "train",
            batch_size=min(config.batch_size, clips),
            repeat=True,
            seed=config.seed,
            steps_per_epoch=steps,
            initial_epoch=epoch,
            initial_step=step,
        )
        if verbose is None:
            verbose = 1 if sys.stdout.isatty() else 2
        try:
            history = self.tagger.fit(
                stream,
                validation_data=valid,
                validation_batch_size=config.batch_size,
                epochs=until,
                initial_epoch=epoch,
                steps_per_epoch=steps - step,
                shuffle=False,
                callbacks=[
                    EpochSeed(None, self.start if step else None),
                    HistoryFile(self.output / "history.csv"),
                    best,
                    Checkpoint(
                        self.output / "model.keras",
                        should_stop,
                        step,
                        lambda: {"phase": phase, **best.notes()},
                    ),
                ],
                verbose=verbose,
            )
        except StoppedError:
            if best.kept is not None:
                best.restore(self.tagger)
                self.save_tagger()
            raise
        return history.epoch[-1] + 1

    def _valid(self):
        """All clips of valid as arrays: waveforms, targets and weights."""
        batches = self._batches(
            "valid", batch_size=self.config.batch_size, shuffle=False, drop_remainder=False
        )
        return tuple(np.concatenate(part) for part in zip(*batches, strict=True))

    def _batches(self, split: str, **options: Any) -> Iterator[tuple[np.ndarray, ...]]:
        """Batches (waveforms, targets, weights) of a split; options are those of `batches`."""
        from keras_tune.data.audio import to_float
        from keras_tune.evaluation.encoders import window_length

        samples = window_length(self.tagger.encoder)
        batches = self.dataset.batches(split, labels=True, clip_samples=samples, **options)
        for batch in batches.as_numpy_iterator():
            yield (to_float(batch["audio"])[..., None], *self.labels.of(batch["labels"]))


class Targets:
    """The targets that a model learns from the label vectors of batches.

    Args:
        dataset: `keras_tune.data.AudioDataset`.
        target: The label to predict, or several.
        kind: The task, see `keras_tune.evaluation.make_task`. Defaults to None: what fits the
            labels.
        threshold: Float, the smallest number for which a tag is present. Defaults to None.

    Attributes:
        task: The task, as `make_task` returns it.
        clips: Integer, the number of clips of train.
        mean, deviation: Arrays (targets,) with which the targets of a regression are standardized;
            0 and 1 for other tasks.

    Raises:
        UserError: There is no such label.
        ValueError: No clip of train has it, or the task does not fit the labels.

    Example:

    ```python
    from keras_tune.data import open_dataset, save_demo
    from keras_tune.finetuning import Targets

    save_demo("demo.npz", num_clips={"train": 8}, seconds=1.0)
    dataset = open_dataset("demo.npz")
    targets = Targets(dataset, "instrument")
    classes, weights = targets.of(dataset.label_vectors("train"))
    classes.shape  # (8,)
    ```
    """

    def __init__(
        self,
        dataset: AudioDataset,
        target: str | Sequence[str],
        kind: str | None = None,
        threshold: float | None = None,
    ):
        from keras_tune.evaluation.tasks import make_task

        names = [target] if isinstance(target, str) else list(target)
        self._labels = [dataset.info.label_column(name) for name in names]
        vectors = dataset.label_vectors("train")
        self.clips = len(vectors)
        rows = [{c.name: c.decode(vector[p]) for c, p in self._labels} for vector in vectors]
        self.task: Any = make_task([column for column, _ in self._labels], rows, kind, threshold)
        known, targets = self.task.encode(rows)
        if not len(known):
            raise ValueError(
                f"`target` must be a label that clips of train have. Received: target={target}"
            )
        self.mean: Any = 0.0
        self.deviation: Any = 1.0
        if self.task.loss == "mse":
            deviation = targets.std(axis=0)
            self.mean, self.deviation = targets.mean(axis=0), np.where(deviation > 0, deviation, 1)

    def of(self, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Targets for the loss, and weights that are 0 for clips without labels.

        Args:
            vectors: Array (batch, labels), as batches of the data set have it.

        Returns:
            Integers (batch,) for classes or float32 (batch, targets), and float32 (batch,).
        """
        values = np.asarray(vectors, "float64")[:, [index for _, index in self._labels]]
        missing = [
            (numbers < 0) if column.kind == "category" else np.isnan(numbers)
            for numbers, (column, _) in zip(values.T, self._labels, strict=True)
        ]
        known = ~np.any(missing, axis=0)
        targets = self.task.targets(np.where(known[:, None], values, 0))
        if self.task.loss == "softmax":
            return targets, known.astype("float32")
        scaled = (targets - self.mean) / self.deviation
        return scaled.astype("float32"), known.astype("float32")


def _listed(names):
    """The first names of a list."""
    return ", ".join(map(str, names[:10])) + (", …" if len(names) > 10 else "")
