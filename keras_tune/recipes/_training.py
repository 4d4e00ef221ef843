"""What the recipes that train by contrast share: batches, model, optimizer, checkpoints."""

import contextlib
import dataclasses
import os
import pathlib
import signal
import sys

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
        path: Folder of shards or `.npz` file.
        info: Its `DatasetInfo`, without the shards that are left out.
        leave_out: Names of the shards that are left out.
        resident: `ResidentClips` of the split train, which `open_streams` loads where it is
            asked to.
    """

    path: str
    info: object
    leave_out: tuple = ()
    resident: object = None


def open_source(data, on_corrupt="raise"):
    """Look at a run's data.

    Args:
        data: Folder of shards or `.npz` file.
        on_corrupt: "raise" takes the shards for whole until the reader finds out, "skip" reads them
            all once and leaves out, with a line on standard error, those that are damaged. Defaults
            to "raise".

    Returns:
        `Source`.

    Raises:
        UserError: There is no such data, no split train, or nothing but damage.
    """
    from keras_tune.data import find_damaged_shards, load_info

    leave_out = ()
    if on_corrupt == "skip" and pathlib.Path(data).suffix != ".npz":
        damaged = find_damaged_shards(data)
        for file, reason in damaged:
            print(f"{file}: {reason}; the shard is left out", file=sys.stderr)
        leave_out = tuple(pathlib.Path(file).name for file, _ in damaged)
    info = load_info(data, leave_out)
    if not info.counts.get("train"):
        raise UserError(f"{data}: has no clips in the split train" + " left" * bool(leave_out))
    return Source(str(data), info, leave_out)


@dataclasses.dataclass
class Streams:
    """The batches of a run, and how many there are.

    Attributes:
        train: Pairs of crops, shuffled.
        valid: Pairs of crops in the order of the files, or None.
        steps_per_epoch: Batches of an epoch of `train`.
        train_clips: Clips in the split train.
        valid_batch_size: Clips in a batch of `valid`, or None.
    """

    train: object
    valid: object
    steps_per_epoch: int
    train_clips: int
    valid_batch_size: int | None

    @property
    def chance(self):
        """Contrastive accuracy on valid of a guess among all candidates."""
        return None if self.valid is None else 1 / (2 * self.valid_batch_size - 1)


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
    from keras_tune.training.distribution import Devices

    if config.resident and source.resident is None:
        from keras_tune.data import ResidentClips

        source.resident = ResidentClips.load(
            source.path, "train", config.model.input_samples, source.leave_out
        )
    devices = devices or Devices()
    counts = source.info.counts
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
    batches = train.num_batches if hasattr(train, "num_batches") else int(train.cardinality())
    valid = None
    valid_batch_size = min(config.batch_size, counts.get("valid", 0))
    # Every device must get as many.
    valid_batch_size -= valid_batch_size % devices.replicas
    if valid_batch_size > 1:
        valid = _clips(
            source,
            "valid",
            devices,
            clip_samples=config.model.input_samples,
            crops=2,
            batch_size=valid_batch_size,
            shuffle=False,
        )
    return Streams(
        train=devices.feed(train),
        valid=devices.feed(valid),
        steps_per_epoch=(batches + initial_step) // (epochs - initial_epoch),
        train_clips=counts["train"],
        valid_batch_size=valid_batch_size if valid is not None else None,
    )


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
    if source.resident is not None:
        ids = source.resident.ids
        return [ids[row] for row in _clips(source, "train", devices, **options).rows(0)]
    if pathlib.Path(source.path).suffix == ".npz":
        from keras_tune.data import load_arrays

        arrays = load_arrays(source.path)
        ids = arrays.ids[arrays.split == "train"]
        return [str(name) for name in ids[_clips(source, "train", devices, **options).rows(0)]]
    (_, ids), *_ = _clips(source, "train", devices, **options, ids=True).take(1)
    return [name.decode() for name in ids.numpy()]


def _train_options(config):
    return {
        "clip_samples": config.model.input_samples,
        "crops": 2,
        "batch_size": config.batch_size,
        "seed": config.seed,
        "steps_per_epoch": config.steps_per_epoch,
    }


def _clips(source, split, devices, **options):
    """The batches of a split, or what this process has to read of them."""
    several = devices is not None and devices.processes > 1
    if split == "train" and source.resident is not None:
        # It cuts what it was loaded for.
        del options["clip_samples"]
        return _opened(source, split, source.resident.stream, **options)
    if pathlib.Path(source.path).suffix != ".npz":
        from keras_tune.data import read_clips

        if several:
            # An epoch must have as many steps for everybody, whatever lies in whose shards.
            steps = source.info.counts[split] // options["batch_size"]
            options["steps_per_epoch"] = options.get("steps_per_epoch") or max(1, steps)
            options["batch_size"] = devices.local_batch(options["batch_size"])
            options["part"] = devices.part
        return read_clips(source.path, split, leave_out=source.leave_out, **options)
    from keras_tune.data import array_clips, load_arrays

    if several:
        options["part"] = devices.part
    audio, _ = load_arrays(source.path).of_split(split)
    return _opened(source, split, array_clips, audio, **options)


def _opened(source, split, function, *arguments, **options):
    """Open a stream whose constructor says what is wrong with the clips."""
    try:
        return function(*arguments, **options)
    except ValueError as error:
        raise UserError(f"{source.path}, {split}: {error}") from error


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
        encoder = TUNe.from_preset(overrides.pop("preset"), sample_rate=sample_rate, **overrides)
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


def load_checkpoint(path):
    """Load the model of a checkpoint, with its optimizer."""
    from keras_tune.models.saved import load_saved_model

    try:
        return load_saved_model(path, compile=True)
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
    from keras_tune.training.contrastive_model import audio_of

    source = dataclasses.replace(source, resident=None)
    size = min(32, source.info.counts["train"])
    count = max(1, config.batch_norm_clips // size)
    options = {**_train_options(config), "batch_size": size, "steps_per_epoch": count}
    stream = _clips(source, "train", None, **options)
    for batch in _iterate(stream):
        yield _to_float(audio_of(batch))[:, 0, :, None]


def _iterate(stream):
    """The batches of a stream of either kind."""
    if hasattr(stream, "num_batches"):
        return (stream[place] for place in range(stream.num_batches))
    return iter(stream)


def monitors(streams, clips=256):
    """The callbacks that watch the representation on the first clips of valid."""
    import itertools

    from keras_tune.training import RepresentationMonitor
    from keras_tune.training.contrastive_model import audio_of

    if streams.valid is None:
        return []
    count = max(1, clips // streams.valid_batch_size)
    some = itertools.islice(_iterate(streams.valid), count)
    batches = [_to_float(audio_of(batch)) for batch in some]
    return [RepresentationMonitor(batches)]


def _to_float(batch):
    import numpy as np

    from keras_tune.data.audio import to_float

    return to_float(np.asarray(batch))


def online_probe(data, label, option, clips=None, leave_out=(), **options):
    """Make the callback that probes the encoder during training.

    Args:
        data: Folder of shards or `.npz` file.
        label: Label to probe.
        option: What the command line calls the label's option, for errors.
        clips: The first so many labelled clips of train and of valid. Defaults to all.
        leave_out: Names of shards that are not read. Defaults to none.
        **options: Arguments of `OnlineProbe`.

    Returns:
        `OnlineProbe`.

    Raises:
        UserError: There is no such label, or no clip that has it.
    """
    import itertools

    from keras_tune.data import read_records
    from keras_tune.training import OnlineProbe

    parts = []
    for split in ("train", "valid"):
        labelled = (
            (record["audio"], record["labels"][label])
            for record in read_records(data, split, leave_out)
            if _label_of(record, label, option, data) is not None
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


@contextlib.contextmanager
def noting_sigterm():
    """Yield a function that says whether SIGTERM has come, which ends nothing within the block.

    A second one ends the process as ever.
    """
    came = []

    def note(*_):
        if came:
            sys.exit(143)
        came.append(True)

    before = signal.signal(signal.SIGTERM, note)
    try:
        yield lambda: bool(came)
    finally:
        signal.signal(signal.SIGTERM, before)
