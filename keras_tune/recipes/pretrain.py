"""Pretrain an encoder by contrast: two views of every clip, NT-Xent between their projections.

Without --data and --config, the demo recipe: a small encoder on a corpus that is synthesized on the
spot, and a probe of it. The output folder ends up with encoder.keras (the encoder alone),
model.keras (everything, to go on from), config.yaml, history.csv, report.json and TensorBoard
events. A run that was stopped (SIGTERM, Ctrl-C) or killed goes on with --resume. Large batches,
several devices and failures: see docs/large_scale.md.
"""

import dataclasses
import pathlib
import sys
from typing import Literal

from keras_tune.errors import UserError
from keras_tune.recipes._cli import run
from keras_tune.recipes._types import (
    BatchSize,
    ContrastBatchSize,
    Count,
    CountFromZero,
    Decay,
    Depth,
    NotNegative,
    Positive,
    Samples,
    Seed,
    Share,
    Width,
)
from keras_tune.recipes.augment import AugmentConfig

DEMO = pathlib.Path(__file__).with_name("demo.yaml")


@dataclasses.dataclass
class ModelConfig:
    """The encoder.

    Args:
        preset: A published variant: tune_plus, tune_tail_5, clmr, …
        decoder_depth: Expansive stages, 0 for CLMR's SampleCNN; by default the preset's.
        contraction_depth: Contractive stages; by default the preset's.
        base_filters: Width of the first stage; by default the preset's.
        tail_filters: Widths of the tail blocks, the last that of the representation; by default
            the preset's.
        extra_links: Links from the decoder to the tail; by default the preset's.
        input_samples: Length of a view in samples.
        level: RMS level that the encoder brings every waveform to, 0.1 for one; by default levels
            are left as they are, as in the published models.
    """

    preset: str = "tune_plus"
    decoder_depth: Depth | None = None
    contraction_depth: Depth | None = None
    base_filters: Width | None = None
    tail_filters: list[Width] | None = None
    extra_links: bool | None = None
    input_samples: Samples = 59049
    level: Share | None = None


@dataclasses.dataclass
class OnlineProbeConfig:
    """The probe during training, val_probe in the history.

    Args:
        label: Label to probe; by default none, and no probe.
        every: Epochs from one look to the next; the first epoch is looked at, too.
        probe: What is trained on the representations.
        clips: Labelled clips of train and of valid that are looked at.
    """

    label: str | None = None
    every: Count = 5
    probe: Literal["knn", "logistic"] = "knn"
    clips: Count = 256


@dataclasses.dataclass
class PretrainConfig:
    """The run.

    Args:
        data: Folder written by `prepare`, or an .npz file of clips; by default the demo corpus.
        output: Folder of the run.
        model: The encoder.
        augment: The augmentations.
        epochs: Epochs in all, those before a --resume included.
        steps_per_epoch: Batches an epoch; by default one pass over the train split.
        batch_size: Clips a batch; each gives two views.
        micro_batch: Clips encoded at a time, where a batch does not fit into memory; the loss is
            still that of the whole batch.
        optimizer: lars is for batches of thousands of clips; adamw is Adam with weight decay.
        learning_rate: The highest, after the warm-up.
        base_learning_rate: The learning rate for 256 clips a batch, taken in proportion to the
            batch; goes before learning_rate.
        weight_decay: Of lars and adamw, biases and batch normalization left out.
        ema: Momentum of a moving average of the weights, which the saved encoder is given; 0.999
            for one. By default none: the last weights.
        warmup_epochs: Epochs over which the learning rate rises in a straight line from zero.
        schedule: What the learning rate does after that; cosine ends at zero with the last epoch.
        temperature: Of NT-Xent.
        mask_group: Label (artist, say) whose clips of the same value are no negatives of one
            another; by default only copies of the same clip are not.
        projection_dim: Size of the projections.
        projection_layers: Hidden layers of the projection head.
        projection_batch_norm: Whether the projection head has batch normalization.
        variance_weight: Weight of VICReg's variance term on the projections.
        covariance_weight: Weight of VICReg's covariance term on the projections.
        acoustic_weight: Weight of the task to predict acoustic features of the clean crop.
        group_weight: Weight of a supervised contrastive term, which draws clips of the same
            mask_group together.
        batch_norm_clips: Clips of train, without augmentation, on which the batch normalization of
            the saved encoder is estimated anew; 0 keeps the averages of training, which are of
            augmented views.
        separate_views: Whether batch normalization sees first and second views apart.
        seed: Seed of weights, order, crops and augmentations.
        precision: float32, mixed_bfloat16 or mixed_float16.
        jit_compile: Whether to compile with XLA; by default what is fast on the backend.
        steps_per_execution: Steps from one look at the loss, and at whether to stop, to the next;
            must divide the steps of an epoch.
        resident: Whether the clips to train on are held in the device's memory and cropped there.
        distribute: Several devices: mirrored (TensorFlow, one machine), multi_worker (TensorFlow,
            machines in TF_CONFIG), data_parallel (JAX), or auto for what there is.
        sync_batch_norm: Whether batch normalization takes its statistics from all devices; with JAX
            it always does.
        deterministic: Whether the same run gives the same bits; takes slower algorithms.
        on_corrupt: What to do about damaged shards: stop at them, or look for them beforehand and
            leave them out.
        online_probe: A probe every few epochs.
        probe: Label to probe at the end, on the same data; by default none.
        probe_group: Label whose clips (an artist's) stay together where that probe is
            cross-validated; by default song, where there is such a label.
        resume: Whether to go on with the run in the output folder.
        backend: tensorflow, jax or torch; by default KERAS_BACKEND, or what is installed.
    """

    data: str | None = None
    output: str = "runs/pretrain"
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    augment: AugmentConfig = dataclasses.field(default_factory=AugmentConfig)
    epochs: Count = 100
    steps_per_epoch: Count | None = None
    batch_size: ContrastBatchSize = 48
    micro_batch: BatchSize | None = None
    optimizer: Literal["adam", "adamw", "lars"] = "adam"
    learning_rate: Positive = 3e-4
    base_learning_rate: Positive | None = None
    weight_decay: NotNegative = 1e-6
    ema: Decay | None = None
    warmup_epochs: NotNegative = 0.0
    schedule: Literal["constant", "cosine"] = "constant"
    temperature: Positive = 0.5
    mask_group: str | None = None
    projection_dim: Width = 64
    projection_layers: Depth = 1
    projection_batch_norm: bool = False
    variance_weight: NotNegative = 0.0
    covariance_weight: NotNegative = 0.0
    acoustic_weight: NotNegative = 0.0
    group_weight: NotNegative = 0.0
    batch_norm_clips: CountFromZero = 0
    separate_views: bool = False
    seed: Seed = 42
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16"] = "float32"
    jit_compile: bool | None = None
    steps_per_execution: Count = 1
    resident: bool = False
    distribute: Literal["auto", "none", "mirrored", "multi_worker", "data_parallel"] = "none"
    sync_batch_norm: bool = True
    deterministic: bool = False
    on_corrupt: Literal["raise", "skip"] = "raise"
    online_probe: OnlineProbeConfig = dataclasses.field(default_factory=OnlineProbeConfig)
    probe: str | None = None
    probe_group: str | None = None
    resume: bool = False
    backend: str | None = None


# What may differ between a run and its continuation.
FREE_ON_RESUME = (
    "epochs",
    "output",
    "resume",
    "backend",
    "jit_compile",
    "distribute",
    "deterministic",
    "on_corrupt",
    "online_probe",
    "probe",
    "probe_group",
)


def main(config):
    """Run the command line; see `PretrainConfig`."""
    from keras_tune.recipes._folder import local_path, locked
    from keras_tune.recipes._training import prepare_determinism

    _check(config)
    if config.deterministic:
        prepare_determinism()
    devices = _devices(config)
    output = local_path(config.output)
    # All processes must save, since reading what several devices hold takes all of them; but only
    # the files of the first one count.
    own = output if devices.process == 0 else output / f"process_{devices.process}"
    with locked(own):
        _pretrain(config, output, own, devices)


def _devices(config):
    """The devices of a run."""
    from keras_tune.training.distribution import choose_devices

    devices = choose_devices(config.distribute)
    for key in ("batch_size", "micro_batch"):
        value = getattr(config, key)
        if value is not None and value % devices.replicas:
            raise UserError(
                f"--{key} {value}: must be a multiple of the {devices.replicas} devices"
            )
    if devices.strategy and config.micro_batch is not None:
        # Its replicas cannot meet within the loop over micro-batches.
        raise UserError("--micro_batch: goes with one device on TensorFlow; take --backend jax")
    if devices.kind != "none":
        for key, off in (("resident", False), ("steps_per_execution", 1)):
            if getattr(config, key) != off:
                raise UserError(f"--{key}: goes with one device only; take --distribute none")
    if devices.replicas > 1 and config.online_probe.label is not None:
        raise UserError("--online_probe.label: goes with one device only; use --probe")
    return devices


def _pretrain(config, output, own, devices):
    import time

    import keras

    from keras_tune.data.damage import naming_damaged_shards
    from keras_tune.recipes import _training
    from keras_tune.recipes._folder import write_config, write_report
    from keras_tune.training.distribution import synchronize_batch_normalization

    if config.deterministic:
        _training.make_deterministic()
    start = _claim(output, config)
    data = config.data or _training.demo_corpus(output, config.seed)
    source = _training.open_source(data, config.on_corrupt)
    streams = _training.open_streams(
        source, config, start.finished_epochs, start.finished_steps, devices
    )
    steps_per_epoch = streams.steps_per_epoch
    _check_execution(config.steps_per_execution, steps_per_epoch)
    keras.utils.set_random_seed(config.seed)
    keras.config.set_dtype_policy(config.precision)
    with devices.scope():
        if _steps(start, steps_per_epoch):
            model = _training.load_checkpoint(output / "model.keras", config.jit_compile)
        else:
            model = _training.build_model(config, source.dataset.info.sample_rate, steps_per_epoch)
        if devices.strategy and config.sync_batch_norm:
            synchronize_batch_normalization(model)
    if config.resident:
        model.read_from(source.resident)
    for label in (config.probe, config.probe_group):
        if label is not None:
            source.dataset.info.label_column(label)
    probes = _online_probes(config, source)
    if devices.replicas == 1:
        probes += _training.monitors(streams)
    write_config(own, config)
    print(
        f"{config.model.preset}: {model.encoder.count_params():,} parameters; "
        f"{streams.train_clips} clips, {streams.valid_clips} for validation, "
        f"{steps_per_epoch} steps an epoch, "
        f"epochs {start.finished_epochs + 1} to {config.epochs}"
    )
    started = time.monotonic()
    with naming_damaged_shards(data), _training.noting_stop() as should_stop:
        _fit(model, config, own, devices, source, streams, start, probes, should_stop)
    seconds = time.monotonic() - started
    steps = config.epochs * steps_per_epoch
    trained = steps - _steps(start, steps_per_epoch)
    if devices.process:
        return
    # What is alone again needs no part of the others.
    keras.distribution.set_distribution(None)
    batches = _training.clean_batches(source, config) if config.batch_norm_clips else None
    encoder = _training.save_encoder(model, output / "encoder.keras", batches)
    report = {
        "steps": steps,
        "seconds": round(seconds, 1),
        "views_per_second": round(2 * config.batch_size * trained / max(seconds, 1e-9), 1),
        "parameters": model.encoder.count_params(),
        "devices": devices.replicas,
        "final": _last_row(output / "history.csv"),
        "chance_contrastive_accuracy": streams.chance,
        "valid_clips": streams.valid_clips,
        "splits": source.dataset.info.fingerprints,
        "left_out": list(source.dataset.exclude),
        "data": str(data),
    }
    if config.probe:
        from keras_tune.recipes._final_probe import final_probe, summary

        report["probe"] = final_probe(
            encoder,
            source.dataset,
            config.probe,
            progress=sys.stderr.isatty(),
            group=config.probe_group,
        )
        print(summary(config.probe, report["probe"]))
    write_report(output, config, **report)
    print(f"encoder: {output / 'encoder.keras'}")


def _check(config):
    if config.micro_batch is not None and config.batch_size % config.micro_batch:
        raise UserError(
            f"--micro_batch {config.micro_batch}: must divide --batch_size {config.batch_size}"
        )

    if config.group_weight and config.mask_group is None:
        raise UserError(f"--group_weight {config.group_weight}: needs a label, give --mask_group")


def _check_execution(steps, steps_per_epoch):
    """Refuse several steps at a time where the backend cannot, or would run on across epochs."""
    import keras

    if steps > 1 and keras.backend.backend() == "torch":
        raise UserError(f"--steps_per_execution {steps}: the backend torch makes one at a time")
    if steps_per_epoch % steps:
        raise UserError(
            f"--steps_per_execution {steps}: must divide the {steps_per_epoch} steps of an epoch; "
            "give --steps_per_epoch"
        )


def _claim(output, config):
    """The `Progress` to begin with, after a look at what the output folder holds."""
    from keras_tune.recipes._training import claim

    # The learning rate of a cosine comes to its end with the last epoch.
    free = set(FREE_ON_RESUME) - ({"epochs"} if config.schedule == "cosine" else set())
    return claim(output, config, free)


def _steps(progress, steps_per_epoch):
    return progress.finished_epochs * steps_per_epoch + progress.finished_steps


def _fit(model, config, output, devices, source, streams, start, probes, should_stop):
    """Train from `start` to the last epoch."""
    import keras

    from keras_tune.recipes import _training
    from keras_tune.training import Checkpoint, EpochSeed, NotFiniteError, StoppedError

    epoch, step = start.finished_epochs, start.finished_steps
    # The rest of an epoch first, which `fit` cannot begin in the middle of.
    spans = [(epoch, epoch + 1), (epoch + 1, config.epochs)] if step else [(epoch, config.epochs)]
    try:
        for first, last in spans:
            if first > epoch:
                step, streams = 0, _training.open_streams(source, config, first, devices=devices)
            model.fit(
                streams.train,
                validation_data=streams.valid,
                validation_steps=streams.valid_steps,
                epochs=last,
                initial_epoch=first,
                steps_per_epoch=streams.steps_per_epoch - step,
                callbacks=[
                    EpochSeed(config.seed, start if step else None),
                    *probes,
                    keras.callbacks.CSVLogger(str(output / "history.csv"), append=True),
                    *_tensorboard(output),
                    # Last, so that the history has at least the epochs that the checkpoint has.
                    Checkpoint(output / "model.keras", should_stop, step),
                ],
                # The streams shuffle for themselves, in an order that the seed decides.
                shuffle=False,
                # A bar that redraws itself is for terminals; a log file gets a line an epoch.
                verbose=1 if sys.stdout.isatty() else 2,
            )
    except NotFiniteError as error:
        raise _explained(error, config, output, devices, source, streams) from error
    except StoppedError as error:
        print(f"stopped: {error}; go on with --resume true")
        sys.exit(should_stop.status)


def _explained(error, config, output, devices, source, streams):
    """Write the batches behind a loss that is not finite, and say it in one line."""
    from keras_tune.files import write_json
    from keras_tune.recipes._training import batch_ids

    # A gradient that is not finite shows in the loss of the step after it.
    last = error.epoch * streams.steps_per_epoch + error.step
    numbers = range(last, max(last - error.steps, 0) - 1, -1)
    places = [divmod(number, streams.steps_per_epoch) for number in numbers]
    batches = [
        {
            "epoch": epoch + 1,
            "step": step + 1,
            "ids": batch_ids(source, config, epoch, step, devices),
        }
        for epoch, step in places
    ]
    write_json(output / "failure.json", {"what": error.what, "batches": batches})
    checkpoint = output / "model.keras"
    kept = f"{checkpoint} is from before" if checkpoint.exists() else "there is no checkpoint yet"
    return UserError(
        f"{error}: take a smaller --learning_rate, or look at the clips listed in "
        f"{output / 'failure.json'}; {kept}"
    )


def _tensorboard(output):
    import importlib.util

    import keras

    if importlib.util.find_spec("tensorflow") and importlib.util.find_spec("tensorboard"):
        return [keras.callbacks.TensorBoard(str(output / "tensorboard"), write_graph=False)]
    return []


def _online_probes(config, source):
    from keras_tune.recipes._training import online_probe

    chosen = config.online_probe
    if chosen.label is None:
        return []
    probe = online_probe(
        source.dataset,
        chosen.label,
        "online_probe.label",
        clips=chosen.clips,
        every=chosen.every,
        probe=chosen.probe,
        between="nan",
    )
    return [probe]


def _last_row(path):
    """The last epoch's values that there are."""
    import pandas as pd

    row = pd.read_csv(path).iloc[-1].dropna()
    return {key: float(value) for key, value in row.items()}


def cli(argv=None):
    """Parse a list of strings, by default the command line's, and run `main`."""
    run(main, PretrainConfig, argv, demo=DEMO)


if __name__ == "__main__":
    cli()
