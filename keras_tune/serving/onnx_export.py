"""ONNX files that take clips of any length.

The graph is written node by node from the folded model, which has few kinds of layers. The file is
therefore the same on every backend, and as large as the weights.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from keras_tune.checks import check_weights
from keras_tune.errors import UserError
from keras_tune.files import atomic_path
from keras_tune.layers.acoustic_features import AcousticFeatures
from keras_tune.layers.crop_to_multiple import CropToMultiple
from keras_tune.layers.level_normalization import FLOOR, LevelNormalization
from keras_tune.layers.statistics_pooling import EPSILON, StatisticsPooling1D
from keras_tune.models.tagger import Tagger
from keras_tune.serving.folding import fold_batch_norm
from keras_tune.serving.onnx_features import acoustic_features_nodes
from keras_tune.serving.windows import MAX_LEVEL, Windows

# Versions that onnxruntime 1.12 (2022) and later can read, onnxruntime-web included.
OPSET, IR_VERSION = 17, 8
# The largest number in single precision.
LARGEST = np.finfo("float32").max


def export_onnx(
    model: keras.Model,
    path: str | os.PathLike,
    window_samples: int | None = None,
    sample_rate: int | None = None,
    half_precision: bool = False,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write an encoder or a tagger as an ONNX file.

    Batch normalization is folded into the convolutions. Batch and length are dynamic; clips are cut
    into consecutive windows within the graph, without the remainder. Input: `waveform`, float32
    (batch, samples). Outputs: `embedding` (batch, d), the mean over windows, `window_embedding`
    (batch, windows, d) and, of a tagger, `scores` (batch, labels) and `window_scores` (batch,
    windows, labels). The metadata have `sample_rate`, `window_samples` and `labels` (a JSON list).
    Clips shorter than a window, samples that are not finite or beyond 100 times full scale, and
    outputs that are not finite end in an error ("indices element out of data bounds", since ONNX
    allows no other message).

    Args:
        model: Keras model from (batch, samples, 1) to (batch, d), or a `Tagger`.
        path: The file to write.
        window_samples: Integer, the length of a window, for an encoder of any length. Defaults to
            the encoder's own length, and 59,049 for one of any length.
        sample_rate: Integer, in Hz. Defaults to the encoder's own.
        half_precision: Whether the kernels of convolutions are stored in half precision, which
            halves the file. They are those before folding, which the graph scales; all is computed
            in single precision. Defaults to False.
        metadata: Dict of strings that the metadata shall have as well. Defaults to none.

    Raises:
        UserError: The package onnx is not installed, or the encoder has a layer that is not
            supported.
        ValueError: The model is not an encoder, or has windows of another length.

    Example:

    ```python
    import onnxruntime

    keras_tune.serving.export_onnx(encoder, "encoder.onnx")
    session = onnxruntime.InferenceSession("encoder.onnx")
    clips = np.random.normal(0, 0.1, (2, 5000)).astype("float32")
    (embedding,) = session.run(["embedding"], {"waveform": clips})
    ```
    """
    graph = _Graph(import_onnx(), half_precision)
    windows = Windows.of(model, window_samples, sample_rate)
    folded = fold_batch_norm(model)
    check_weights("`model`", folded)
    tagger = windows.labels is not None
    rows, batch, count = _cut(graph, windows)
    vectors = _encoder(graph, folded.encoder if tagger else folded, rows, windows.samples)
    size = graph.integers([windows.dimensions])
    shape = graph.node("Concat", batch, count, size, axis=0)
    shape = graph.node("Add", shape, _failing(graph, _beyond(graph, vectors)))
    graph.node("Reshape", vectors, shape, output="window_embedding")
    graph.mean("window_embedding", 1, output="embedding")
    outputs = {
        "embedding": ["batch", windows.dimensions],
        "window_embedding": ["batch", "windows", windows.dimensions],
    }
    if tagger:
        labels = len(windows.label_names)
        _head(graph, folded, "window_embedding", "window_scores")
        if windows.pooling == "scores":
            graph.mean("window_scores", 1, output="scores")
        else:
            _head(graph, folded, "embedding", "scores")
        outputs |= {"scores": ["batch", labels], "window_scores": ["batch", "windows", labels]}
    described = {
        "sample_rate": str(windows.sample_rate),
        "window_samples": str(windows.samples),
        "labels": json.dumps(windows.labels, ensure_ascii=False),
        **(metadata or {}),
    }
    inputs = {"waveform": ["batch", "samples"]}
    graph.save(path, model.name, inputs, outputs, described)


def export_onnx_head(tagger: Tagger, path: str | os.PathLike) -> None:
    """Write the head of a tagger as an ONNX file.

    It scores the mean embedding of a long clip whose windows went through the file of `export_onnx`
    a few at a time. Input: `embedding`, float32 (batch, d). Output: `scores` (batch, labels).

    Args:
        tagger: `Tagger`.
        path: The file to write.

    Raises:
        UserError: The package onnx is not installed.

    Example:

    ```python
    keras_tune.serving.export_onnx_head(tagger, "head.onnx")
    ```
    """
    windows = Windows.of(tagger)
    check_weights("`tagger`", tagger.head)
    graph = _Graph(import_onnx())
    _head(graph, tagger, "embedding", "scores")
    inputs = {"embedding": ["batch", windows.dimensions]}
    outputs = {"scores": ["batch", len(windows.label_names)]}
    described = {"labels": json.dumps(windows.labels, ensure_ascii=False)}
    graph.save(path, tagger.name, inputs, outputs, described)


def import_onnx() -> Any:
    """Import onnx, or raise a `UserError` that says how to install it."""
    try:
        import onnx
    except ImportError:
        raise UserError("ONNX files need onnx: pip install 'keras_tune[onnx]'") from None
    return onnx


class _Graph:
    """Nodes and weights, added one by one; `onnx` is the package."""

    def __init__(self, onnx, half_precision=False):
        self.onnx, self.half_precision = onnx, half_precision
        self.nodes, self.weights = [], []

    def node(self, kind, *inputs, output=None, **attributes):
        output = output or f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(self.onnx.helper.make_node(kind, inputs, [output], **attributes))
        return output

    def weight(self, values):
        name = f"weight_{len(self.weights)}"
        values = np.ascontiguousarray(values)
        self.weights.append(self.onnx.numpy_helper.from_array(values, name))
        return name

    def kernel(self, values, scale):
        """A kernel (out, …), which is `scale` (out,) times one that may be stored more shortly."""
        if not self.half_precision:
            return self.weight(values)
        scale = scale.reshape(-1, *[1] * (values.ndim - 1))
        # A scale of 0 has no inverse, and needs none.
        unscaled = np.divide(values, scale, out=np.zeros(values.shape), where=scale != 0)
        with np.errstate(over="ignore"):
            stored = unscaled.astype("float16")
        if not np.isfinite(stored).all():
            raise ValueError(
                "`half_precision` must be False for kernels beyond the range of float16. "
                "Received: half_precision=True"
            )
        stored = self.weight(stored)
        kernel = self.node("Cast", stored, to=int(self.onnx.TensorProto.FLOAT))
        if (scale == 1).all():
            return kernel
        return self.node("Mul", kernel, self.weight(scale.astype("float32")))

    def integers(self, values):
        return self.weight(np.array(values, "int64"))

    def floats(self, values):
        return self.weight(np.asarray(values, "float32"))

    def slice(self, source, start, end, axis):
        return self.node("Slice", source, *map(self.integers, ([start], [end], [axis])))

    def square(self, source):
        return self.node("Mul", source, source)

    def mean(self, source, *axes, keep=False, output=None):
        return self.node("ReduceMean", source, axes=axes, keepdims=int(keep), output=output)

    def moments(self, source, axis, keep=False, epsilon=0.0):
        """Mean and standard deviation along an axis; epsilon is added to the variance."""
        mean = self.mean(source, axis, keep=True)
        variance = self.mean(self.square(self.node("Sub", source, mean)), axis, keep=keep)
        if epsilon:
            variance = self.node("Add", variance, self.floats(epsilon))
        if not keep:
            mean = self.node("Squeeze", mean, self.integers([axis]))
        return mean, self.node("Sqrt", variance)

    def save(self, path, name, inputs, outputs, metadata):
        helper, floats = self.onnx.helper, self.onnx.TensorProto.FLOAT
        ends = (
            [helper.make_tensor_value_info(n, floats, shape) for n, shape in end.items()]
            for end in (inputs, outputs)
        )
        graph = helper.make_graph(self.nodes, name, *ends, self.weights)
        model = helper.make_model(
            graph,
            producer_name="keras_tune",
            ir_version=IR_VERSION,
            opset_imports=[helper.make_opsetid("", OPSET)],
        )
        helper.set_model_props(model, metadata)
        self.onnx.checker.check_model(model, full_check=True)
        with atomic_path(path) as temporary:
            temporary.write_bytes(model.SerializeToString())


def _cut(graph, windows):
    """Clips as rows (batch · windows, 1, samples); also the batch size and the windows a clip."""
    one = graph.integers([1])
    shape = graph.node("Shape", "waveform")
    batch = graph.node("Slice", shape, graph.integers([0]), one)
    samples = graph.node("Slice", shape, one, graph.integers([2]))
    length = graph.integers([windows.samples])
    count = graph.node("Div", samples, length)

    clips = graph.node("Mul", count, batch)
    empty = graph.node("Less", clips, one)
    zero = _failing(graph, graph.node("Or", _beyond(graph, "waveform", MAX_LEVEL), empty))

    used = graph.node("Add", graph.node("Mul", count, length), zero)
    kept = graph.node("Slice", "waveform", graph.integers([0]), used, one)
    shape = graph.node("Concat", clips, one, length, axis=0)
    return graph.node("Reshape", kept, shape), batch, count


def _beyond(graph, values, limit=LARGEST):
    """A truth value: whether any of the values is NaN or beyond the limit; by default, infinite."""
    limit = graph.floats([limit])
    # Written so that NaN is not within.
    within = graph.node("LessOrEqual", graph.node("Abs", values), limit)
    wrong = graph.node("Cast", graph.node("Not", within), to=int(graph.onnx.TensorProto.FLOAT))
    wrong = graph.node("ReduceSum", wrong, keepdims=0)
    return graph.node("Greater", wrong, graph.floats([0]))


def _failing(graph, bad):
    """A list of one integer, 0; the model stops if the truth value is true.

    ONNX has no assertions. It does check that the index of Gather exists, so that a list of one
    zero is read at index 0 if everything is right, and at 1 if not.
    """
    index = graph.node("Cast", bad, to=int(graph.onnx.TensorProto.INT64))
    return graph.node("Gather", graph.integers([0]), index)


def _encoder(graph, encoder, rows, samples):
    """Walk through the folded encoder and write its layers; returns the name of its output."""
    names = {}

    def write(layer, inputs, **kwargs):
        outputs = layer(inputs, **kwargs)
        many = isinstance(inputs, (list, tuple))
        sources = [names[id(tensor)] for tensor in (inputs if many else [inputs])]
        names[id(outputs)] = _layer(graph, layer, sources, inputs, outputs)
        kept.append(outputs)
        return outputs

    # Names go by identity, so no tensor may be freed and another take its place.
    waveform = keras.Input((samples, 1))
    kept = [waveform]
    names[id(waveform)] = rows
    clone = keras.models.clone_model(
        encoder, waveform, clone_function=lambda layer: layer, call_function=write
    )
    return names[id(clone.output)]


def _layer(graph, layer, sources, inputs, outputs):
    """Write a layer that leads from Keras tensors `inputs` to `outputs`.

    In ONNX all is (batch, channels, time).
    """
    source = sources[0]
    if isinstance(layer, keras.layers.Conv1D) and _is_plain(layer):
        around = layer.kernel_size[0] - 1 if layer.padding == "same" else 0
        pads = [around // 2, around - around // 2]
        if len(sources) > 1:
            source = graph.node("Concat", *sources, axis=1)
        source = _convolve(graph, "Conv", layer, source, pads=pads)
        return graph.node("Relu", source) if layer.activation is keras.activations.relu else source
    if isinstance(layer, keras.layers.Conv1DTranspose) and _is_plain(layer):
        return _convolve(graph, "ConvTranspose", layer, source)
    if isinstance(layer, keras.layers.MaxPooling1D) and layer.padding == "valid":
        size, strides = list(layer.pool_size), list(layer.strides)
        return graph.node("MaxPool", source, kernel_shape=size, strides=strides)
    if isinstance(layer, keras.layers.GlobalAveragePooling1D):
        return graph.mean(source, 2)
    if isinstance(layer, StatisticsPooling1D):
        return graph.node("Concat", *graph.moments(source, 2, epsilon=EPSILON), axis=1)
    if isinstance(layer, keras.layers.Concatenate):
        return graph.node("Concat", *sources, axis=1)
    if isinstance(layer, keras.layers.Dense) and layer.activation is keras.activations.linear:
        kernel, bias = layer.get_weights()
        kernel = graph.kernel(kernel.T, np.ones(kernel.shape[1]))
        return graph.node("Gemm", source, kernel, graph.weight(bias), transB=1)
    if isinstance(layer, CropToMultiple):
        return graph.slice(source, 0, outputs.shape[1], 2)
    if isinstance(layer, LevelNormalization):
        return _at_level(graph, layer, source)
    if isinstance(layer, AcousticFeatures):
        level = _at_level(graph, layer.level, source)
        return acoustic_features_nodes(graph, layer, level, inputs.shape[1])
    if isinstance(layer, keras.layers.Permute):
        return source
    raise UserError(
        f"layer {layer.name} ({type(layer).__name__}): not supported in ONNX; "
        "export encoders built by keras_tune.models.TUNe"
    )


def _at_level(graph, layer, source):
    rms = graph.node("Sqrt", graph.mean(graph.square(source), 1, 2, keep=True))
    rms = graph.node("Max", rms, graph.floats(FLOOR))
    gain = graph.node("Div", graph.floats(layer.level), rms)
    return graph.node("Mul", source, gain)


def _is_plain(layer):
    """Whether a convolution is of the kind that the encoders of this package have."""
    if not layer.use_bias or layer.dilation_rate not in (1, (1,)):
        return False
    if isinstance(layer, keras.layers.Conv1DTranspose):
        plain = layer.padding == "valid" and layer.strides == layer.kernel_size
        return plain and layer.activation is keras.activations.linear
    plain = layer.padding == "valid" or (layer.padding == "same" and layer.strides == (1,))
    return (
        plain
        and layer.groups == 1
        and layer.activation in (keras.activations.relu, keras.activations.linear)
    )


def _convolve(graph, kind, layer, source, **attributes):
    kernel, bias = layer.get_weights()
    # Keras: (time, in, out), transposed (time, out, in); ONNX turns either around.
    kernel = kernel.transpose(2, 1, 0)
    scale = getattr(layer, "folded_scale", np.ones(len(kernel)))
    kernel = graph.kernel(kernel, scale)
    strides = list(layer.strides)
    return graph.node(kind, source, kernel, graph.weight(bias), strides=strides, **attributes)


def _head(graph, tagger, source, output):
    """Write a tagger's head from the node `source` to scores."""
    weights = tagger.head_weights()
    for layer, kernel, bias in zip(tagger.head.layers, weights[::2], weights[1::2], strict=True):
        product = graph.node("MatMul", source, graph.weight(kernel))
        source = graph.node("Add", product, graph.weight(bias))
        if layer.name == "hidden":
            source = graph.node("Relu", source)
    kind, options = {
        "sigmoid": ("Sigmoid", {}),
        "softmax": ("Softmax", {"axis": -1}),
        "linear": ("Identity", {}),
    }[tagger.activation]
    scores = graph.node(kind, source, **options)
    # Infinite logits have a finite sigmoid; NaN is the difference of two of them.
    zero = _failing(graph, _beyond(graph, scores))
    zero = graph.node("Cast", zero, to=int(graph.onnx.TensorProto.FLOAT))
    graph.node("Add", scores, zero, output=output)
