"""A phase vocoder that stretches each waveform of a batch by its own ratio.

The spectrum of an output frame has the magnitude of the input between two neighbouring frames,
and its phase advances from frame to frame as the input's does between those two. The advance is
the unit complex number conj(a) b / |a b| of the two frames' bins, so phases are accumulated as a
product of complex numbers, without sines. Then each bin takes the phase of the sum of itself and
its two neighbours (with alternating signs, because the window begins at the frame's first sample),
so that the bins of one partial stay in phase.

Source: M. Dolson, The phase vocoder: a tutorial (1986); D. Ellis, A phase vocoder in Matlab
(2002); M. Puckette, Phase-locked vocoder (1995).
"""

import math

import numpy as np
from keras import ops

from keras_tune.augment.spectral import multiply
from keras_tune.types import Tensor

# Three is the smallest number for which the squares of Hann windows add up to a constant.
OVERLAP = 3
TINY = 1e-20


def check_frame_length(frame_length: int) -> None:
    """Raise ValueError unless frames of this length divide into hops and have a middle."""
    if frame_length < 18 or frame_length % (2 * OVERLAP):
        raise ValueError(
            f"`frame_length` must be a multiple of {2 * OVERLAP} and at least 18. "
            f"Received: frame_length={frame_length}"
        )


class PhaseVocoder:
    """Stretch waveforms in time, each by its own ratio, keeping their pitch.

    `samples` is their length, `frame_length` a multiple of 6, and `output_samples` the length of
    what `stretch` returns.
    """

    def __init__(self, samples: int, frame_length: int, output_samples: int):
        self.samples = samples
        self.frame_length = frame_length
        self.output_samples = output_samples
        self.hop = frame_length // OVERLAP
        # The last two input frames are entirely after the end of the waveform.
        self.input_frames = -(-samples // self.hop) - (-OVERLAP // 2) + 2
        # With a silent frame before the first, as many frames overlap at the beginning as later.
        frames = -(-output_samples // self.hop) - (-OVERLAP // 2) + 2
        self.block = math.ceil(math.sqrt(frames))
        self.blocks = -(-frames // self.block)
        angle = 2.0 * np.pi * np.arange(frame_length) / frame_length
        self.window = ops.convert_to_tensor(0.5 - 0.5 * np.cos(angle), dtype="float32")

    def stretch(self, waveforms: Tensor, ratios: Tensor, band_limited: bool = False) -> Tensor:
        """Stretch each waveform (batch, samples) to `ratio` times its duration.

        Waveforms have a peak of about 1 (or 0). The result (batch, output_samples) is the beginning
        of the stretched waveforms, followed by silence where they are shorter. With `band_limited`,
        frequencies above half the sample rate divided by `ratio` are removed, so that the result
        can be read `ratio` times as fast without aliasing.
        """
        spectra = self._analyse(waveforms)
        start = _unit((spectra[0][:, 0], spectra[1][:, 0]))
        magnitudes, advance = self._between_frames(spectra, ratios)
        if band_limited:
            bins = ops.arange(-1, self.frame_length // 2 + 2, dtype="float32")
            highest = (self.frame_length // 2) / ops.maximum(ratios, 1.0)
            magnitudes = magnitudes * ops.cast(bins < highest[:, None] + 0.5, "float32")
        return self._synthesise(magnitudes, multiply(self._accumulate(advance), start))

    def _analyse(self, waveforms):
        padding = self.frame_length // 2
        total = (self.input_frames + OVERLAP - 1) * self.hop
        padded = ops.pad(waveforms, ((0, 0), (padding, total - padding - self.samples)))
        hops = ops.reshape(padded, (-1, self.input_frames + OVERLAP - 1, self.hop))
        shifted = [hops[:, shift : shift + self.input_frames] for shift in range(OVERLAP)]
        spectra = ops.rfft(ops.concatenate(shifted, axis=-1) * self.window)
        # Silent bins at the ends, so that every bin has two neighbours.
        return tuple(ops.pad(part, ((0, 0), (0, 0), (1, 1))) for part in spectra)

    def _between_frames(self, spectra, ratios):
        """Compute each output frame's magnitudes and advance: (block, blocks, batch, bins)."""
        bins = self.frame_length // 2 + 3
        pairs = self.input_frames - 1
        magnitude = ops.sqrt(_power(spectra))
        before = tuple(part[:, :-1] for part in spectra)
        after = tuple(part[:, 1:] for part in spectra)
        advance = _unit(multiply(after, (before[0], -before[1])))
        first = ops.reshape(ops.concatenate([*advance, magnitude[:, :-1]], axis=-1), (-1, 3 * bins))
        second = ops.reshape(magnitude[:, 1:], (-1, bins))

        order = np.arange(self.blocks * self.block, dtype="float32") - 1.0
        order = order.reshape(self.blocks, self.block).T[:, :, None]
        heard = ops.convert_to_tensor(order >= 0.0)[..., None]
        position = ops.convert_to_tensor(np.maximum(order, 0.0)) / ratios
        frame = ops.minimum(ops.cast(position, "int32"), pairs - 1)
        fraction = ops.minimum(position - ops.cast(frame, "float32"), 1.0)[..., None]
        row = frame + ops.arange(ops.shape(ratios)[0], dtype="int32") * pairs
        first, second = ops.take(first, row, axis=0), ops.take(second, row, axis=0)
        magnitudes = first[..., 2 * bins :] * (1.0 - fraction) + second * fraction
        advance = ops.where(heard, first[..., :bins], 1.0), first[..., bins : 2 * bins]
        advance = advance[0], ops.where(heard, advance[1], 0.0)
        return ops.where(heard, magnitudes, 0.0), advance

    def _accumulate(self, advance):
        """The product of all advances before each frame: first within blocks, then over blocks."""

        def step(product, factor):
            return multiply(product, factor), product

        def products(factors):
            one = ops.ones_like(factors[0][0]), ops.zeros_like(factors[0][0])
            total, before = ops.scan(step, one, factors)
            shape = ops.shape(factors[0])
            return total, tuple(ops.reshape(part, shape) for part in before)

        totals, within = products(advance)
        totals = tuple(ops.reshape(part, ops.shape(advance[0])[1:]) for part in totals)
        _, before = products(totals)
        return multiply(within, before)

    def _synthesise(self, magnitudes, phases):
        spectra = (magnitudes * phases[0], magnitudes * phases[1])
        locked = tuple(part[..., 1:-1] - part[..., :-2] - part[..., 2:] for part in spectra)
        scale = magnitudes[..., 1:-1] * ops.rsqrt(ops.maximum(_power(locked), TINY))
        shape = (-1, self.blocks * self.block, self.frame_length // 2 + 1)
        locked = tuple(
            ops.reshape(ops.transpose(part * scale, (2, 1, 0, 3)), shape) for part in locked
        )
        frames = ops.irfft(locked, fft_length=self.frame_length)
        frames = ops.reshape(frames, (-1, self.blocks * self.block, OVERLAP, self.hop))
        # The squares of overlapping Hann windows add up to 3/8 of their number.
        window = ops.reshape(self.window / (OVERLAP * 3.0 / 8.0), (OVERLAP, self.hop))
        hops = self.blocks * self.block - OVERLAP + 1
        total = 0.0
        for part in range(OVERLAP):
            first = OVERLAP - 1 - part
            total = total + frames[:, first : first + hops, part] * window[part]
        # The silent frame begins a hop before the first, whose middle is the waveform's start.
        start = self.frame_length // 2 + self.hop - (OVERLAP - 1) * self.hop
        total = ops.reshape(total, (-1, hops * self.hop))
        return total[:, start : start + self.output_samples]


def _power(pair):
    return pair[0] * pair[0] + pair[1] * pair[1]


def _unit(pair):
    power = _power(pair)
    heard = power > TINY
    scale = ops.rsqrt(ops.maximum(power, TINY))
    return ops.where(heard, pair[0] * scale, 1.0), ops.where(heard, pair[1] * scale, 0.0)


def read_faster(waveforms: Tensor, ratios: Tensor, samples: int) -> Tensor:
    """Read each waveform at its own speed, by cubic Lagrange interpolation.

    Sample n of the result (batch, samples) is the waveform at time n * ratio. Waveforms are longer
    than `ratio * samples` by at least three samples, and taken to be silent before the first.
    """
    # A float32 product of ratio and n would be wrong by up to a hundredth of a sample. So the ratio
    # is split into 64ths, whose multiples are exact in integers, and a small rest.
    sixty_fourths = ops.cast(ops.round(ratios * 64.0), "int32")
    rest = ratios - ops.cast(sixty_fourths, "float32") / 64.0
    index = np.arange(samples, dtype="int32")[None]
    product = sixty_fourths[:, None] * ops.convert_to_tensor(index)
    position = ops.cast(product % 64, "float32") / 64.0
    position = position + rest[:, None] * ops.convert_to_tensor(index.astype("float32"))
    whole = ops.floor(position)
    t = position - whole
    # One silent sample is added before the first, so that position 0 has a left neighbour.
    padded = ops.pad(waveforms, ((0, 0), (1, 0)))
    left = product // 64 + ops.cast(whole, "int32")
    a, b, c, d = (ops.take_along_axis(padded, left + shift, axis=1) for shift in range(4))
    return (t - 1.0) * (t - 2.0) * ((t + 1.0) * b / 2.0 - t * a / 6.0) + (t + 1.0) * t * (
        (t - 1.0) * d / 6.0 - (t - 2.0) * c / 2.0
    )
