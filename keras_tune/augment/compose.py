"""Augmentations built from other augmentations."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import keras

from keras_tune.augment.augmentation import Augmentation, derive_seed
from keras_tune.augment.spectral import LinearAugmentation, apply_responses
from keras_tune.layers.tensorflow_fast_paths import compiled, worth_compiling
from keras_tune.types import Shape, Tensor, TensorLike


@keras.saving.register_keras_serializable(package="keras_tune")
class Compose(Augmentation):
    """Apply augmentations one after the other.

    Neighbouring linear layers (gain, polarity, filters, delay, reverb) are applied together, with
    one real FFT, one product of their responses and one inverse FFT. The order of the list is kept,
    so the result is that of applying the layers one by one, apart from rounding and from what a
    filter adds after the end of the waveform.

    Args:
        layers: List of `Augmentation` layers. Each decides by its own probability.
        probability: Float, the probability that the list is applied to an example. Defaults to 1.
        seed: Integer. If given, every layer in the list is seeded from it and from the position of
            the layer, whatever the layer's own seed was. Defaults to None.
        **kwargs: Arguments of `keras.layers.Layer`.

    Input shape: (batch, samples), waveforms, full scale is [-1, 1].
    Output shape: the same, float32.

    Raises:
        ValueError: If `layers` contains anything but augmentations.

    Example:

    ```python
    from keras_tune.augment import Compose, Gain, PolarityInversion

    augment = Compose([PolarityInversion(0.8), Gain(probability=0.3)], seed=42)
    views = augment(np.random.normal(0, 0.1, (8, 22050)), training=True)
    ```
    """

    def __init__(
        self,
        layers: Sequence[Augmentation],
        probability: float = 1.0,
        seed: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(probability=probability, seed=seed, **kwargs)
        for layer in layers:
            if not isinstance(layer, Augmentation):
                raise ValueError(f"`layers` must be augmentations. Received: layers={layers}")
        self.layers = list(layers)
        self._compiled: Callable | None = None
        if seed is not None:
            self.reseed(seed)

    def build(self, input_shape: Shape) -> None:
        for layer in self.layers:
            layer.build(input_shape)

    def apply(self, waveforms: TensorLike, parameters: dict[str, Any]) -> Tensor:
        if not worth_compiling(waveforms):
            return super().apply(waveforms, parameters)
        # Drawing is not compiled: XLA would draw other random numbers from the same seed.
        if self._compiled is None:
            self._compiled = compiled(super().apply)
        return self._compiled(waveforms, parameters)

    def draw_parameters(self, batch: int, samples: int) -> dict[str, Any]:
        return {name: layer.draw(batch, samples) for name, layer in self._steps()}

    def transform(self, waveforms: Tensor, parameters: dict[str, Any]) -> Tensor:
        for linear, steps in itertools.groupby(
            self._steps(), lambda step: isinstance(step[1], LinearAugmentation)
        ):
            names, layers = zip(*steps, strict=True)
            draws = [parameters[name] for name in names]
            if linear:
                waveforms = apply_responses(layers, waveforms, draws)
            else:
                for layer, draw in zip(layers, draws, strict=True):
                    waveforms = layer.apply(waveforms, draw)
        return waveforms

    def _steps(self):
        """Return names and layers, without those of probability 0, which must not cost anything."""
        return [
            (f"step_{index}", layer)
            for index, layer in enumerate(self.layers)
            if layer.probability > 0.0
        ]

    def reseed(self, seed: int) -> None:
        super().reseed(seed)
        for index, layer in enumerate(self.layers):
            layer.reseed(derive_seed(seed, index))

    def get_config(self) -> dict[str, Any]:
        layers = [keras.saving.serialize_keras_object(layer) for layer in self.layers]
        return {**super().get_config(), "layers": layers}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Compose":
        layers = [keras.saving.deserialize_keras_object(layer) for layer in config["layers"]]
        return cls(**{**config, "layers": layers})


# Earlier versions saved this class as `Chain`. A class has one registered name, under which it is
# saved, so the old one is added to the names that Keras finds when it loads.
keras.saving.get_custom_objects()["keras_tune>Chain"] = Compose


@keras.saving.register_keras_serializable(package="keras_tune")
class RandomApply(Compose):
    """Apply one augmentation, or several together, to each example with a given probability.

    Args:
        layers: An `Augmentation`, or a list of them that are applied together.
        probability: Float, the probability that an example is changed. Defaults to 0.5.
        seed: Integer, from which the inner layers are seeded too, or None. Defaults to None.
        **kwargs: Arguments of `keras.layers.Layer`.

    Input shape: (batch, samples), waveforms, full scale is [-1, 1].
    Output shape: the same, float32.

    Example:

    ```python
    from keras_tune.augment import Gain, PolarityInversion, RandomApply

    layer = RandomApply([PolarityInversion(), Gain()], probability=0.3, seed=1)
    views = layer(np.random.normal(0, 0.1, (8, 22050)), training=True)
    ```
    """

    def __init__(
        self,
        layers: Augmentation | Sequence[Augmentation],
        probability: float = 0.5,
        seed: int | None = None,
        **kwargs: Any,
    ):
        layers = [layers] if isinstance(layers, Augmentation) else layers
        super().__init__(layers, probability=probability, seed=seed, **kwargs)
