"""What every exported model has to know besides its weights."""

import dataclasses

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
            ValueError: The model is no encoder, or has windows of another length.
        """
        tagger = isinstance(model, Tagger)
        encoder = model.encoder if tagger else model
        shapes = encoder.input_shape, encoder.output_shape
        fits = all(isinstance(shape, tuple) for shape in shapes) and (
            len(shapes[0]) == 3 and shapes[0][2] == 1 and len(shapes[1]) == 2
        )
        if not fits:
            raise ValueError(
                "`model` must map (batch, samples, 1) to (batch, d). "
                f"Received: input_shape={shapes[0]}, output_shape={shapes[1]}"
            )
        own = shapes[0][1]
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
            shapes[1][1],
            labels,
            model.activation if tagger else "sigmoid",
            model.pooling if tagger else "embeddings",
            sample_rate or getattr(encoder, "sample_rate", SAMPLE_RATE),
        )
