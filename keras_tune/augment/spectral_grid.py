"""Where spectra are taken: points on a circle a little wider than the unit circle."""

import functools
import math

import numpy as np
from keras import ops

from keras_tune.augment.complex_pairs import multiply


def choose_length(minimum):
    """Choose the length of a real FFT and a table that its spectrum fills exactly.

    Args:
        minimum: Smallest acceptable length.

    Returns:
        The smallest even length L of at least `minimum` which has no prime factors beyond 7 and
        whose L/2 + 1 points fill a table of (rows, columns) that is not too oblong, and the shape
        of that table.
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


class SpectralGrid:
    """Points z = r exp(2 pi i k / L), for k = 0 … L/2, at which waveforms are filtered.

    Waveforms of N samples are padded to L >= N + tail, so that a response which lasts `tail`
    samples does not wrap around. A recursive filter rings on for longer, and what it rings on for
    beyond L wraps when its transfer function is sampled at L points. So the circle is wider than
    the unit circle: the waveform is multiplied by r^-n and the result by r^n, which divides what
    wraps by r^L. The rounding errors of the FFT grow by r^n too, towards the end of the waveform.
    So the factor is 70 dB where a response `rings` for longer than the waveform (a reverberation),
    which leaves either error at one or two steps of 16-bit audio; else it is less, in proportion to
    the tail.

    The L/2 + 1 points are laid out on a table of `shape` (rows, columns), because the response of
    a delay is then the outer product of two short vectors.

    Args:
        samples: Number of samples N of the waveforms.
        tail: Number of samples for which the impulse response lasts; what exceeds N is ignored,
            because it falls beyond the end of the waveform.
        rings: Whether it goes on beyond the tail, hardly weaker. Defaults to False.

    Example:

    ```python
    grid = SpectralGrid(22050, tail=2205)
    (response,) = grid.delays(ops.array([[100, 200, 300, 400]]))
    delayed = grid.filter(waveforms, response)
    ```
    """

    max_attenuation = 3e3

    def __init__(self, samples, tail, rings=False):
        self.samples = samples
        self.length, self.shape = choose_length(samples + min(tail, samples))
        # Never quite the unit circle, on which z = -1 is a pole of the bilinear transform.
        share = 1.0 if rings else min(max(tail / samples, 0.01), 1.0)
        self.log_radius = share * math.log(self.max_attenuation) / self.length

    @functools.cached_property
    def points(self):
        """The points z themselves, a complex128 NumPy array of `shape`."""
        index = np.arange(math.prod(self.shape)).reshape(self.shape)
        return np.exp(self.log_radius + 2j * np.pi * index / self.length)

    def filter(self, waveforms, response):
        """Filter waveforms by the product with a response.

        Args:
            waveforms: (batch, samples), float32.
            response: A pair of tensors that broadcasts to (batch, *shape).

        Returns:
            (batch, samples), float32.
        """
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

    def delays(self, delays):
        """Give the responses z^-d of delays by whole samples.

        Args:
            delays: (lines, batch), int32: the delays of several delay lines; negative ones advance.

        Returns:
            A list of `lines` pairs of float32 tensors (batch, *shape).
        """
        # Phases are reduced modulo a turn in integers, so they are exact. Mapping over the lines
        # keeps XLA from evaluating the sines anew for every point of the table.
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
        steps = ops.arange(self.shape[0], dtype="int32")
        rows = self._unit(ops.mod(delays * self.shape[1], self.length) * steps)
        columns = self._unit(delays * ops.arange(self.shape[1], dtype="int32"))
        attenuation = ops.exp(ops.cast(delays, "float32") * -self.log_radius)
        return ops.stack(rows), ops.stack(columns) * attenuation

    def _unit(self, steps):
        angle = ops.cast(ops.mod(steps, self.length), "float32") * (-2.0 * math.pi / self.length)
        return ops.cos(angle), ops.sin(angle)
