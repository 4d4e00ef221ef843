"""Convert a published PyTorch checkpoint to a Keras file, or a Keras file to a checkpoint.

A checkpoint of CLMR or TUNe (.ckpt, .pt, .safetensors) becomes an encoder, with --projector true a
contrastive model that can be trained further, with --head a tagger. For the other direction, give a
.keras file as --checkpoint and a .ckpt, .pt or .safetensors file as --output.
"""

import dataclasses
import functools
import pathlib
from typing import Literal

from keras_tune.errors import UserError
from keras_tune.recipes._cli import run
from keras_tune.recipes._folder import writes
from keras_tune.recipes._options import names_options
from keras_tune.types import DEFAULT_WINDOW, Samples


@dataclasses.dataclass
class ConvertConfig:
    """Options of a conversion.

    Args:
        checkpoint: The file to convert.
        output: The file to write.
        preset: The variant that the checkpoint must have. By default it is inferred from the
            shapes.
        head: Second checkpoint with the head of a linear evaluation; the output is a tagger.
        labels: Text file with the names of the outputs of the head, one on each line; or
            magnatagatune for its 50 most frequent tags, in the order of the published heads.
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
    input_samples: Samples | None = DEFAULT_WINDOW
    backend: Literal["tensorflow", "jax", "torch"] | None = None


@names_options()
@writes("file")
def main(config):
    """Run the command line; see `ConvertConfig`."""
    to_keras = config.output.endswith(".keras")
    if to_keras == config.checkpoint.endswith(".keras"):
        raise UserError(
            f"--checkpoint {config.checkpoint} --output {config.output}: one of them must be "
            "a .keras file and the other a PyTorch checkpoint"
        )
    if config.projector and config.head:
        raise UserError("--projector true --head: use only one of them; a tagger has no projector")
    if config.labels and not config.head:
        raise UserError("--labels: requires --head, whose outputs it names")
    from keras_tune.interop import export_pytorch_checkpoint
    from keras_tune.models.saved import load_saved_model, save_model

    if to_keras:
        model = _load_checkpoint(config)
        save_model(model, config.output)
    else:
        model = load_saved_model(config.checkpoint)
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
    from keras_tune.interop import load_pytorch_checkpoint

    options = {}
    if config.labels:
        file = pathlib.Path(config.labels)
        if config.labels == "magnatagatune" and not file.is_file():
            from keras_tune.data.datasets import magnatagatune

            file = pathlib.Path(magnatagatune.__file__).with_name("magnatagatune_tags.txt")
        try:
            options["labels"] = file.read_text(encoding="utf-8-sig").rstrip().splitlines()
        except (OSError, UnicodeDecodeError):
            raise UserError(f"--labels {config.labels}: not a readable text file") from None
    return load_pytorch_checkpoint(
        config.checkpoint,
        preset=config.preset,
        head=config.head,
        projector=config.projector,
        input_samples=config.input_samples,
        **options,
    )


cli = functools.partial(run, main, ConvertConfig)

if __name__ == "__main__":
    cli()
