"""What an exported model must know besides its weights."""

from __future__ import annotations

import dataclasses

import keras

from keras_tune.checks import check_encoder, sample_rate_of
from keras_tune.models.tagger import Tagger
from keras_tune.types import DEFAULT_WINDOW

# A longer request is a mistake, or an attack on the memory: 64 MiB, 12 minutes at 22,050 Hz.
MAX_BYTES = 2**26
MAX_SAMPLES = MAX_BYTES // 4
# Full scale is 1; larger samples are unscaled integers, and may overflow in the encoder.
MAX_LEVEL = 100.0


@dataclasses.dataclass(frozen=True)
class Windows:
    """How clips are cut into windows for a model, and the names of its outputs.

    Args:
        samples: Integer, the length of a window.
        dimensions: Integer, the size of an embedding.
        labels: Tuple of strings, the names of a tagger's outputs, or None for an encoder.
        activation: "sigmoid", "softmax" or "linear", which turns a tagger's logits into scores.
        pooling: "embeddings" or "scores", what a tagger averages over windows.
        sample_rate: Integer, in Hz.
    """

    samples: int
    dimensions: int
    labels: tuple[str, ...] | None
    activation: str
    pooling: str
    sample_rate: int

    @property
    def label_names(self) -> tuple[str, ...]:
        """The labels of a tagger, and none of an encoder."""
        return self.labels or ()

    @classmethod
    def of(
        cls,
        model: keras.Model,
        window_samples: int | None = None,
        sample_rate: int | None = None,
    ) -> Windows:
        """The windows of an encoder or a `Tagger`: its own, or as the arguments say.

        Raises:
            ValueError: The model is not an encoder, has windows of another length, or is made for
                another sample rate.
        """
        tagger = isinstance(model, Tagger)
        encoder = model.encoder if tagger else model
        check_encoder("`model`", encoder, sample_rate)
        own = encoder.input_shape[1]
        shortest = own or getattr(encoder, "min_samples", 1)
        samples = window_samples or own or DEFAULT_WINDOW
        if samples < shortest or own not in (None, samples):
            raise ValueError(
                f"`window_samples` must be {'' if own else 'at least '}{shortest} for this model. "
                f"Received: window_samples={window_samples}"
            )
        labels = None
        if tagger:
            labels = tuple(model.labels or map(str, range(model.num_labels)))
        return cls(
            samples,
            encoder.output_shape[1],
            labels,
            model.activation if tagger else "sigmoid",
            model.pooling if tagger else "embeddings",
            sample_rate or sample_rate_of(encoder),
        )
