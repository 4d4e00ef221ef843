"""The base class of all waveform augmentations, and how it draws and applies."""

import functools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_tune.layers.common import ConfiguredLayer
from keras_tune.types import Interval, Shape, Tensor, TensorLike


class Augmentation(ConfiguredLayer):
    """Base class of the waveform augmentations: a random transform of each example.

    A subclass defines which parameters it draws (`draw_parameters`) and how it applies them
    (`transform`). This class decides for each example, with the given probability, whether it is
    transformed, and returns its input unchanged when `training=False`. Computations are in float32
    whatever the global dtype policy is. Arguments of a subclass are saved with the layer
    (`get_config`) if they are attributes of the same names.

    Drawing and applying are separate, so that a draw can be inspected or set by hand:
    `layer(x, training=True)` is `layer.apply(x, layer.draw(batch, samples))`.

    Args:
        probability: Float, the probability that an example is transformed. Defaults to 1.
        seed: Integer, the seed of the draws, or None for a random one. Defaults to None.
        **kwargs: Arguments of `keras.layers.Layer`. `dtype` defaults to "float32".

    Input shape: (batch, samples), waveforms, full scale is [-1, 1].
    Output shape: the same, float32.

    Raises:
        ValueError: If `probability` is not between 0 and 1.

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

    # Whether `transform` is so slow that on a CPU it should run on active examples only.
    costly = False

    def __init__(self, probability: float = 1.0, seed: int | None = None, **kwargs: Any):
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

    def draw_parameters(self, batch: int, samples: int) -> dict[str, Any]:
        """Draw the transform's parameters: a dict of tensors whose first axis is `batch`."""
        raise NotImplementedError

    def transform(self, waveforms: Tensor, parameters: dict[str, Any]) -> Tensor:
        """Transform every waveform with its own parameters: (batch, samples) to the same shape."""
        raise NotImplementedError

    def uniform(self, shape: Shape, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Draw float32 numbers, uniform in [low, high), from the layer's own generator."""
        return keras.random.uniform(shape, low, high, dtype="float32", seed=self.seed_generator)

    def draw(self, batch: int, samples: int) -> dict[str, Any]:
        """Draw which examples of a batch are transformed, and with which parameters.

        Args:
            batch: Integer, the number of waveforms.
            samples: Integer, the length of each.

        Returns:
            A dict of tensors with first axis `batch`, for `apply`: `active` (bool, the examples to
            transform) and the parameters of the transform.
        """
        active = self.uniform((batch,)) < self.probability
        return {"active": active, **self.draw_parameters(batch, samples)}

    def apply(self, waveforms: TensorLike, parameters: dict[str, Any]) -> Tensor:
        """Apply a draw; the result depends on the arguments alone.

        Args:
            waveforms: Tensor (batch, samples), float32.
            parameters: The dict that `draw` returned, or one with the same keys.

        Returns:
            Float32 tensor (batch, samples). Examples whose `active` is false are unchanged.
        """
        if self.costly:
            return map_active(self.transform, waveforms, parameters, parameters["active"])
        transformed = self.transform(waveforms, parameters)
        return ops.where(parameters["active"][:, None], transformed, waveforms)

    def call(self, waveforms: Tensor, training: bool = False) -> Tensor:
        if not training or self.probability == 0.0:
            return waveforms
        batch, samples = ops.shape(waveforms)
        return self.apply(waveforms, self.draw(batch, samples))

    def reseed(self, seed: int) -> None:
        """Set the state of the random generator as a function of an integer.

        After `reseed(n)` the layer draws what a new layer with `seed=n` would draw. Call it between
        training steps, for example with the number of the epoch, so that a resumed run draws what
        an uninterrupted one would have drawn.

        Args:
            seed: Integer, not negative.
        """
        state = self.seed_generator.state
        state.assign(np.array([derive_seed(seed), 0], dtype=state.dtype))

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape


def check_range(allowed: Interval, **limits: float) -> None:
    """Raise a `ValueError` unless two limits, such as `min_cents` and `max_cents`, are ordered.

    Both must also be in the interval `allowed`.
    """
    (lowest, low), (highest, high) = limits.items()
    if not low <= high or low not in allowed or high not in allowed:
        rule = f"must not exceed `{highest}`, and both must be finite numbers {allowed}".rstrip()
        raise ValueError(f"`{lowest}` {rule}. Received: {lowest}={low}, {highest}={high}")


def map_active(
    function: Callable[[Tensor, Any], Tensor],
    waveforms: TensorLike,
    parameters: Any,
    active: Tensor,
    chunk_size: int = 8,
) -> Tensor:
    """Apply a slow function to the active examples of a batch, and leave the others unchanged.

    On a CPU the active examples are processed in chunks of a fixed size: inactive examples cost
    nothing, and a chunk stays in the caches. On an accelerator, which is fastest on large batches,
    all examples are processed at once.

    Args:
        function: Takes waveforms and parameters and returns waveforms of the same shape. It must
            treat every example independently of the others.
        waveforms: Tensor (batch, samples), float32.
        parameters: A nested structure of tensors whose first axis is the batch.
        active: Bool tensor (batch,).
        chunk_size: Integer, the examples of a chunk. Use fewer where an example takes more memory.
            PyTorch uses four times as many. Defaults to 8.
    """
    if not works_in_chunks():
        return ops.where(active[:, None], function(waveforms, parameters), waveforms)
    if keras.backend.backend() == "torch":
        # Without a compiler each operation has a fixed cost, so larger chunks are faster.
        chunk_size *= 4
    batch = ops.shape(waveforms)[0]
    order = ops.cast(ops.argsort(ops.cast(ops.logical_not(active), "int32")), "int32")
    count = ops.sum(ops.cast(active, "int32"))

    def step(done, result):
        # The last chunk is filled up with other examples; the inactive ones keep their values.
        rows = ops.take(order, (done + ops.arange(chunk_size, dtype="int32")) % batch, axis=0)
        chosen = ops.take(waveforms, rows, axis=0)
        chosen_parameters = keras.tree.map_structure(
            lambda tensor: ops.take(tensor, rows, axis=0), parameters
        )
        changed = function(chosen, chosen_parameters)
        changed = ops.where(ops.take(active, rows, axis=0)[:, None], changed, chosen)
        return done + chunk_size, ops.scatter_update(result, rows[:, None], changed)

    done = ops.zeros((), dtype="int32")
    return ops.while_loop(lambda done, result: done < count, step, (done, waveforms))[1]


@functools.cache
def works_in_chunks() -> bool:
    """Whether `map_active` processes chunks of active examples, as it does on a CPU."""
    if keras.backend.backend() == "torch":
        return ops.zeros(()).device.type == "cpu"
    return all(name.startswith("cpu") for name in keras.distribution.list_devices())


def derive_seed(seed: int, *path: int) -> int:
    """Derive a 31-bit seed from integers that are not negative, such as the position of a layer.

    On the PyTorch backend Keras adds a generator's seed to its call counter, so generators with
    neighbouring seeds would draw the same numbers a few calls apart. Hashed seeds do not.
    """
    state = np.random.SeedSequence((int(seed), *path)).generate_state(1, np.uint32)
    return int(state[0] >> 1)
