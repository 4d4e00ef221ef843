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
    """Write the layer's nodes, from waveforms (batch, 1, samples) at its level to its features.

    `graph` is that of `keras_tune.serving.onnx_export`; `source` and what is returned are names.
    """
    count = 1 + (samples - FFT_LENGTH) // HOP
    bands, groups = layer.num_mels, layer.num_mels // GROUP
    power = _power(graph, _frames(graph, source, count), count)
    padding = ((0, N1 * K2 - FFT_LENGTH // 2 - 1), (0, 0))
    mels = graph.floats(np.pad(layer.mel_weights, padding))
    mel = _log(graph, graph.node("MatMul", power, mels), FLOOR)
    mean, deviation = graph.moments(mel, 1)

    pitches = graph.floats(np.pad(layer.pitch_class_weights, padding))
    classes = graph.node("MatMul", graph.mean(power, 1), pitches)
    chroma = _centred(graph, _log(graph, classes, FLOOR))

    later = graph.slice(mel, 1, count, 1)
    rises = graph.node("Relu", graph.node("Sub", later, graph.slice(mel, 0, count - 1, 1)))
    onsets = graph.moments(graph.mean(rises, 2), 1, keep=True)

    shape = graph.integers([-1, count, groups, GROUP])
    grouped = graph.mean(graph.node("Reshape", mel, shape), 3)
    grouped = _centred(graph, graph.node("Transpose", grouped, perm=[0, 2, 1]))
    parts = graph.node("MatMul", grouped, graph.floats(layer.modulation_waves))
    power = graph.node("MatMul", graph.square(parts), graph.floats(layer.modulation_bands))
    power = _log(graph, power, MODULATION_FLOOR)
    width = layer.width - 2 * bands - 14
    modulation = graph.node("Reshape", power, graph.integers([-1, width]))
    return graph.node("Concat", mean, deviation, chroma, *onsets, modulation, axis=1)


def _frames(graph, source, count):
    """Windowed frames: (batch, count, FFT_LENGTH)."""
    overlap = FFT_LENGTH // HOP
    hops = count + overlap - 1
    used = graph.slice(source, 0, hops * HOP, 2)
    rows = graph.node("Reshape", used, graph.integers([-1, hops, HOP]))
    shifted = [graph.slice(rows, first, first + count, 1) for first in range(overlap)]
    frames = graph.node("Concat", *shifted, axis=2)
    # The periodic Hann window of Keras' Fourier transform.
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(FFT_LENGTH) / FFT_LENGTH)
    return graph.node("Mul", frames, graph.floats(window))


def _power(graph, frames, count):
    """Power spectra, of which bins beyond the last one repeat others: (batch, count, bins)."""
    matrix = graph.node("Reshape", frames, graph.integers([-1, N1, N2]))
    angles = 2 * np.pi / N1 * np.outer(np.arange(N1), np.arange(N1))
    # Real and imaginary part of one k1 after the other.
    first = np.stack([np.cos(angles), -np.sin(angles)], axis=1).reshape(2 * N1, N1)
    columns = graph.node("MatMul", graph.floats(first), matrix)
    columns = graph.node("Reshape", columns, graph.integers([-1, N1, 2 * N2]))
    columns = graph.node("Transpose", columns, perm=[1, 0, 2])
    spectra = graph.square(graph.node("MatMul", columns, _second_matrix(graph)))
    halves = [graph.slice(spectra, k, k + K2, 2) for k in (0, K2)]
    power = graph.node("Transpose", graph.node("Add", *halves), perm=[1, 2, 0])
    return graph.node("Reshape", power, graph.integers([-1, count, N1 * K2]))


def _second_matrix(graph):
    """The transform over the rows for every k1: (N1, 2 · N2, 2 · K2).

    As numbers it would be a megabyte, so that the graph computes it once, when it is loaded.
    """
    bins = np.arange(N1)[:, None] + N1 * np.arange(K2)
    rows = graph.integers(np.arange(N2)[:, None])
    turns = graph.node("Mul", rows, graph.integers(bins[:, None, :]))
    turns = graph.node("Mod", turns, graph.integers([FFT_LENGTH]))
    turns = graph.node("Cast", turns, to=int(graph.onnx.TensorProto.FLOAT))
    angles = graph.node("Mul", turns, graph.floats(2 * np.pi / FFT_LENGTH))
    cosine, sine = graph.node("Cos", angles), graph.node("Sin", angles)
    real = graph.node("Concat", cosine, sine, axis=1)
    imaginary = graph.node("Concat", graph.node("Neg", sine), cosine, axis=1)
    return graph.node("Concat", real, imaginary, axis=2)


def _log(graph, values, floor):
    return graph.node("Log", graph.node("Add", values, graph.floats(floor)))


def _centred(graph, values):
    """The values less their mean over the last axis."""
    return graph.node("Sub", values, graph.mean(values, -1, keep=True))
