"""The base class of all waveform augmentations."""

import keras
import numpy as np
from keras import ops

from keras_tune.augment.active_rows import map_active
from keras_tune.augment.seeds import derive_seed


class Augmentation(keras.layers.Layer):
    """Base class of the waveform augmentations: a random transform with a coin for every example.

    A subclass says what it draws (`draw_parameters`) and what it does with a draw (`transform`).
    This class draws the coins, keeps the examples whose coin did not fall, and is the identity
    when `training=False`. Work is done in float32 whatever the global dtype policy is.

    Drawing and applying are separate, so that a draw can be looked at, or be given by hand:
    `layer(x, training=True)` is `layer.apply(x, layer.draw(batch, samples))`.

    Args:
        probability: Probability that an example is transformed. Default 1.
        seed: Integer seed of the draws; None takes a random one.
        **kwargs: Arguments of `keras.layers.Layer`. `dtype` is float32 unless given.

    Input shape: (batch, samples), waveforms, full scale is [-1, 1].
    Output shape: as the input, float32.

    Example:

    ```python
    class Mute(keras_tune.augment.Augmentation):
        def draw_parameters(self, batch, samples):
            return {"level": self.uniform((batch,), 0.0, 0.5)}

        def transform(self, waveforms, parameters):
            return waveforms * parameters["level"][:, None]


    views = Mute(probability=0.5, seed=1)(keras.random.normal((4, 2205)), training=True)
    ```
    """

    # Whether `transform` costs so much that on a CPU it should run for active examples only.
    costly = False

    def __init__(self, probability=1.0, seed=None, **kwargs):
        kwargs.setdefault("dtype", "float32")
        super().__init__(**kwargs)
        if not 0.0 <= probability <= 1.0:
            raise ValueError(
                f"`probability` must be between 0 and 1. Received: probability={probability}"
            )
        self.probability = probability
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(
            None if seed is None else derive_seed(seed)
        )

    def draw_parameters(self, batch, samples):
        """Draw the transform's parameters: a dict of tensors whose first axis is `batch`."""
        raise NotImplementedError

    def transform(self, waveforms, parameters):
        """Transform every waveform by its own parameters: (batch, samples) to the same."""
        raise NotImplementedError

    def uniform(self, shape, low=0.0, high=1.0):
        """Draw float32 numbers, uniform in [low, high), from the layer's own generator."""
        return keras.random.uniform(shape, low, high, dtype="float32", seed=self.seed_generator)

    def draw(self, batch, samples):
        """Draw coins and parameters for a batch.

        Args:
            batch: Number of waveforms.
            samples: Length of each.

        Returns:
            A dict of tensors with first axis `batch`: `active` (bool, the coins) and what the
            transform needs, for `apply`.
        """
        active = self.uniform((batch,)) < self.probability
        return {"active": active, **self.draw_parameters(batch, samples)}

    def apply(self, waveforms, parameters):
        """Apply a draw: a pure function of its arguments.

        Args:
            waveforms: (batch, samples), float32.
            parameters: What `draw` gave, or a dict of the same keys filled by hand.

        Returns:
            (batch, samples), float32; examples whose `active` is false are as they were.
        """
        if self.costly:
            return map_active(self.transform, waveforms, parameters, parameters["active"])
        transformed = self.transform(waveforms, parameters)
        return ops.where(parameters["active"][:, None], transformed, waveforms)

    def call(self, waveforms, training=False):
        if not training or self.probability == 0.0:
            return waveforms
        batch, samples = ops.shape(waveforms)
        return self.apply(waveforms, self.draw(batch, samples))

    def reseed(self, seed):
        """Set the state of the random generator as a function of an integer.

        After `reseed(n)` the draws are those of a new layer with `seed=n`. Call it between
        training steps, for example with the epoch's number, so that a resumed run draws what an
        uninterrupted one would have drawn.

        Args:
            seed: A non-negative integer.
        """
        state = self.seed_generator.state
        state.assign(np.array([derive_seed(seed), 0], dtype=state.dtype))

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "probability": self.probability, "seed": self.seed}
