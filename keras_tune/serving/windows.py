"""What every exported model has to know besides its weights."""

import dataclasses

from keras_tune.checks import check_encoder
from keras_tune.models.tagger import Tagger

# What an encoder of any length is given: 2.68 s at 22,050 Hz, the length of the publications.
DEFAULT_WINDOW = 59049
SAMPLE_RATE = 22050
# A request beyond this is a mistake, or an attack on the memory: 64 MiB, 12 minutes at 22,050 Hz.
MAX_BYTES = 2**26
MAX_SAMPLES = MAX_BYTES // 4
# Full scale is 1; beyond this float samples are someone's integers, and might overflow inside.
MAX_LEVEL = 100.0


@dataclasses.dataclass(frozen=True)
class Windows:
    """How clips are cut for a model, and what its outputs are called.

    Args:
        samples: Integer, the length of a window.
        dimensions: Integer, the size of an embedding.
        labels: Tuple of strings, the names of a tagger's outputs, or None for an encoder.
        activation: "sigmoid" or "softmax", what makes a tagger's logits scores.
        pooling: "embeddings" or "scores", what a tagger averages over windows.
        sample_rate: Integer, in Hz.
    """

    samples: int
    dimensions: int
    labels: tuple | None
    activation: str
    pooling: str
    sample_rate: int

    @classmethod
    def of(cls, model, window_samples=None, sample_rate=None):
        """Those of an encoder or a `Tagger`.

        Args:
            model: Keras model from (batch, samples, 1) to (batch, d).
            window_samples: Integer, for an encoder of any length. Defaults to the encoder's own
                length, and 59,049 for one of any length.
            sample_rate: Integer, in Hz. Defaults to the encoder's own, and 22,050 for one that does
                not tell.

        Returns:
            `Windows`.

        Raises:
            ValueError: The model is no encoder, has windows of another length, or is made for
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
            sample_rate or getattr(encoder, "sample_rate", None) or SAMPLE_RATE,
        )
