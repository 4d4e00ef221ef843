"""Published PyTorch checkpoints, in and out."""

import keras  # noqa: F401  First, so that the hook that registers the classes runs before them.

from keras_tune.interop.pytorch_checkpoint import (
    export_pytorch_checkpoint,
    load_pytorch_checkpoint,
)

__all__ = ["export_pytorch_checkpoint", "load_pytorch_checkpoint"]
