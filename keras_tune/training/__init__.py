"""Contrastive pretraining with `model.fit`."""

import keras  # noqa: F401  First, so that the hook that registers the classes runs before them.

from keras_tune.training.adamw import AdamW
from keras_tune.training.callbacks import (
    Checkpoint,
    EpochSeed,
    KeepBest,
    NotFiniteError,
    StoppedError,
    finished_epochs,
)
from keras_tune.training.contrastive_model import ContrastiveModel
from keras_tune.training.lars import LARS
from keras_tune.training.online_probe import OnlineProbe
from keras_tune.training.progress import Progress, load_to_continue
from keras_tune.training.representation_monitor import (
    RepresentationMonitor,
    effective_rank,
    pretext_accuracy,
)

__all__ = [
    "AdamW",
    "LARS",
    "Checkpoint",
    "ContrastiveModel",
    "EpochSeed",
    "KeepBest",
    "NotFiniteError",
    "OnlineProbe",
    "Progress",
    "RepresentationMonitor",
    "StoppedError",
    "effective_rank",
    "finished_epochs",
    "load_to_continue",
    "pretext_accuracy",
]
