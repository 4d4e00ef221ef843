"""Pretrain an encoder by contrast: two views of every clip, NT-Xent between their projections.

Without --data and --config, the demo recipe: a small encoder on a corpus that is synthesized on the
spot, and a probe of it. The output folder ends up with encoder.keras (the encoder alone),
model.keras (everything, to go on from), config.yaml, history.csv, report.json and TensorBoard
events. A run that was killed goes on with --resume.
"""

import dataclasses
import pathlib
import sys

from keras_tune.errors import UserError
from keras_tune.recipes._cli import run
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
    """

    preset: str = "tune_plus"
    decoder_depth: int | None = None
    contraction_depth: int | None = None
    base_filters: int | None = None
    tail_filters: list[int] | None = None
    extra_links: bool | None = None
    input_samples: int = 59049


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
        learning_rate: Of Adam.
        temperature: Of NT-Xent.
        projection_dim: Size of the projections.
        separate_views: Whether batch normalization sees first and second views apart.
        seed: Seed of weights, order, crops and augmentations.
        precision: float32, mixed_bfloat16 or mixed_float16.
        jit_compile: Whether to compile with XLA; by default what is fast on the backend.
        probe: Label to probe at the end, on the same data; by default none.
        resume: Whether to go on with the run in the output folder.
        backend: tensorflow, jax or torch; by default KERAS_BACKEND, or what is installed.
    """

    data: str | None = None
    output: str = "runs/pretrain"
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    augment: AugmentConfig = dataclasses.field(default_factory=AugmentConfig)
    epochs: int = 100
    steps_per_epoch: int | None = None
    batch_size: int = 48
    learning_rate: float = 3e-4
    temperature: float = 0.5
    projection_dim: int = 64
    separate_views: bool = False
    seed: int = 42
    precision: str = "float32"
    jit_compile: bool | None = None
    probe: str | None = None
    resume: bool = False
    backend: str | None = None


# What may differ between a run and its continuation.
FREE_ON_RESUME = ("epochs", "output", "resume", "backend", "jit_compile", "probe")


def main(config):
    """Run the command line; see `PretrainConfig`."""
    import time

    import keras

    from keras_tune.data import load_info
    from keras_tune.data.damage import naming_damaged_shards
    from keras_tune.recipes._folder import write_config, write_report

    _check(config)
    output = pathlib.Path(config.output)
    initial_epoch = _claim(output, config)
    data = config.data or _demo_corpus(output, config.seed)
    streams = _streams(data, config, initial_epoch)
    keras.utils.set_random_seed(config.seed)
    keras.config.set_dtype_policy(config.precision)
    if initial_epoch:
        model = _load(output / "model.keras")
    else:
        model = _build(config, load_info(data).sample_rate)
    write_config(output, config)
    trained = initial_epoch * streams.steps_per_epoch
    print(
        f"{config.model.preset}: {model.encoder.count_params():,} parameters; "
        f"{streams.train_clips} clips, {streams.steps_per_epoch} steps an epoch, "
        f"epochs {initial_epoch + 1} to {config.epochs}"
    )
    started = time.monotonic()
    with naming_damaged_shards(data):
        model.fit(
            streams.train,
            validation_data=streams.valid,
            epochs=config.epochs,
            initial_epoch=initial_epoch,
            steps_per_epoch=streams.steps_per_epoch,
            callbacks=_callbacks(output, config, initial_epoch),
            # The streams shuffle for themselves, in an order that the seed decides.
            shuffle=False,
            # A bar that redraws itself is for terminals; a log file gets a line an epoch.
            verbose=1 if sys.stdout.isatty() else 2,
        )
    seconds = time.monotonic() - started
    steps = config.epochs * streams.steps_per_epoch
    encoder = _save_encoder(model, output / "encoder.keras")
    report = {
        "steps": steps,
        "seconds": round(seconds, 1),
        "views_per_second": round(
            2 * config.batch_size * (steps - trained) / max(seconds, 1e-9), 1
        ),
        "parameters": model.encoder.count_params(),
        "final": _last_row(output / "history.csv"),
        "chance_contrastive_accuracy": streams.chance,
        "splits": load_info(data).fingerprints,
        "data": str(data),
    }
    if config.probe:
        from keras_tune.recipes.probe import probe_both, summary

        report["probe"] = probe_both(encoder, data, config.probe, progress=sys.stderr.isatty())
        print(summary(config.probe, report["probe"]))
    write_report(output, config, **report)
    print(f"encoder: {output / 'encoder.keras'}")


def _check(config):
    positive = ("epochs", "steps_per_epoch", "batch_size", "learning_rate", "temperature")
    for key in (*positive, "projection_dim"):
        value = getattr(config, key)
        if value is not None and value <= 0:
            raise UserError(f"--{key} {value}: must be positive")
    if config.batch_size < 2:
        raise UserError("--batch_size 1: contrast needs at least 2 clips")
    precisions = ("float32", "mixed_bfloat16", "mixed_float16")
    if config.precision not in precisions:
        raise UserError(f"--precision {config.precision}: take one of {', '.join(precisions)}")


def _claim(output, config):
    """The epoch to begin with, after a look at what the output folder holds."""
    from keras_tune.recipes._folder import read_config

    checkpoint = output / "model.keras"
    if not config.resume:
        if checkpoint.exists() or (output / "history.csv").exists():
            raise UserError(
                f"--output {output}: holds a run already; go on with it by --resume true, or give "
                "another folder"
            )
        output.mkdir(parents=True, exist_ok=True)
        return 0
    output.mkdir(parents=True, exist_ok=True)
    if not checkpoint.exists():
        # Killed before the end of its first epoch: nothing to go on from.
        (output / "history.csv").unlink(missing_ok=True)
        return 0
    before, now = read_config(output), dataclasses.asdict(config)
    for key, value in now.items():
        if key not in FREE_ON_RESUME and before.get(key) != value:
            raise UserError(
                f"--resume true: {key} was {before.get(key)} in {output}, and is {value} now; "
                f"give --config {output / 'config.yaml'}"
            )
    return _keep_finished_epochs(output)


def _keep_finished_epochs(output):
    """The number of epochs in the checkpoint; later rows of the history are dropped."""
    import pandas as pd

    from keras_tune.files import write_text
    from keras_tune.training import finished_epochs

    epochs = finished_epochs(output / "model.keras")
    history = pd.read_csv(output / "history.csv")
    write_text(output / "history.csv", history[history["epoch"] < epochs].to_csv(index=False))
    return epochs


def _demo_corpus(output, seed):
    """Synthesize the demo corpus into the run folder, unless it is there."""
    from keras_tune.data import save_demo

    path = output / "demo.npz"
    if not path.exists():
        save_demo(path, seed=seed)
    return path


@dataclasses.dataclass
class _Streams:
    """The batches of a run, and how many there are."""

    train: object
    valid: object
    steps_per_epoch: int
    train_clips: int
    valid_batch_size: int | None

    @property
    def chance(self):
        """Contrastive accuracy on valid of a guess among all candidates."""
        return None if self.valid is None else 1 / (2 * self.valid_batch_size - 1)


def _streams(data, config, initial_epoch):
    """Pairs of crops from shards or from arrays, and in the order of the files for validation."""
    from keras_tune.data import load_info

    if config.model.input_samples < 1:
        raise UserError(f"--model.input_samples {config.model.input_samples}: must be positive")
    counts = load_info(data).counts
    if not counts.get("train"):
        raise UserError(f"{data}: has no clips in the split train")
    crops = {"clip_samples": config.model.input_samples, "crops": 2}
    train = _clips(
        data,
        "train",
        **crops,
        batch_size=config.batch_size,
        seed=config.seed,
        steps_per_epoch=config.steps_per_epoch,
        initial_epoch=initial_epoch,
        epochs=max(config.epochs, initial_epoch + 1),
    )
    batches = train.num_batches if hasattr(train, "num_batches") else int(train.cardinality())
    valid = valid_batch_size = None
    if counts.get("valid", 0) > 1:
        valid_batch_size = min(config.batch_size, counts["valid"])
        valid = _clips(data, "valid", **crops, batch_size=valid_batch_size, shuffle=False)
    return _Streams(
        train=train,
        valid=valid,
        steps_per_epoch=batches // (max(config.epochs, initial_epoch + 1) - initial_epoch),
        train_clips=counts["train"],
        valid_batch_size=valid_batch_size,
    )


def _clips(data, split, **options):
    if pathlib.Path(data).suffix != ".npz":
        from keras_tune.data import read_clips

        return read_clips(data, split, **options)
    from keras_tune.data import array_clips, load_arrays

    audio, _ = load_arrays(data).of_split(split)
    try:
        return array_clips(audio, **options)
    except ValueError as error:
        raise UserError(f"{data}, {split}: {error}") from error


def _build(config, sample_rate):
    import keras

    from keras_tune.augment import clmr_chain
    from keras_tune.models import TUNe
    from keras_tune.training import ContrastiveModel

    chosen = dataclasses.asdict(config.model)
    overrides = {key: value for key, value in chosen.items() if value is not None}
    try:
        encoder = TUNe.from_preset(overrides.pop("preset"), **overrides)
        chain = clmr_chain(sample_rate, config.seed, **dataclasses.asdict(config.augment))
        model = ContrastiveModel(
            encoder,
            projection_dim=config.projection_dim,
            temperature=config.temperature,
            augmenter=chain,
            separate_views=config.separate_views,
            seed=config.seed,
        )
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"--model, --augment: {error}") from error
    jit_compile = "auto" if config.jit_compile is None else config.jit_compile
    model.compile(keras.optimizers.Adam(config.learning_rate), jit_compile=jit_compile)
    return model


def _load(path):
    """The model of a checkpoint, with its optimizer."""
    import keras

    try:
        return keras.models.load_model(path)
    except Exception as error:  # Keras raises whatever its parts raise on a damaged file.
        raise UserError(
            f"{path}: cannot be loaded ({type(error).__name__}); delete it to begin anew"
        ) from error


def _callbacks(output, config, initial_epoch):
    import importlib.util

    import keras

    from keras_tune.training import Checkpoint, EpochSeed

    callbacks = [
        EpochSeed(config.seed),
        keras.callbacks.CSVLogger(str(output / "history.csv"), append=initial_epoch > 0),
    ]
    if importlib.util.find_spec("tensorflow") and importlib.util.find_spec("tensorboard"):
        callbacks.append(
            keras.callbacks.TensorBoard(str(output / "tensorboard"), write_graph=False)
        )
    # Last, so that the history has at least the epochs that the checkpoint has.
    return [*callbacks, Checkpoint(output / "model.keras")]


def _save_encoder(model, path):
    """Save the encoder on its own, computing in float32 whatever it was trained in."""
    from keras_tune.files import atomic_path
    from keras_tune.models import TUNe

    encoder = TUNe.from_config({**model.encoder.get_config(), "dtype": "float32"})
    encoder.set_weights(model.encoder.get_weights())
    with atomic_path(path) as temporary:
        encoder.save(temporary)
    return encoder


def _last_row(path):
    import pandas as pd

    row = pd.read_csv(path).iloc[-1]
    return {key: float(value) for key, value in row.items()}


if __name__ == "__main__":
    run(main, PretrainConfig, demo=DEMO)
