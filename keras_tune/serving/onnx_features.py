"""`AcousticFeatures` in an ONNX graph.

ONNX has a Fourier transform, which ONNX Runtime computes slowly. Here the 2,048 samples of a frame
are a matrix of 32 rows and 64 columns, and their transform is two matrix products: one over the
columns, and one over the rows, with the factors between them in its matrix. That takes a tenth of
the multiplications of the plain product with cosines and sines.

Source: Cooley & Tukey, "An Algorithm for the Machine Calculation of Complex Fourier Series"
(Mathematics of Computation, 1965).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_tune.layers.acoustic_features import (
    FFT_LENGTH,
    FLOOR,
    GROUP,
    HOP,
    MODULATION_FLOOR,
    AcousticFeatures,
)

# Sample 64 n1 + n2 of a frame and bin k1 + 32 k2 of its spectrum; with these k2 there are all 1,025
# bins that differ, and 31 that repeat others.
N1, N2, K2 = 32, 64, 33


def acoustic_features_nodes(graph: Any, layer: AcousticFeatures, source: str, samples: int) -> str:
    """Write the layer's nodes.

    Args:
        graph: The graph of `keras_tune.serving.onnx_export`.
        layer: The layer.
        source: String, the name of waveforms (batch, 1, samples) at the layer's level.
        samples: Integer, their length.

    Returns:
        String, the name of the features (batch, width).
    """
    return _Writer(graph, layer).features(source, samples)


class _Writer:
    def __init__(self, graph, layer):
        self.graph, self.layer = graph, layer
        self.node = graph.node

    def features(self, source, samples):
        count = 1 + (samples - FFT_LENGTH) // HOP
        bands, groups = self.layer.num_mels, self.layer.num_mels // GROUP
        power = self._power(self._frames(source, count), count)
        padding = ((0, N1 * K2 - FFT_LENGTH // 2 - 1), (0, 0))
        mels = self._floats(np.pad(self.layer._mels, padding))
        mel = self._log(self.node("MatMul", power, mels), FLOOR)
        mean, deviation = self._moments(mel, 1)

        pitches = self._floats(np.pad(self.layer._pitch_classes, padding))
        classes = self.node("MatMul", self._mean(power, 1), pitches)
        chroma = self._centred(self._log(classes, FLOOR))

        later = self._cut(mel, 1, count)
        rises = self.node("Relu", self.node("Sub", later, self._cut(mel, 0, count - 1)))
        onsets = self._moments(self._mean(rises, 2), 1, keep=True)

        shape = self.graph.integers([-1, count, groups, GROUP])
        grouped = self._mean(self.node("Reshape", mel, shape), 3)
        grouped = self._centred(self.node("Transpose", grouped, perm=[0, 2, 1]))
        parts = self.node("MatMul", grouped, self._floats(self.layer._waves))
        power = self.node("MatMul", self._square(parts), self._floats(self.layer._rates))
        power = self._log(power, MODULATION_FLOOR)
        width = self.layer.width - 2 * bands - 14
        modulation = self.node("Reshape", power, self.graph.integers([-1, width]))
        return self.node("Concat", mean, deviation, chroma, *onsets, modulation, axis=1)

    def _frames(self, source, count):
        """Windowed frames: (batch, count, FFT_LENGTH)."""
        overlap = FFT_LENGTH // HOP
        hops = count + overlap - 1
        used = self.node("Slice", source, *map(self.graph.integers, ([0], [hops * HOP], [2])))
        rows = self.node("Reshape", used, self.graph.integers([-1, hops, HOP]))
        shifted = [self._cut(rows, first, first + count) for first in range(overlap)]
        frames = self.node("Concat", *shifted, axis=2)
        # The periodic Hann window of Keras' Fourier transform.
        window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(FFT_LENGTH) / FFT_LENGTH)
        return self.node("Mul", frames, self._floats(window))

    def _power(self, frames, count):
        """Power spectra, of which bins beyond the last one repeat others: (batch, count, bins)."""
        matrix = self.node("Reshape", frames, self.graph.integers([-1, N1, N2]))
        angles = 2 * np.pi / N1 * np.outer(np.arange(N1), np.arange(N1))
        # Real and imaginary part of one k1 after the other.
        first = np.stack([np.cos(angles), -np.sin(angles)], axis=1).reshape(2 * N1, N1)
        columns = self.node("MatMul", self._floats(first), matrix)
        columns = self.node("Reshape", columns, self.graph.integers([-1, N1, 2 * N2]))
        columns = self.node("Transpose", columns, perm=[1, 0, 2])
        spectra = self._square(self.node("MatMul", columns, self._second_matrix()))
        halves = [self._part(spectra, k, k + K2) for k in (0, K2)]
        power = self.node("Transpose", self.node("Add", *halves), perm=[1, 2, 0])
        return self.node("Reshape", power, self.graph.integers([-1, count, N1 * K2]))

    def _second_matrix(self):
        """The transform over the rows for every k1: (N1, 2 · N2, 2 · K2).

        As numbers it would be a megabyte, so that the graph computes it once, when it is loaded.
        """
        bins = np.arange(N1)[:, None] + N1 * np.arange(K2)
        rows = self.graph.integers(np.arange(N2)[:, None])
        turns = self.node("Mul", rows, self.graph.integers(bins[:, None, :]))
        turns = self.node("Mod", turns, self.graph.integers([FFT_LENGTH]))
        turns = self.node("Cast", turns, to=int(self.graph.onnx.TensorProto.FLOAT))
        angles = self.node("Mul", turns, self._floats(2 * np.pi / FFT_LENGTH))
        cosine, sine = self.node("Cos", angles), self.node("Sin", angles)
        real = self.node("Concat", cosine, sine, axis=1)
        imaginary = self.node("Concat", self.node("Neg", sine), cosine, axis=1)
        return self.node("Concat", real, imaginary, axis=2)

    def _floats(self, values):
        return self.graph.weight(np.asarray(values, "float32"))

    def _cut(self, values, start, end):
        return self.node("Slice", values, *map(self.graph.integers, ([start], [end], [1])))

    def _part(self, values, start, end):
        return self.node("Slice", values, *map(self.graph.integers, ([start], [end], [2])))

    def _mean(self, values, axis, keep=False):
        return self.node("ReduceMean", values, axes=[axis], keepdims=int(keep))

    def _square(self, values):
        return self.node("Mul", values, values)

    def _log(self, values, floor):
        return self.node("Log", self.node("Add", values, self._floats(floor)))

    def _centred(self, values):
        """The values less their mean over the last axis."""
        return self.node("Sub", values, self._mean(values, -1, keep=True))

    def _moments(self, values, axis, keep=False):
        """Mean and standard deviation along an axis."""
        mean = self._mean(values, axis, keep=True)
        variance = self._mean(self._square(self.node("Sub", values, mean)), axis, keep)
        if not keep:
            mean = self.node("Squeeze", mean, self.graph.integers([axis]))
        return mean, self.node("Sqrt", variance)
