"""Augmentations that multiply the spectrum, and the points at which spectra are computed.

Spectra are pairs (real, imaginary) of float32 tensors, as `keras.ops.rfft` returns them.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops

from keras_tune.augment.augmentation import Augmentation, map_active
from keras_tune.types import Tensor, TensorLike

Pair = tuple[Any, Any]


def to_pair(values: np.ndarray) -> Pair:
    """Turn an array of complex numbers into a pair (real, imaginary) of float32 tensors."""
    real, imaginary = (
        ops.convert_to_tensor(x, dtype="float32") for x in (values.real, values.imag)
    )
    return real, imaginary


def multiply(a: Pair, b: Pair) -> Pair:
    """Multiply two complex numbers, given as pairs (real, imaginary)."""
    return a[0] * b[0] - a[1] * b[1], a[0] * b[1] + a[1] * b[0]


def divide(a: Pair, b: Pair) -> Pair:
    """Divide one complex number by another that is not zero."""
    scale = 1.0 / (b[0] * b[0] + b[1] * b[1])
    return (a[0] * b[0] + a[1] * b[1]) * scale, (a[1] * b[0] - a[0] * b[1]) * scale


class LinearAugmentation(Augmentation):
    """Base class of the augmentations that have a transfer function.

    A subclass returns the transfer function in closed form (`response`) and declares how long its
    impulse response lasts (`tail`, `rings`). Neighbouring linear layers in a `Compose` are applied
    together, with one real FFT, one product of all responses and one inverse FFT. The waveform
    keeps its length: what a filter adds after its end is cut off, and nothing wraps around to its
    beginning.

    Args:
        probability: Float, the probability that an example is transformed. Defaults to 1.
        seed: Integer, the seed of the draws, or None for a random one. Defaults to None.
        **kwargs: Arguments of `keras.layers.Layer`.

    Input shape: (batch, samples), waveforms, full scale is [-1, 1].
    Output shape: the same, float32.

    Example:

    ```python
    class Flip(keras_tune.augment.LinearAugmentation):
        def draw_parameters(self, batch, samples):
            return {}

        def response(self, parameters, grid):
            return -1.0, 0.0


    flipped = Flip()(np.random.normal(0, 0.1, (4, 2205)), training=True)
    ```
    """

    # Whether the response continues after its tail, at nearly the same level.
    rings = False

    def tail(self, samples: int) -> int:
        """The number of samples for which the impulse response lasts, at most `samples`.

        0 means that the layer has no memory: its response is one real factor.
        """
        return 0

    def response(self, parameters: dict[str, Any], grid: "SpectralGrid | None") -> Pair:
        """Compute the transfer function of every example.

        Args:
            parameters: The dict that `draw` returned.
            grid: The `SpectralGrid` at whose points to compute it; None for a layer without memory.

        Returns:
            A pair (real, imaginary) that broadcasts to (batch, *grid.shape).
        """
        raise NotImplementedError

    def apply(self, waveforms: TensorLike, parameters: dict[str, Any]) -> Tensor:
        return apply_responses([self], waveforms, [parameters])


def apply_responses(
    layers: Sequence[LinearAugmentation],
    waveforms: TensorLike,
    parameters: Sequence[dict[str, Any]],
) -> Tensor:
    """Apply linear layers, with a draw of each, in one pass through the spectrum."""
    samples = waveforms.shape[1]
    tail = sum(layer.tail(samples) for layer in layers)
    rings = any(layer.rings for layer in layers)
    grid = cached_grid(samples, tail, rings) if tail else None

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


class SpectralGrid:
    """Points z = r exp(2 pi i k / L), for k = 0 … L/2, at which waveforms are filtered.

    Waveforms of N samples are padded to L >= N + tail, so that a response that lasts `tail` samples
    does not wrap around. A recursive filter lasts longer, and what remains of it beyond L wraps
    around when its transfer function is sampled at L points. So the circle is wider than the unit
    circle: the waveform is multiplied by r^-n and the result by r^n, which divides what wraps
    around by r^L. The rounding errors of the FFT grow by r^n too, towards the end of the waveform.
    So the factor r^L is 70 dB where a response `rings` for longer than the waveform (a
    reverberation), which keeps either error within one or two steps of 16-bit audio. Elsewhere it
    is smaller, in proportion to the tail.

    The L/2 + 1 points are arranged as a table of `shape` (rows, columns), because the response of
    a delay is then the outer product of two short vectors.

    Args:
        samples: Integer, the number of samples N of the waveforms.
        tail: Integer, the number of samples for which the impulse response lasts. What exceeds N is
            ignored, because it falls after the end of the waveform.
        rings: Whether it continues after the tail, at nearly the same level. Defaults to False.
    """

    max_attenuation = 3e3

    def __init__(self, samples: int, tail: int, rings: bool = False):
        self.samples = samples
        self.length, self.shape = choose_length(samples + min(tail, samples))
        # Never exactly the unit circle, where z = -1 is a pole of the bilinear transform.
        share = 1.0 if rings else min(max(tail / samples, 0.01), 1.0)
        self.log_radius = share * math.log(self.max_attenuation) / self.length

    @functools.cached_property
    def points(self) -> np.ndarray:
        """The points z themselves, a complex128 NumPy array of `shape`."""
        index = np.arange(math.prod(self.shape)).reshape(self.shape)
        return np.exp(self.log_radius + 2j * np.pi * index / self.length)

    def filter(self, waveforms: Tensor, response: Pair) -> Tensor:
        """Multiply the spectra of waveforms by a response that broadcasts to (batch, *shape)."""
        window = np.exp(-self.log_radius * np.arange(self.samples))
        window = ops.convert_to_tensor(window, dtype="float32")
        spectrum = tuple(
            ops.reshape(part, (-1, *self.shape))
            for part in ops.rfft(waveforms * window, fft_length=self.length)
        )
        product = tuple(
            ops.reshape(part, (-1, math.prod(self.shape))) for part in multiply(spectrum, response)
        )
        return ops.irfft(product, fft_length=self.length)[:, : self.samples] / window

    def delays(self, delays: Tensor) -> list[Pair]:
        """The responses z^-d of several delay lines, a list of pairs of tensors (batch, *shape).

        Delays are an int32 tensor (lines, batch) of whole samples; negative ones advance.
        """
        # Phases are reduced modulo a turn in integers, so they are exact. Mapping over the lines
        # keeps XLA from evaluating the sines again for every point of the table.
        rows, columns = ops.map(self._factors, delays)
        return [
            multiply(
                (rows[line, 0][:, :, None], rows[line, 1][:, :, None]),
                (columns[line, 0][:, None, :], columns[line, 1][:, None, :]),
            )
            for line in range(delays.shape[0])
        ]

    def _factors(self, delays):
        delays = delays[:, None]
        columns = self._turns(delays, np.arange(self.shape[1]))
        rows = self._turns(self._turns(delays, np.array([self.shape[1]])), np.arange(self.shape[0]))
        rows, columns = self._unit(rows), self._unit(columns)
        attenuation = ops.exp(ops.cast(delays, "float32") * -self.log_radius)
        return ops.stack(rows), ops.stack(columns) * attenuation

    def _turns(self, factors, constants):
        """The remainders of int32 `factors` (batch, 1) times constants (n,) modulo the length.

        Products of long waveforms exceed 31 bits, so the constants are split into digits that keep
        them below.
        """
        bits = 31 - self.length.bit_length()
        digits = -(-int(constants.max()).bit_length() // bits)
        factors = ops.mod(factors, self.length)
        remainder = ops.zeros_like(factors)
        for place in reversed(range(digits)):
            digit = ops.convert_to_tensor((constants >> place * bits) % 2**bits, dtype="int32")
            # Below the length each, which is less than half of the largest number.
            remainder = ops.mod(remainder * 2**bits, self.length)
            remainder = ops.mod(remainder + ops.mod(factors * digit, self.length), self.length)
        return remainder

    def _unit(self, steps):
        angle = ops.cast(steps, "float32") * (-2.0 * math.pi / self.length)
        return ops.cos(angle), ops.sin(angle)


# Without a compiler, the same grid and its points are used again for every batch.
cached_grid = functools.lru_cache(maxsize=8)(SpectralGrid)


def choose_length(minimum: int) -> tuple[int, tuple[int, int]]:
    """The length of a real FFT whose spectrum fills a table, and the shape of the table.

    It is the smallest even length L of at least `minimum` that has no prime factors beyond 7, and
    whose L/2 + 1 points fill a table of (rows, columns) that is not too oblong.
    """
    length = minimum + minimum % 2
    while True:
        shape = _table_shape(length // 2 + 1)
        if shape and _is_smooth(length):
            return length, shape
        length += 2


def _is_smooth(number):
    for factor in (2, 3, 5, 7):
        while number % factor == 0:
            number //= factor
    return number == 1


def _table_shape(points):
    for rows in range(math.isqrt(points), 0, -1):
        if points % rows == 0:
            return (rows, points // rows) if points <= 64 * rows**2 else None
