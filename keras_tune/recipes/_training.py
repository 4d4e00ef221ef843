"""What the recipes that train by contrast share: batches, model, optimizer, checkpoints."""

import contextlib
import dataclasses
import os
import signal
import sys
import warnings

from keras_tune.errors import UserError


def demo_corpus(output, seed):
    """Synthesize the demo corpus into the run folder, unless it is there; return its path."""
    from keras_tune.data import save_demo

    path = output / "demo.npz"
    if not path.exists():
        save_demo(path, seed=seed)
    return path


@dataclasses.dataclass
class Source:
    """The data of a run.

    Attributes:
        dataset: `keras_tune.data.AudioDataset`.
        resident: `ResidentClips` of the split train, which `open_streams` loads where it is
            asked to.
    """

    dataset: object
    resident: object = None


def open_source(data, on_corrupt="raise"):
    """Open a run's data.

    Args:
        data: Folder of shards or `.npz` file.
        on_corrupt: "raise" expects all shards to be good, "skip" reads them all once and excludes
            those that are damaged, with a line on standard error. Defaults to "raise".

    Returns:
        `Source`.

    Raises:
        UserError: There is no such data, no split train, or nothing but damage.
    """
    from keras_tune.data import open_dataset

    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        dataset = open_dataset(data, on_corrupt=on_corrupt)
    for warning in found:
        print(warning.message, file=sys.stderr)
    if not dataset.info.counts.get("train"):
        raise UserError(
            f"{data}: has no clips in the split train" + " left" * bool(dataset.exclude)
        )
    return Source(dataset)


@dataclasses.dataclass
class Streams:
    """The batches of a run, and how many there are.

    Attributes:
        train: Pairs of crops, shuffled.
        valid: Pairs of crops in the order of the files, or None.
        steps_per_epoch: Batches of an epoch of `train`.
        train_clips: Clips in the split train.
        valid_steps: Batches of `valid`, or None.
        valid_clips: Clips that `valid` has, all of the split that are long enough; 0 without it.
        find_chance: Function without arguments for `chance`.
    """

    train: object
    valid: object
    steps_per_epoch: int
    train_clips: int
    valid_steps: int | None
    valid_clips: int
    find_chance: object

    @property
    def chance(self):
        """Contrastive accuracy on valid of a guess among all candidates, or None without it."""
        return None if self.valid is None else self.find_chance()


def open_streams(source, config, initial_epoch=0, initial_step=0, devices=None):
    """Open the batches of a run from a place in it on.

    Args:
        source: `Source`.
        config: `PretrainConfig`.
        initial_epoch: Epoch at which `train` begins. Defaults to 0.
        initial_step: Batches of that epoch that are left out. Defaults to 0.
        devices: `Devices` that share the work. Defaults to one.

    Returns:
        `Streams`.

    Raises:
        UserError: Clips are too short or too few.
    """
    if config.mask_group is not None:
        try:
            source.dataset.info.label_column(config.mask_group)
        except UserError as error:
            raise UserError(f"--mask_group {config.mask_group}: {error}") from error
    from keras_tune.training.distribution import Devices

    if config.resident and source.resident is None:
        source.resident = source.dataset.resident(
            "train", config.model.input_samples, _group_by(config)
        )
    devices = devices or Devices()
    counts = source.dataset.info.counts
    epochs = max(config.epochs, initial_epoch + 1)
    train = _clips(
        source,
        "train",
        devices,
        **_train_options(config),
        initial_epoch=initial_epoch,
        initial_step=initial_step,
        epochs=epochs,
    )
    batches = len(train)
    valid_clips = _count_valid(source, config)
    batch_size = min(config.batch_size, valid_clips)
    # Every device must get as many.
    batch_size -= batch_size % devices.replicas
    # All batches are of one size, so that each anchor has as many candidates, and nothing is
    # compiled for another shape. The last one is filled up with clips that weigh nothing.
    options = {
        "clip_samples": config.model.input_samples,
        "crops": 2,
        "batch_size": batch_size,
        "shuffle": False,
        "fill_remainder": True,
        "group_by": _group_by(config),
    }
    valid = None
    if batch_size > 1:
        valid = _clips(source, "valid", devices, **options)

    def find_chance():
        if config.mask_group is None and devices.processes == 1:
            return 1 / (2 * batch_size - 1)
        return _chance(source, devices, {**options, "crops": 1})

    return Streams(
        train=devices.feed(train),
        valid=devices.feed(valid),
        steps_per_epoch=(batches + initial_step) // (epochs - initial_epoch),
        train_clips=counts["train"],
        valid_steps=len(valid) if valid is not None else None,
        valid_clips=valid_clips if valid is not None else 0,
        find_chance=find_chance,
    )


def _count_valid(source, config):
    """How many clips of valid are long enough."""
    count = source.dataset.info.counts.get("valid", 0)
    if not count:
        return 0
    samples = config.model.input_samples
    long_enough = source.dataset.count("valid", samples)
    if not long_enough:
        raise UserError(
            f"--model.input_samples {samples}: all {count} clips of valid in {source.dataset.path} "
            "are shorter; choose shorter views"
        )
    return long_enough


def _chance(source, devices, options):
    """The mean over anchors of a guess among the candidates that groups and batches leave."""
    import numpy as np

    parts = [
        _clips(source, "valid", dataclasses.replace(devices, process=process), **options)
        for process in range(devices.processes)
    ]
    chance, weight = 0.0, 0.0
    for batches in zip(*(part.as_numpy_iterator() for part in parts), strict=True):
        groups, weights = (np.concatenate([b[key] for b in batches]) for key in ("group", "weight"))
        others = (groups[:, None] != groups).sum(axis=1)
        chance += (weights / (1 + 2 * others)).sum()
        weight += weights.sum()
    return float(chance / weight)


def batch_ids(source, config, epoch, step, devices=None):
    """The ids of the clips in one batch of a run, which the seed decides.

    Args:
        source: `Source`.
        config: `PretrainConfig`.
        epoch: The epoch, from 0.
        step: The step within it, from 0.
        devices: `Devices` that share the work, of which this process names its own part. Defaults
            to one.

    Returns:
        List of texts.
    """
    options = {**_train_options(config), "initial_epoch": epoch, "initial_step": step}
    batch = next(_clips(source, "train", devices, **options, ids=True).as_numpy_iterator())
    return [name.decode() if isinstance(name, bytes) else str(name) for name in batch["id"]]


def _train_options(config):
    return {
        "clip_samples": config.model.input_samples,
        "crops": 2,
        "batch_size": config.batch_size,
        "seed": config.seed,
        "steps_per_epoch": config.steps_per_epoch,
        "group_by": _group_by(config),
    }


def _group_by(config):
    """What tells which clips are no negatives of one another: copies of a clip at the least."""
    return config.mask_group or "id"


def _clips(source, split, devices, **options):
    """The batches of a split, or what this process has to read of them."""
    if devices is not None:
        options["part"] = devices.part
    try:
        if split == "train" and source.resident is not None:
            # It cuts what it was loaded for.
            del options["clip_samples"], options["group_by"]
            return source.resident.stream(**options)
        return source.dataset.batches(split, **options)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{source.dataset.path}, {split}: {error}") from error


def build_model(config, sample_rate, steps):
    """Build and compile the model of a run.

    Args:
        config: `PretrainConfig`.
        sample_rate: Of the clips, in Hz.
        steps: Integer, steps of an epoch.

    Returns:
        A compiled `ContrastiveModel`.

    Raises:
        UserError: Model or augmentations cannot be as configured.
    """
    from keras_tune.augment import clmr_chain
    from keras_tune.models import TUNe
    from keras_tune.training import ContrastiveModel

    chosen = dataclasses.asdict(config.model)
    overrides = {key: value for key, value in chosen.items() if value is not None}
    try:
        encoder = TUNe.from_preset(
            overrides.pop("preset"), load_weights=False, sample_rate=sample_rate, **overrides
        )
        chain = clmr_chain(sample_rate, config.seed, **dataclasses.asdict(config.augment))
        model = ContrastiveModel(
            encoder,
            projection_dim=config.projection_dim,
            temperature=config.temperature,
            projection_layers=config.projection_layers,
            projection_batch_norm=config.projection_batch_norm,
            variance_weight=config.variance_weight,
            covariance_weight=config.covariance_weight,
            acoustic_weight=config.acoustic_weight,
            group_weight=config.group_weight,
            augmenter=chain,
            separate_views=config.separate_views,
            micro_batch=config.micro_batch,
            seed=config.seed,
        )
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"--model, --augment: {error}") from error
    jit_compile = "auto" if config.jit_compile is None else config.jit_compile
    model.compile(
        _optimizer(config, steps),
        jit_compile=jit_compile,
        steps_per_execution=config.steps_per_execution,
    )
    return model


def peak_learning_rate(config):
    """The learning rate after the warm-up, in proportion to the batch where asked for."""
    if config.base_learning_rate is None:
        return config.learning_rate
    return config.base_learning_rate * config.batch_size / 256


def _optimizer(config, steps):
    import keras

    from keras_tune.training import LARS, AdamW

    average = {} if config.ema is None else {"use_ema": True, "ema_momentum": config.ema}
    rate = peak_learning_rate(config)
    warmup = round(config.warmup_epochs * steps)
    if warmup or config.schedule == "cosine":
        rate = keras.optimizers.schedules.CosineDecay(
            0.0 if warmup else rate,
            decay_steps=max(1, config.epochs * steps - warmup),
            # The rate to end with, as a share of the highest.
            alpha=0.0 if config.schedule == "cosine" else 1.0,
            warmup_target=rate if warmup else None,
            warmup_steps=warmup,
        )
    if config.optimizer == "lars":
        return LARS(rate, weight_decay=config.weight_decay, **average)
    if config.optimizer == "adamw":
        return AdamW(rate, weight_decay=config.weight_decay, **average)
    return keras.optimizers.Adam(rate, **average)


def load_checkpoint(path, jit_compile=None, compiled=True):
    """Load the model of a checkpoint, with its optimizer.

    Args:
        path: The `.keras` file.
        jit_compile: Whether to compile with XLA; None for what is fast on the backend of today.
            Defaults to None.
        compiled: Whether the model comes compiled and with its optimizer. Defaults to True.
    """
    from keras_tune.models.saved import load_saved_model
    from keras_tune.training import load_to_continue

    try:
        if not compiled:
            return load_saved_model(path)
        return load_to_continue(path, "auto" if jit_compile is None else jit_compile)
    except UserError as error:
        raise UserError(f"{error}; delete it to begin anew") from error


def save_encoder(model, path, batches=None):
    """Save the encoder on its own, computing in float32 whatever it was trained in.

    Where the optimizer keeps a moving average of the weights, the encoder gets that.

    Args:
        model: `ContrastiveModel`.
        path: The file.
        batches: Iterable of float arrays (batch, samples, 1), on which batch normalization is
            estimated anew. Defaults to None: the averages of training.

    Returns:
        The encoder as saved.
    """
    from keras_tune.models import TUNe, estimate_batch_norm
    from keras_tune.models.saved import save_model

    encoder = TUNe.from_config({**model.encoder.get_config(), "dtype": "float32"})
    with _averaged(model):
        encoder.set_weights(model.encoder.get_weights())
    if batches is not None:
        estimate_batch_norm(encoder, batches)
    save_model(encoder, path)
    return encoder


@contextlib.contextmanager
def _averaged(model):
    """Put the moving averages in the place of the weights, if the optimizer has them."""
    optimizer = getattr(model, "optimizer", None)
    if not getattr(optimizer, "use_ema", False):
        yield
        return
    variables = model.trainable_variables
    before = [variable.numpy() for variable in variables]
    # Keras' optimizers put their averages into the variables, but do not give them away.
    optimizer.finalize_variable_values(variables)
    yield
    for variable, value in zip(variables, before, strict=True):
        variable.assign(value)


def clean_batches(source, config):
    """Random windows of train, not augmented, in batches: float arrays (batch, samples, 1)."""
    source = dataclasses.replace(source, resident=None)
    size = min(32, source.dataset.info.counts["train"])
    count = max(1, config.batch_norm_clips // size)
    options = {**_train_options(config), "batch_size": size, "steps_per_epoch": count}
    for batch in _clips(source, "train", None, **options):
        yield _to_float(batch["audio"])[:, 0, :, None]


def monitors(streams, clips=256):
    """The callbacks that watch the representation on the first clips of valid."""
    import numpy as np

    from keras_tune.training import RepresentationMonitor

    if streams.valid is None:
        return []
    batches, found = [], 0
    for batch in streams.valid:
        if found >= clips:
            break
        # What fills up the last batch is not looked at.
        batches.append(_to_float(batch["audio"])[np.asarray(batch["weight"]) > 0])
        found += len(batches[-1])
    return [RepresentationMonitor(batches)]


def _to_float(batch):
    import numpy as np

    from keras_tune.data.audio import to_float

    return to_float(np.asarray(batch))


def online_probe(dataset, label, option, clips=None, **options):
    """Make the callback that probes the encoder during training.

    Args:
        dataset: `keras_tune.data.AudioDataset`.
        label: Label to probe.
        option: What the command line calls the label's option, for errors.
        clips: The first so many labelled clips of train and of valid. Defaults to all.
        **options: Arguments of `OnlineProbe`.

    Returns:
        `OnlineProbe`.

    Raises:
        UserError: There is no such label, or no clip that has it.
    """
    import itertools

    from keras_tune.training import OnlineProbe

    parts = []
    for split in ("train", "valid"):
        labelled = (
            (record["audio"], record["labels"][label])
            for record in dataset.records(split)
            if _label_of(record, label, option, dataset.path) is not None
        )
        labelled = list(itertools.islice(labelled, clips))
        parts.append(tuple(zip(*labelled, strict=True)) if labelled else ((), ()))
    try:
        return OnlineProbe(*parts, **options)
    except ValueError as error:
        raise UserError(f"--{option} {label}: {error}") from error


def _label_of(record, label, option, data):
    if label not in record["labels"]:
        known = ", ".join(record["labels"]) or "none"
        raise UserError(f"--{option} {label}: no such label in {data}; there are: {known}")
    return record["labels"][label]


def prepare_determinism():
    """Set what the frameworks read when they are imported; see `make_deterministic`."""
    flag = "--xla_gpu_deterministic_ops=true"
    if flag not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def make_deterministic():
    """Choose algorithms that give the same bits every time, whatever the order of threads."""
    import keras

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()
    elif keras.backend.backend() == "torch":
        import torch

        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False


class _Stop:
    """Whether a signal has asked the process to stop; `status` is what it should end with."""

    def __init__(self):
        self.status = None

    def __call__(self):
        return self.status is not None


@contextlib.contextmanager
def noting_stop():
    """Yield a function that says whether SIGTERM or SIGINT (Ctrl-C) has come.

    They end nothing within the block; a second one ends the process as ever. The function's
    `status` is what a process that was stopped by the signal ends with.
    """
    stop = _Stop()

    def note(number, _):
        if stop():
            sys.exit(128 + number)
        stop.status = 128 + number

    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(number, note) for number in numbers]
    try:
        yield stop
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def claim(output, config, free):
    """Find out where a run begins, after a look at what its output folder holds.

    Args:
        output: The folder, a path.
        config: The configuration, a dataclass with `resume`.
        free: Names of what may differ between a run and its continuation.

    Returns:
        `keras_tune.training.Progress`.

    Raises:
        UserError: There is a run in the folder that is not to be resumed, or another one.
    """
    from keras_tune.recipes._folder import read_config
    from keras_tune.training import Progress

    checkpoint = output / "model.keras"
    if not config.resume:
        if checkpoint.exists() or (output / "history.csv").exists():
            raise UserError(
                f"--output {output}: holds a run already; go on with it by --resume true, or give "
                "another folder"
            )
        return Progress(0)
    if not checkpoint.exists():
        # Killed before the end of its first epoch: nothing to go on from.
        (output / "history.csv").unlink(missing_ok=True)
        return Progress(0)
    now = dataclasses.asdict(config)
    before = _with_defaults(read_config(output), _defaults(config))
    for key, value in now.items():
        if key not in free and before[key] != value:
            raise UserError(
                f"--resume true: {key} was {before[key]} in {output}, and is {value} now; "
                f"give --config {output / 'config.yaml'}"
            )
    progress = Progress.read(checkpoint)
    _drop_later_rows(output / "history.csv", progress.finished_epochs)
    return progress


def _defaults(config):
    """The defaults of a configuration's keys, as a nested dict; None for those without."""
    defaults = {}
    for field in dataclasses.fields(config):
        value = None if field.default is dataclasses.MISSING else field.default
        if field.default_factory is not dataclasses.MISSING:
            value = field.default_factory()
        defaults[field.name] = (
            dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value
        )
    return defaults


def _with_defaults(content, defaults):
    """Fill what a configuration does not say, since it is older than the key."""
    filled = {**defaults, **content}
    for key, value in defaults.items():
        if isinstance(value, dict):
            filled[key] = _with_defaults(filled[key], value)
    return filled


def _drop_later_rows(path, epochs):
    """Drop the rows of the history that are later than the checkpoint."""
    import pandas as pd

    from keras_tune.files import write_text

    # Empty before the end of the first epoch.
    if path.exists() and path.stat().st_size:
        history = pd.read_csv(path)
        write_text(path, history[history["epoch"] < epochs].to_csv(index=False))
