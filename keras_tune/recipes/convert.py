"""Convert a published PyTorch checkpoint to a Keras file, or a Keras file to a checkpoint.

CLMR's and TUNe's checkpoints (.ckpt, .pt, .safetensors) become an encoder, with --projector true a
contrastive model to train on, with --head a tagger. With a .keras file as the --checkpoint and a
.ckpt, .pt or .safetensors as the --output it goes the other way.
"""

import dataclasses
from typing import Literal

from keras_tune.recipes._cli import run
from keras_tune.recipes._folder import writes
from keras_tune.types import Samples


@dataclasses.dataclass
class Config:
    """Options of a conversion.

    Args:
        checkpoint: The file to convert.
        output: The file to write.
        preset: The variant that the checkpoint must fit. Defaults to what its shapes say.
        head: Second checkpoint with the head of a linear evaluation; the output is a tagger.
        labels: Text file with the names of the head's outputs, one a line.
        projector: Whether to keep the projection head; the output is a contrastive model.
        input_samples: Length of the waveform in samples; null for any length.
        backend: Keras backend. Defaults to KERAS_BACKEND, else the first one installed.
    """

    checkpoint: str
    output: str
    preset: str | None = None
    head: str | None = None
    labels: str | None = None
    projector: bool = False
    input_samples: Samples | None = 59049
    backend: Literal["tensorflow", "jax", "torch"] | None = None


@writes("file")
def main(config):
    """Convert a file and print what it holds.

    Args:
        config: `Config`.

    Raises:
        UserError: A file cannot be read or written, or options do not go together.
    """
    from keras_tune.errors import UserError

    to_keras = config.output.endswith(".keras")
    from_keras = config.checkpoint.endswith(".keras")
    if to_keras == from_keras:
        raise UserError(
            f"--checkpoint {config.checkpoint} --output {config.output}: one of them must be "
            "a .keras file and the other a PyTorch checkpoint"
        )
    if config.projector and config.head:
        raise UserError("--projector true --head: take one of them; a tagger has no projector")
    if config.labels and not config.head:
        raise UserError("--labels: names the outputs of a head; give --head as well")
    if from_keras:
        from keras_tune.models.saved import load_saved_model

        model = load_saved_model(config.checkpoint)
    else:
        model = _load_checkpoint(config)
    if to_keras:
        from keras_tune.models.saved import save_model

        save_model(model, config.output)
    else:
        from keras_tune.interop import export_pytorch_checkpoint

        try:
            export_pytorch_checkpoint(model, config.output)
        except ValueError as error:
            raise UserError(f"{config.checkpoint}: {error}") from None
    encoder = getattr(model, "encoder", model)
    print(
        f"{config.output}: {type(model).__name__}, encoder {encoder.name}, "
        f"{model.count_params():,} weights"
    )


def _load_checkpoint(config):
    import pathlib

    from keras_tune.errors import UserError
    from keras_tune.interop import load_pytorch_checkpoint

    options = {}
    if config.labels:
        try:
            options["labels"] = pathlib.Path(config.labels).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError):
            raise UserError(f"--labels {config.labels}: not a readable text file") from None
    try:
        return load_pytorch_checkpoint(
            config.checkpoint,
            preset=config.preset,
            head=config.head,
            projector=config.projector,
            input_samples=config.input_samples,
            **options,
        )
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"--input_samples {config.input_samples}: {error}") from None


def cli(argv=None):
    """Parse a list of strings, by default the command line's, and run `main`."""
    run(main, Config, argv)


if __name__ == "__main__":
    cli()
