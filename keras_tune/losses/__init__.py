"""Contrastive losses."""

import keras  # noqa: F401  First, so that the hook that registers the classes runs before them.

from keras_tune.losses.nt_xent import NTXent, nt_xent, nt_xent_logits
from keras_tune.losses.supervised_contrastive import supervised_contrastive
from keras_tune.losses.vicreg import covariance_loss, variance_loss

__all__ = [
    "NTXent",
    "covariance_loss",
    "nt_xent",
    "nt_xent_logits",
    "supervised_contrastive",
    "variance_loss",
]
