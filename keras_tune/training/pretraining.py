"""Pretraining runs: data, model, training, checkpoints and the saved encoder."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import os
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from keras_tune.data.dataset import AudioDataset, open_dataset
from keras_tune.data.demo import demo_corpus
from keras_tune.data.shard_dataset import naming_damaged_shards
from keras_tune.files import write_json
from keras_tune.layers.acoustic_features import MIN_SAMPLES
from keras_tune.machine import keep_freed_memory
from keras_tune.models.presets import PRESETS
from keras_tune.storage import local_output
from keras_tune.training.building import build_model, save_encoder
from keras_tune.training.callbacks import (
    BestEpoch,
    Checkpoint,
    EpochSeed,
    HistoryFile,
    NotFiniteError,
    lower_is_better,
)
from keras_tune.training.config import PretrainConfig
from keras_tune.training.contrastive_model import ContrastiveModel
from keras_tune.training.distribution import choose_devices, synchronize_batch_normalization
from keras_tune.training.precision import dtype_policy, make_deterministic, with_precision
from keras_tune.training.representation_monitor import RepresentationMonitor
from keras_tune.training.run_folder import (
    Progress,
    load_checkpoint,
    open_run_folder,
    read_config,
    read_rows,
    write_config,
)
from keras_tune.training.streams import PretrainingData, Streams

if TYPE_CHECKING:
    import pandas as pd

# Clips of valid on which the representation is monitored.
MONITORED_CLIPS = 256


def pretrain(
    data: str | os.PathLike | AudioDataset,
    output: str | os.PathLike,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    **options: Any,
) -> keras.Model:
    """Pretrain an encoder on unlabelled clips, and save it.

    The output folder also gets the whole model with its optimizer (`model.keras`), the
    configuration (`config.yaml`) and the metrics of every epoch (`history.csv`). With
    `resume=True` a run that was interrupted continues.

    Args:
        data: Folder written by `keras_tune.data.prepare`, `.npz` file of clips, or
            `keras_tune.data.AudioDataset`.
        output: Folder of the run.
        callbacks: Further Keras callbacks. Defaults to none.
        **options: Fields of `PretrainConfig`, such as `model`, `epochs` and `batch_size`.

    Returns:
        The encoder, a Keras model from (batch, samples, 1) to (batch, d), saved as
        `encoder.keras` in the output folder.

    Raises:
        ValueError: A setting is out of range or does not fit the data, or the folder contains
            another run.
        NotFiniteError: The loss or a weight became NaN or infinite.

    Example:

    ```python
    from keras_tune.augment import AugmentConfig
    from keras_tune.data import save_demo
    from keras_tune.training import ModelConfig, pretrain

    save_demo("demo.npz", num_clips={"train": 8, "valid": 4}, seconds=1.0)
    encoder = pretrain(
        "demo.npz",
        "runs/small",
        model=ModelConfig(preset="tune_plus_32", base_filters=2, input_samples=19683),
        augment=AugmentConfig(pitch_shift_probability=0.0, reverb_probability=0.0),
        epochs=1,
        batch_size=4,
    )
    encoder.predict(np.zeros((1, 19683, 1))).shape  # (1, 32)
    ```
    """
    dataset = data if isinstance(data, AudioDataset) else None
    path = data if dataset is None else dataset.path
    run = PretrainingRun(PretrainConfig(data=str(path), output=str(output), **options), dataset)
    run.fit(callbacks)
    return run.save_encoder()


class PretrainingRun:
    """A pretraining run in steps: `open`, `build`, `fit`, `save_encoder`.

    `fit` and `save_encoder` do the first two steps if necessary. A run in the same folder with
    `resume=True` in its configuration continues where the first one stopped, with the same crops
    and augmentations.

    Args:
        config: `PretrainConfig`.
        dataset: `keras_tune.data.AudioDataset`. Defaults to the one at `config.data`.

    Attributes:
        config: The same; `open` sets the values that depend on the data and the machine.
        precision_reason: String, the reason for the choice with the precision "auto", in words that
            follow "since"; empty if the configuration sets a precision. After `open`.
        output: `pathlib.Path`, the folder of the run.
        folder: `pathlib.Path`, the folder of this process: `output` for the first of several
            processes, a folder in it for the others, whose files are not needed.
        devices: `keras_tune.training.distribution.Devices` that share the work.
        start: `Progress`, where this run starts. After `open`.
        dataset: `AudioDataset`. After `open`.
        data: `PretrainingData`. After `open`.
        streams: `Streams`, the batches from the start on. After `build`.
        model: `ContrastiveModel`. After `build`.
        seconds: Float, how long `fit` took. After `fit`.

    Raises:
        ValueError: A setting is out of range, or the devices cannot be used in this way.

    Example:

    ```python
    from keras_tune.augment import AugmentConfig
    from keras_tune.data import save_demo
    from keras_tune.training import ModelConfig, PretrainConfig, PretrainingRun

    save_demo("demo.npz", num_clips={"train": 8, "valid": 4}, seconds=1.0)
    config = PretrainConfig(
        data="demo.npz",
        output="runs/small",
        model=ModelConfig(
            contraction_depth=1, base_filters=2, tail_filters=[4], input_samples=2187
        ),
        augment=AugmentConfig(pitch_shift_probability=0.0, reverb_probability=0.0),
        epochs=1,
        batch_size=4,
    )
    run = PretrainingRun(config)
    history = run.fit()
    history["val_contrastive_accuracy"].iloc[-1]
    encoder = run.save_encoder()
    run.report()["steps"]  # 2
    ```
    """

    dataset: AudioDataset
    precision_reason: str
    start: Progress
    data: PretrainingData
    streams: Streams
    model: ContrastiveModel
    seconds: float

    def __init__(self, config: PretrainConfig, dataset: AudioDataset | None = None):
        config.check()
        self.config = config
        if dataset is not None:
            self.dataset = dataset
        self.output = local_output(config.output)
        self.devices = choose_devices(config.distribute)
        self.devices.check(config)
        # All processes must save, since reading what several devices hold takes all of them; but
        # only the files of the first one are needed.
        process = self.devices.process
        self.folder = self.output / f"process_{process}" if process else self.output

    def open(self) -> None:
        """Find out where the run starts, and open its data.

        If the split train has fewer clips than a batch, and an epoch is one pass over them, batches
        have as many clips as there are, and a warning says so.

        Raises:
            ValueError: The folder contains another run.
            UserError: The data or a file of the run is missing or damaged.

        Example:

        ```python
        from keras_tune.data import save_demo
        from keras_tune.training import PretrainConfig, PretrainingRun

        save_demo("demo.npz", num_clips={"train": 8}, seconds=3.0)
        run = PretrainingRun(PretrainConfig(data="demo.npz"))
        run.open()
        run.dataset.info.counts, run.start.finished_epochs  # ({"train": 8}, 0)
        ```
        """
        if self.config.deterministic:
            make_deterministic()
        if not hasattr(self, "dataset") and self.config.data:
            self.dataset = open_dataset(self.config.data, on_corrupt=self.config.on_corrupt)
        if hasattr(self, "dataset"):
            # First, since the number of clips decides how many a batch has.
            self._limit_batch()
        config, self.precision_reason = with_precision(
            self.config, self.output if self.config.resume else None
        )
        self.config = config
        # The learning rate of a cosine depends on the last epoch.
        free = set(config.free_on_resume) - ({"epochs"} if config.schedule == "cosine" else set())
        if self.precision_reason:
            # It is that of the run, unless its configuration is older than this choice.
            free.add("precision")
        self.start = open_run_folder(self.output, config, free)
        # Read now, since the run writes its own configuration.
        resumed = self.start.finished_epochs > 0
        self._kept_before = read_config(self.output).get("keep_best") if resumed else None
        if not hasattr(self, "dataset"):
            self.dataset = open_dataset(demo_corpus(self.output, config.seed))
        self.data = PretrainingData(self.dataset, config, self.devices)

    def build(self) -> None:
        """Open the batches, and build the model or load that of the checkpoint.

        Keras' global seed is set, as `keras.utils.set_random_seed` does.

        Raises:
            ValueError: Clips are too short or too few, or settings of the model are incompatible.
        """
        if not hasattr(self, "data"):
            self.open()
        keep_freed_memory(keras.backend.backend())
        config, start = self.config, self.start
        self.streams = self.data.streams(start.finished_epochs, start.finished_steps)
        self._check_execution()
        keras.utils.set_random_seed(config.seed)
        with dtype_policy(config.precision), self.devices.scope():
            if self._steps_before():
                self.model = load_checkpoint(self.output / "model.keras", config.jit_compile)
            else:
                self.model = build_model(
                    config, self.dataset.info.sample_rate, self.streams.steps_per_epoch
                )
            if self.devices.strategy and config.sync_batch_norm:
                synchronize_batch_normalization(self.model)
        # Before the training, not after it.
        self._pooling()
        if self.data.resident is not None:
            self.model.read_from(self.data.resident)

    def fit(
        self,
        callbacks: Sequence[keras.callbacks.Callback] = (),
        should_stop: Callable[[], bool] | None = None,
        verbose: int | None = None,
    ) -> pd.DataFrame:
        """Train to the last epoch, with a checkpoint after every epoch.

        Args:
            callbacks: Further Keras callbacks, for example `keras_tune.evaluation.OnlineProbe`. The
                history includes what they add to the logs. Defaults to none.
            should_stop: Function without arguments that tells whether to stop, for example that of
                `stop_signals`. Then the model is saved after the current step. Defaults to never.
            verbose: As in `keras.Model.fit`. Defaults to a progress bar on a terminal, and else to
                a line for each epoch.

        Returns:
            DataFrame with a row for each epoch, including those before the run was resumed.

        Raises:
            NotFiniteError: The loss or a weight became NaN or infinite. `failure.json` in the
                folder of the run has the ids of the clips in the batches before.
            StoppedError: `should_stop` returned True; the model is saved.
            UserError: A shard is damaged.
            RuntimeError: The run has been trained before.
        """
        import pandas as pd

        if hasattr(self, "seconds"):
            raise RuntimeError("A run can be trained only once; make a new one with `resume=True`.")
        if not hasattr(self, "model"):
            self.build()
        callbacks = [*callbacks, *self._monitors(), *self._keep_best()]
        write_config(self.folder, self.config)
        started = time.monotonic()
        with dtype_policy(self.config.precision), naming_damaged_shards(self.dataset.path):
            self._fit(callbacks, should_stop, verbose)
        self.seconds = time.monotonic() - started
        if self.devices.kind == "data_parallel" and self.devices.process == 0:
            # What follows is done by this process alone.
            keras.distribution.set_distribution(None)
        return pd.read_csv(self.folder / "history.csv")

    def save_encoder(self) -> keras.Model:
        """Save the encoder alone as `encoder.keras` in the output folder; see `save_encoder`.

        Returns:
            The saved encoder.

        Raises:
            UserError: A weight is not finite.
        """
        if not hasattr(self, "model"):
            self.build()
        return self._save_encoder("encoder.keras")

    def report(self) -> dict[str, Any]:
        """Describe the run after `fit`: steps, speed, devices, last metrics, data.

        Returns:
            A dict of JSON values.
        """
        import pandas as pd

        config, streams = self.config, self.streams
        steps = config.epochs * streams.steps_per_epoch
        trained = steps - self._steps_before()
        last = pd.read_csv(self.folder / "history.csv").iloc[-1].dropna()
        return {
            "steps": steps,
            "seconds": round(self.seconds, 1),
            "views_per_second": round(2 * config.batch_size * trained / max(self.seconds, 1e-9), 1),
            "parameters": self.model.encoder.count_params(),
            "devices": self.devices.replicas,
            "final": {key: float(value) for key, value in last.items()},
            "chance_contrastive_accuracy": streams.chance,
            "valid_clips": streams.valid_clips,
            "splits": self.dataset.info.fingerprints,
            "left_out": list(self.dataset.exclude),
            "data": str(config.data or self.dataset.path),
        }

    def _save_encoder(self, name):
        config, clean = self.config, self.data.clean_batches
        stages, acoustic_features = self._pooling()
        return save_encoder(
            self.model,
            self.folder / name,
            clean(config.batch_norm_clips) if config.batch_norm_clips else None,
            clean(config.pca_clips) if stages else None,
            stages,
            config.pooled_dim,
            acoustic_features,
        )

    def _pooling(self):
        """How many stages the saved encoder pools, and whether it takes acoustic features as well.

        Raises unless the encoder has as many stages, and windows that are long enough.
        """
        stages, acoustic = self.config.pooled_stages, self.config.acoustic_features
        preset, encoder = PRESETS[self.config.model.preset], self.model.encoder
        stages = preset.pooled_stages if stages is None else stages
        acoustic = bool(stages) and (preset.acoustic_features if acoustic is None else acoustic)
        most = len(encoder.stage_names)
        if stages > most:
            raise ValueError(
                f"`pooled_stages` must be at most {most}, the stages of this encoder. "
                f"Received: pooled_stages={stages}"
            )
        if acoustic and encoder.input_samples < MIN_SAMPLES:
            raise ValueError(
                f"`acoustic_features` must be False for windows of less than {MIN_SAMPLES} "
                f"samples. Received: windows of {encoder.input_samples} samples"
            )
        return stages, acoustic

    def _limit_batch(self):
        """Let a batch have at most as many clips as the split train."""
        config, dataset = self.config, self.dataset
        # To count the clips that are long enough, all are read, so not of a large set.
        known = dataset.info.counts.get("train", 0)
        if config.steps_per_epoch or not 0 < known < 2 * config.batch_size:
            return
        clips = dataset.count("train", config.model.input_samples)
        if clips >= config.batch_size:
            return
        size = clips - clips % math.lcm(config.micro_batch or 1, self.devices.replicas)
        # A batch that is too small for contrastive learning is an error later.
        if size >= 2:
            warnings.warn(
                f"{dataset.path}: {clips} clips of train are fewer than a batch of "
                f"{config.batch_size}; batches have {size} clips",
                stacklevel=3,
            )
            self.config = dataclasses.replace(config, batch_size=size)

    def _check_execution(self):
        """Refuse several steps at a time if the backend cannot, or if they would cross epochs."""
        steps, of = self.config.steps_per_execution, self.streams.steps_per_epoch
        if steps > 1 and keras.backend.backend() == "torch":
            raise ValueError(
                "`steps_per_execution` must be 1 with the torch backend. "
                f"Received: steps_per_execution={steps}"
            )
        if of % steps:
            raise ValueError(
                f"`steps_per_execution` must divide the {of} steps of an epoch, which "
                f"`steps_per_epoch` sets. Received: steps_per_execution={steps}"
            )

    def _steps_before(self):
        """The steps that were made before this run was resumed."""
        start = self.start
        return start.finished_epochs * self.streams.steps_per_epoch + start.finished_steps

    def _keep_best(self):
        """The callback that saves the encoder of the best epoch, if there is to be one."""
        monitor, history = self.config.keep_best, self.folder / "history.csv"
        if monitor is None:
            return []
        best, file = None, self.folder / "best_encoder.keras"
        # The file has the best epoch by this metric only if the run kept it by this one before.
        if file.exists() and self._kept_before == monitor:
            before = [float(row.get(monitor) or "nan") for row in read_rows(history)]
            before = [value for value in before if math.isfinite(value)]
            if before:
                best = min(before) if lower_is_better(monitor) else max(before)
        return [BestEpoch(monitor, lambda: self._save_encoder(file.name), best)]

    def _monitors(self):
        """The callbacks that monitor the representation on the first clips of valid."""
        if self.streams.valid is None or self.devices.replicas > 1:
            return []
        batches, found = [], 0
        for batch in self.streams.valid:
            if found >= MONITORED_CLIPS:
                break
            batches.append({key: np.asarray(values) for key, values in batch.items()})
            # Without the clips that only fill up the last batch.
            found += np.count_nonzero(batches[-1]["weight"])
        return [RepresentationMonitor(batches)]

    def _fit(self, callbacks, should_stop, verbose):
        """Train from the start to the last epoch."""
        config, start, streams = self.config, self.start, self.streams
        epoch, step = start.finished_epochs, start.finished_steps
        spans = [(epoch, config.epochs)]
        if step:
            # The rest of an epoch first, since `fit` cannot begin within one.
            spans = [(epoch, epoch + 1), (epoch + 1, config.epochs)]
        if verbose is None:
            # A progress bar is for terminals; a log file gets a line for each epoch.
            verbose = 1 if sys.stdout.isatty() else 2
        try:
            for first, last in spans:
                if first > epoch:
                    step, streams = 0, self.data.streams(first)
                    if config.ema is not None:
                        # Keras has put the moving averages in place of the weights, as it does at
                        # the end of every `fit`.
                        with self.devices.scope():
                            self.model.load_weights(self.folder / "model.keras")
                self.model.fit(
                    streams.train,
                    validation_data=streams.valid,
                    validation_steps=streams.valid_steps,
                    epochs=last,
                    initial_epoch=first,
                    steps_per_epoch=streams.steps_per_epoch - step,
                    callbacks=[
                        EpochSeed(config.seed, start if step else None),
                        *callbacks,
                        HistoryFile(self.folder / "history.csv"),
                        *_tensorboard(self.folder),
                        # Last, so that the history has at least the epochs of the checkpoint.
                        Checkpoint(self.folder / "model.keras", should_stop, step),
                    ],
                    # The streams shuffle on their own, in an order that the seed decides.
                    shuffle=False,
                    verbose=verbose,
                )
        except NotFiniteError as error:
            self._write_failure(error)
            raise

    def _write_failure(self, error):
        """Write the ids of the clips that may have caused a loss that is not finite."""
        of = self.streams.steps_per_epoch
        # A gradient that is not finite shows in the loss of the step after it.
        last = error.epoch * of + error.step
        numbers = range(last, max(last - error.steps, 0) - 1, -1)
        batches = [
            {"epoch": epoch + 1, "step": step + 1, "ids": self.data.batch_ids(epoch, step)}
            for epoch, step in (divmod(number, of) for number in numbers)
        ]
        write_json(self.folder / "failure.json", {"what": error.what, "batches": batches})


def _tensorboard(folder):
    if importlib.util.find_spec("tensorflow") and importlib.util.find_spec("tensorboard"):
        return [keras.callbacks.TensorBoard(str(folder / "tensorboard"), write_graph=False)]
    return []
