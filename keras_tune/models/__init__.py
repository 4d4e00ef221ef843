"""The one parametric TUNe, its published presets, and CLMR's SampleCNN as its zero-depth case."""

import keras  # noqa: F401  First, so that the hook that registers the classes runs before them.

from keras_tune.models.estimation import (
    estimate_batch_norm,
    estimate_pca,
    fit_representation,
    with_pooled_stages,
)
from keras_tune.models.parameter_budget import count_parameters, largest_width, tail_widths
from keras_tune.models.presets import PRESETS, Preset
from keras_tune.models.stage_encoder import StageEncoder
from keras_tune.models.tagger import Tagger
from keras_tune.models.tune import TUNe

__all__ = [
    "PRESETS",
    "Preset",
    "StageEncoder",
    "TUNe",
    "Tagger",
    "count_parameters",
    "estimate_batch_norm",
    "estimate_pca",
    "fit_representation",
    "largest_width",
    "tail_widths",
    "with_pooled_stages",
]
