"""Contrastive losses."""

import keras  # noqa: F401  First, so that the hook that registers the classes runs before them.

from keras_tune.losses.nt_xent import NTXent, nt_xent, nt_xent_logits

__all__ = ["NTXent", "nt_xent", "nt_xent_logits"]
