import itertools

import keras

from keras_tune.augment.augmentation import Augmentation
from keras_tune.augment.linear_augmentation import LinearAugmentation, apply_responses
from keras_tune.augment.seeds import derive_seed
from keras_tune.layers.xla import compiled, worth_compiling


@keras.saving.register_keras_serializable(package="keras_tune")
class Chain(Augmentation):
    """Apply augmentations one after the other.

    Neighbouring linear layers (gain, polarity, filters, delay, reverb) are applied together: one
    real FFT, one product of their responses, one inverse FFT. The order of the list is kept, so
    the result is that of applying the layers one by one, up to what a filter rings on for after
    the waveform's end and rounding.

    Args:
        layers: List of `Augmentation` layers. Each one flips its own coins.
        probability: Probability that an example goes through the chain at all. Default 1.
        seed: Integer seed. If given, every layer in the chain is seeded from it and from the
            layer's position, whatever the layer's own seed was.
        **kwargs: Arguments of `keras.layers.Layer`.

    Example:

    ```python
    chain = Chain([PolarityInversion(0.8), Gain(probability=0.3)], seed=42)
    views = chain(waveforms, training=True)
    ```
    """

    def __init__(self, layers, probability=1.0, seed=None, **kwargs):
        super().__init__(probability=probability, seed=seed, **kwargs)
        for layer in layers:
            if not isinstance(layer, Augmentation):
                raise ValueError(f"`layers` must hold augmentations. Received: layers={layers}")
        self.layers = list(layers)
        self._compiled = None
        if seed is not None:
            self._reseed_layers(seed)

    def build(self, input_shape):
        for layer in self.layers:
            layer.build(input_shape)

    def apply(self, waveforms, parameters):
        if not worth_compiling(waveforms):
            return super().apply(waveforms, parameters)
        # What is drawn stays outside: XLA has random numbers of its own.
        if self._compiled is None:
            self._compiled = compiled(super().apply)
        return self._compiled(waveforms, parameters)

    def draw_parameters(self, batch, samples):
        return {name: layer.draw(batch, samples) for name, layer in self._steps()}

    def transform(self, waveforms, parameters):
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
        """Name the layers that can ever do something; the others must not cost anything."""
        return [
            (f"step_{index}", layer)
            for index, layer in enumerate(self.layers)
            if layer.probability > 0.0
        ]

    def reseed(self, seed):
        super().reseed(seed)
        self._reseed_layers(seed)

    def _reseed_layers(self, seed):
        for index, layer in enumerate(self.layers):
            layer.reseed(derive_seed(seed, index))

    def get_config(self):
        layers = [keras.saving.serialize_keras_object(layer) for layer in self.layers]
        return {**super().get_config(), "layers": layers}

    @classmethod
    def from_config(cls, config):
        layers = [keras.saving.deserialize_keras_object(layer) for layer in config["layers"]]
        return cls(**{**config, "layers": layers})
