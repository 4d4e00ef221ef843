"""Linear time-invariant augmentations, which share one pass through the spectrum."""

import functools

from keras import ops

from keras_tune.augment.active_rows import map_active
from keras_tune.augment.augmentation import Augmentation
from keras_tune.augment.complex_pairs import multiply
from keras_tune.augment.spectral_grid import SpectralGrid

# Where nothing is compiled, a grid and what is computed on it is needed again for every batch.
spectral_grid = functools.lru_cache(maxsize=8)(SpectralGrid)


class LinearAugmentation(Augmentation):
    """Base class of the augmentations that have a transfer function.

    A subclass gives the function in closed form (`response`) and says how long its impulse
    response lasts (`tail`, `rings`). Neighbouring linear layers in a `Chain` are applied together:
    one real FFT, one product of all responses and one inverse FFT. The waveform keeps its length;
    what rings on beyond its end is cut off, nothing wraps around to its beginning.

    Args:
        probability: Probability that an example is transformed. Default 1.
        seed: Integer seed of the draws.
        **kwargs: Arguments of `keras.layers.Layer`.

    Example:

    ```python
    class Flip(keras_tune.augment.LinearAugmentation):
        def draw_parameters(self, batch, samples):
            return {}

        def response(self, parameters, grid):
            return -1.0, 0.0
    ```
    """

    # Whether the response goes on beyond its tail, hardly weaker.
    rings = False

    def tail(self, samples):
        """Number of samples for which the impulse response lasts, at most `samples`.

        0 means that the layer has no memory: its response is one real factor.
        """
        return 0

    def response(self, parameters, grid):
        """Give the transfer function of every example.

        Args:
            parameters: A draw.
            grid: The `SpectralGrid` to take it on; None for a layer without memory.

        Returns:
            A pair (real, imaginary) that broadcasts to (batch, *grid.shape).
        """
        raise NotImplementedError

    def apply(self, waveforms, parameters):
        return apply_responses([self], waveforms, [parameters])


def apply_responses(layers, waveforms, parameters):
    """Apply linear layers in one pass.

    Args:
        layers: List of `LinearAugmentation`.
        waveforms: (batch, samples), float32.
        parameters: List of their draws, in the same order.

    Returns:
        (batch, samples), float32.
    """
    samples = waveforms.shape[1]
    tail = sum(layer.tail(samples) for layer in layers)
    rings = any(layer.rings for layer in layers)
    grid = spectral_grid(samples, tail, rings) if tail else None

    def transform(waveforms, parameters):
        product = (1.0, 0.0)
        for layer, draw in zip(layers, parameters, strict=True):
            active = draw["active"][:, None, None]
            real, imaginary = layer.response(draw, grid)
            response = ops.where(active, real, 1.0), ops.where(active, imaginary, 0.0)
            product = multiply(product, response)
        if grid is None:
            return waveforms * product[0][:, :, 0]
        return grid.filter(waveforms, product)

    if grid is None:
        return transform(waveforms, parameters)
    active = functools.reduce(ops.logical_or, [draw["active"] for draw in parameters])
    return map_active(transform, waveforms, parameters, active)
