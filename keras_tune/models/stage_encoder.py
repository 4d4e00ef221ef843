"""Stages of an encoder as a representation."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from keras_tune.errors import UserError
from keras_tune.layers.statistics_pooling import StatisticsPooling1D

LAYER_POOLINGS = {"mean": keras.layers.GlobalAveragePooling1D, "mean_std": StatisticsPooling1D}


def check_stages(encoder: keras.Model, stages: Sequence[str]) -> None:
    """Raise a `UserError` unless an encoder has all of the named stages."""
    known = getattr(encoder, "stage_names", ())
    for stage in stages:
        if stage not in known:
            raise UserError(
                f"the encoder has no stage {stage!r}; its stages: {', '.join(known) or 'none'}"
            )


@keras.saving.register_keras_serializable(package="keras_tune")
class StageEncoder(keras.Model):
    """An encoder whose representation is some of its stages, pooled over time and concatenated.

    Args:
        encoder: `TUNe`, or another functional Keras model with `stage_names` and `data_format`.
        stages: List of names of its stages.
        pooling: "mean", or "mean_std" for the mean and the standard deviation over time of each
            stage. Defaults to "mean".
        name: String. Defaults to "stage_encoder".

    Input shape: that of the encoder, (batch, samples, 1).
    Output shape: (batch, d), where d is the sum of the stages' widths, with "mean_std" twice that.

    Raises:
        ValueError: There is no such pooling, or there are no stages.
        UserError: The encoder has no such stage, or one is named twice.

    Example:

    ```python
    encoder = keras_tune.TUNe(1, 1, base_filters=2, tail_filters=[4], input_samples=2187)
    keras_tune.models.StageEncoder(encoder, ["expand_1", "tail_1"]).output_shape  # (None, 6)
    ```
    """

    def __init__(
        self,
        encoder: keras.Model,
        stages: Sequence[str],
        pooling: str = "mean",
        name: str = "stage_encoder",
    ):
        if pooling not in LAYER_POOLINGS or not stages:
            raise ValueError(
                f"`pooling` must be one of {', '.join(LAYER_POOLINGS)}, and `stages` names of "
                f"stages. Received: pooling={pooling}, stages={stages}"
            )
        if len(set(stages)) < len(stages):
            raise UserError(f"every stage can be named once only, not {', '.join(stages)}")
        check_stages(encoder, stages)
        layer = LAYER_POOLINGS[pooling]
        options = {"data_format": encoder.data_format, "dtype": "float32"}
        outputs = [
            layer(name=f"{stage}_{pooling}", **options)(encoder.get_layer(stage).output)
            for stage in stages
        ]
        if len(outputs) > 1:
            outputs = [keras.layers.Concatenate(dtype="float32", name="stages")(outputs)]
        super().__init__(inputs=encoder.input, outputs=outputs[0], name=name)
        self.stages, self.pooling = list(stages), pooling
        self.sample_rate = getattr(encoder, "sample_rate", None)
        self.level = getattr(encoder, "level", None)
        self.data_format = encoder.data_format
        # The encoder's layers are this model's own, so the encoder itself is not kept.
        self._encoder_config = json.dumps(keras.saving.serialize_keras_object(encoder))

    def get_config(self) -> dict[str, Any]:
        return {
            "encoder": json.loads(self._encoder_config),
            "stages": list(self.stages),
            "pooling": self.pooling,
            "name": self.name,
        }

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], custom_objects: Mapping[str, Any] | None = None
    ) -> StageEncoder:
        encoder = keras.saving.deserialize_keras_object(
            config["encoder"], custom_objects=custom_objects
        )
        return cls(**{**config, "encoder": encoder})
