"""TUNe: a U-Net on the waveform, followed by a tail that shrinks it to one vector."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from keras_tune.errors import UserError
from keras_tune.keras_internals import sublayers
from keras_tune.layers.acoustic_features import AcousticFeatures
from keras_tune.layers.common import saved_arguments, standardize_data_format
from keras_tune.layers.crop_to_multiple import CropToMultiple
from keras_tune.layers.level_normalization import LevelNormalization
from keras_tune.layers.max_pooling import MaxPooling1D
from keras_tune.layers.sample_cnn_block import SampleCNNBlock
from keras_tune.layers.statistics_pooling import StatisticsPooling1D
from keras_tune.layers.tail_block import TailBlock
from keras_tune.layers.upsample_block import UpsampleBlock
from keras_tune.models.presets import PRESETS, SAMPLE_CNN_BASE_FILTERS, is_trained
from keras_tune.models.saved import read_weights
from keras_tune.shipped import WEIGHTS
from keras_tune.types import DEFAULT_SAMPLE_RATE, DEFAULT_WINDOW, DType, Tensor

# Every change of resolution in the published models is by this factor.
FACTOR = 3


@keras.saving.register_keras_serializable(package="keras_tune")
class TUNe(keras.Model):
    """Tailed U-Net: waveform in, one vector out.

    A functional model, so any stage can be tapped by its name: `contract_1` …, `bottleneck`,
    `expand_1` …, `tail_1` …, `representation`; at depth zero `stem`, `block_1` …,
    `representation`. The default is the paper's TUNe (`tune_tail_5`).

    Args:
        contraction_depth: Integer C, the number of contractive stages above the bottleneck; their
            widths double from one to the next. Defaults to 4.
        decoder_depth: Integer 0…C, the number of expansive stages. 0 builds CLMR's SampleCNN, for
            which `contraction_depth` is ignored. Defaults to 4.
        base_filters: Integer N, the width of the first stage. Defaults to 11, and to 128 at depth
            zero.
        tail_filters: List of integers, the widths of the tail blocks, each of which divides the
            resolution by 3; the last one is the size of the representation. At depth zero and with
            `tail_type="sample_cnn"`: the widths of SampleCNN's stem, its blocks and its last block.
            Defaults to the published tail, scaled with `base_filters` and shortened where a shallow
            decoder leaves less to shrink.
        extra_links: Whether tail blocks also see the expansive output (at the lowest resolution the
            bottleneck) of their resolution: TUNe+. Defaults to False.
        tail_type: "pooled", or "sample_cnn" for a whole SampleCNN on a decoder with one output
            channel. Defaults to "pooled".
        input_samples: Integer, the length of the waveform, or None for any length of at least
            `min_samples`. Defaults to 59,049 (2.68 s at 22,050 Hz). Samples beyond the last
            multiple of 3 ** C are cut off.
        sample_rate: Integer, the sample rate in Hz of the waveforms that the model is made for. It
            does not change the computation; functions that read audio look it up in the model.
            Defaults to 22,050.
        level: Float, the root mean square level to which every waveform is scaled first (see
            `keras_tune.layers.LevelNormalization`), or None to keep the levels, as the published
            models do. Defaults to None.
        pooled_stages: Integer n. If it is not 0, the representation is not the mean over time of
            the last stage, but a linear map of the mean and standard deviation over time of the
            last n stages, which `keras_tune.models.estimate_pca` sets after training. Defaults to
            0, as in the published models.
        pooled_dim: Integer, the size of the representation with `pooled_stages`. Defaults to 512.
        acoustic_features: Whether that linear map takes the acoustic features of the waveform as
            well (see `keras_tune.layers.AcousticFeatures`). It needs `input_samples`, and has no
            effect without `pooled_stages`. Defaults to False.
        data_format: The layout of the computation inside: "channels_last", "channels_first" or None
            for the faster one on the backend. Inputs, outputs and weights are the same with both,
            so it is not saved with the model. Defaults to None.
        dtype: Dtype policy of the layers, such as "mixed_bfloat16". Defaults to the global policy.
            The representation is always float32.
        name: String. Defaults to "tune".

    Input shape: (batch, input_samples, 1), float, mono, in [-1, 1].
    Output shape: (batch, tail_filters[-1]), or (batch, pooled_dim) with `pooled_stages`.

    Raises:
        ValueError: Arguments that do not fit together.

    Source: Vélez Vásquez & Burgoyne, "Tailed U-Net: Multi-Scale Music Representation Learning"
    (ISMIR 2022), section 3.

    Example:

    ```python
    encoder = keras_tune.TUNe.from_preset("tune_plus", load_weights=False)
    encoder.predict(np.zeros((1, 59049, 1))).shape  # (1, 512)
    stage = keras.Model(encoder.input, encoder.get_layer("bottleneck").output)
    ```
    """

    def __init__(
        self,
        contraction_depth: int = 4,
        decoder_depth: int = 4,
        base_filters: int | None = None,
        tail_filters: Sequence[int] | None = None,
        extra_links: bool = False,
        tail_type: str = "pooled",
        input_samples: int | None = DEFAULT_WINDOW,
        sample_rate: int = DEFAULT_SAMPLE_RATE,
        level: float | None = None,
        pooled_stages: int = 0,
        pooled_dim: int = 512,
        acoustic_features: bool = False,
        data_format: str | None = None,
        dtype: DType = None,
        name: str = "tune",
    ):
        data_format = standardize_data_format(data_format)
        if base_filters is None:
            base_filters = 11 if decoder_depth else SAMPLE_CNN_BASE_FILTERS
        if tail_filters is None:
            tail_filters = _default_tail(contraction_depth, decoder_depth, base_filters, tail_type)
        tail_filters = tuple(int(width) for width in tail_filters)
        _check(contraction_depth, decoder_depth, base_filters, tail_filters, extra_links, tail_type)
        if sample_rate < 1:
            raise ValueError(f"`sample_rate` must be positive. Received: sample_rate={sample_rate}")
        pools = len(tail_filters)
        if decoder_depth == 0 or tail_type == "sample_cnn":
            pools -= 1
        if decoder_depth:
            pools += contraction_depth - decoder_depth
        min_samples = FACTOR ** max(pools, contraction_depth if decoder_depth else 0)
        if input_samples is not None and input_samples < min_samples:
            raise ValueError(
                f"`input_samples` must be at least {min_samples} for these depths. "
                f"Received: input_samples={input_samples}"
            )

        policy = keras.dtype_policies.get(dtype) if dtype else keras.config.dtype_policy()
        waveform = keras.Input((input_samples, 1), name="waveform")
        x = waveform if level is None else LevelNormalization(level, name="level")(waveform)
        if decoder_depth and (input_samples or 1) % FACTOR**contraction_depth:
            x = CropToMultiple(FACTOR**contraction_depth, dtype=policy, name="crop")(x)
        if data_format == "channels_first":
            x = keras.layers.Permute((2, 1), dtype=policy, name="channels_first")(x)
        options = {"data_format": data_format, "dtype": policy}
        stages = {}
        if decoder_depth:
            depths, one_channel = (contraction_depth, decoder_depth), tail_type == "sample_cnn"
            stages = _u_net(x, *depths, base_filters, one_channel, options)
            x = stages[f"expand_{decoder_depth}"]
        if decoder_depth and tail_type == "pooled":
            # The bottleneck and all expansive stages but the last, by decreasing resolution.
            links = list(stages.values())[contraction_depth:-1][::-1]
            stages |= _tail(x, tail_filters, links if extra_links else [], options)
        else:
            stages |= _sample_cnn(x, tail_filters, options)
        if pooled_stages:
            statistics = _statistics(stages, pooled_stages, data_format)
            if acoustic_features:
                statistics.append(AcousticFeatures(sample_rate, name="acoustic")(waveform))
            outputs = _linear_map(statistics, pooled_dim)
        else:
            outputs = keras.layers.GlobalAveragePooling1D(
                data_format=data_format, dtype="float32", name="representation"
            )(list(stages.values())[-1])
        super().__init__(inputs=waveform, outputs=outputs, name=name)

        self.contraction_depth = contraction_depth
        self.decoder_depth = decoder_depth
        self.base_filters = base_filters
        self.tail_filters = tail_filters
        self.extra_links = extra_links
        self.tail_type = tail_type
        self.input_samples = input_samples
        self.sample_rate = int(sample_rate)
        self.level = level
        self.pooled_stages = pooled_stages
        self.pooled_dim = pooled_dim
        self.acoustic_features = bool(pooled_stages and acoustic_features)
        self.data_format = data_format
        self.min_samples = min_samples
        self.representation_dim = pooled_dim if pooled_stages else tail_filters[-1]
        self.stage_names = tuple(stages)
        self._layer_policy = policy.name

    def call(self, inputs: Tensor, training: bool | None = None, mask: Tensor = None) -> Tensor:
        if inputs.shape[1] is not None and inputs.shape[1] < self.min_samples:
            # Nothing would be left to average; JAX would return NaN without an error.
            raise ValueError(
                f"the waveform must have at least {self.min_samples} samples. "
                f"Received: shape={tuple(inputs.shape)}"
            )
        return super().call(inputs, training=training, mask=mask)

    @classmethod
    def from_preset(cls, preset: str, load_weights: bool = True, **overrides: Any) -> TUNe:
        """Build a variant, with its trained weights if it has any.

        Args:
            preset: One of `keras_tune.models.PRESETS`.
            load_weights: Whether to load the trained weights. The published variants come without,
                so they need False, which initializes the weights at random. Defaults to True.
            **overrides: Any argument of `TUNe`. With None, a `level` is left out, and windows may
                have any length; other arguments keep the value of the preset. Widths of the tail
                follow `base_filters`, and a shallower decoder drops the first tail blocks, as the
                paper's variants do. With `decoder_depth=0` what is built is CLMR's SampleCNN at its
                published width, unless `base_filters` or `tail_filters` says otherwise. With
                trained weights, only `input_samples`, `data_format`, `dtype` and `name` can be
                changed, and `pooled_stages` to 0.

        Returns:
            A `TUNe`.

        Raises:
            UserError: There is no such preset, or it has no weights to load.
            ValueError: Arguments that do not fit together, or not with the weights.

        Example:

        ```python
        encoder = keras_tune.TUNe.from_preset(
            "tune_plus", load_weights=False, decoder_depth=2
        )
        ```
        """
        if preset not in PRESETS:
            close = difflib.get_close_matches(str(preset), PRESETS, n=1)
            hint = f"did you mean {close[0]}?" if close else f"choose one of {', '.join(PRESETS)}."
            raise UserError(f"`preset` must be a preset; {hint} Received: preset={preset}")
        chosen = PRESETS[preset]
        weights = chosen.weights if load_weights else None
        if load_weights and weights is None:
            raise UserError(
                "`preset` must have trained weights; pass `load_weights=False` for random ones, "
                f"or choose {' or '.join(filter(is_trained, PRESETS))}. Received: preset={preset}"
            )
        given = {key: value for key, value in overrides.items() if value is not None}
        loses_decoder = chosen.decoder_depth > 0 and given.get("decoder_depth") == 0
        published = PRESETS["clmr"] if loses_decoder else chosen
        sizes = ("base_filters", "contraction_depth", "decoder_depth")
        arguments = {
            **published.arguments(*map(given.get, sizes)),
            "pooled_stages": chosen.pooled_stages,
            "acoustic_features": chosen.acoustic_features,
            "name": preset,
            **given,
            # None has a meaning of its own for these two.
            "input_samples": overrides.get("input_samples", DEFAULT_WINDOW),
            "level": overrides.get("level", chosen.level),
        }
        encoder = cls(**arguments)
        if weights is not None:
            read_weights(encoder, WEIGHTS / weights)
        return encoder

    def get_config(self) -> dict[str, Any]:
        config = saved_arguments(self)
        # The weights fit both layouts, and the faster one depends on the machine.
        del config["data_format"]
        return {
            **config,
            "tail_filters": list(self.tail_filters),
            "dtype": self._layer_policy,
            "trainable": self.trainable,
            "layers_trainable": _exceptions(self),
        }

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], custom_objects: Mapping[str, Any] | None = None
    ) -> TUNe:
        # Earlier versions did not save which layers are trainable.
        arguments = {"trainable": True, "layers_trainable": {}, **config}
        trainable, exceptions = (arguments.pop(k) for k in ("trainable", "layers_trainable"))
        model = cls(**arguments)
        if not trainable:
            model.trainable = False
        # Outer layers come first, since setting one also sets the layers within it.
        layers = dict(_layers_by_path(model))
        for path, value in exceptions.items():
            layers[path].trainable = value
        return model


def _layers_by_path(layer, prefix=""):
    """Pairs of path and layer of all layers within a layer; outer layers come first."""
    for inner in sublayers(layer, recursive=False):
        path = f"{prefix}{inner.name}"
        yield path, inner
        yield from _layers_by_path(inner, f"{path}/")


def _exceptions(model):
    """Whether layers are trainable, by path, if it differs from the layer around them."""
    outer, found = {"": model.trainable}, {}
    for path, layer in _layers_by_path(model):
        outer[path] = layer.trainable
        if layer.trainable != outer[path.rpartition("/")[0]]:
            found[path] = layer.trainable
    return found


def _default_tail(contraction_depth, decoder_depth, base_filters, tail_type):
    if decoder_depth and tail_type == "sample_cnn":
        return PRESETS["tune_clmr_tail"].tail_filters()
    published = PRESETS["tune_tail_5" if decoder_depth else "clmr"]
    return published.arguments(base_filters, contraction_depth, decoder_depth)["tail_filters"]


def _check(contraction_depth, decoder_depth, base_filters, tail_filters, extra_links, tail_type):
    if contraction_depth < 1:
        raise ValueError(
            "`contraction_depth` must be at least 1. "
            f"Received: contraction_depth={contraction_depth}"
        )
    if not 0 <= decoder_depth <= contraction_depth:
        raise ValueError(
            f"`decoder_depth` must be between 0 and `contraction_depth`, {contraction_depth}. "
            f"Received: decoder_depth={decoder_depth}"
        )
    if tail_type not in ("pooled", "sample_cnn"):
        raise ValueError(
            f"`tail_type` must be 'pooled' or 'sample_cnn'. Received: tail_type={tail_type}"
        )
    if base_filters < 1 or not tail_filters or min(tail_filters) < 1:
        raise ValueError(
            "`base_filters` and every one of `tail_filters` must be at least 1. "
            f"Received: base_filters={base_filters}, tail_filters={tail_filters}"
        )
    if extra_links and (decoder_depth == 0 or tail_type == "sample_cnn"):
        raise ValueError(
            "`extra_links` needs a decoder and a pooled tail. "
            f"Received: decoder_depth={decoder_depth}, tail_type={tail_type}"
        )


def _u_net(x, contraction_depth, decoder_depth, base_filters, one_channel, options):
    """The contractive path, the bottleneck and the expansive path, by stage."""
    stages = {}
    widths = [base_filters * 2**level for level in range(contraction_depth + 1)]
    for number, width in enumerate(widths[:-1], start=1):
        name = f"contract_{number}"
        x = stages[name] = SampleCNNBlock(width, name=name, **options)(x)
        x = MaxPooling1D(FACTOR, name=f"{name}_pool", **options)(x)
    x = stages["bottleneck"] = SampleCNNBlock(widths[-1], name="bottleneck", **options)(x)
    for step in range(1, decoder_depth + 1):
        name, number = f"expand_{step}", contraction_depth - step + 1
        width = widths[number - 1]
        filters = 1 if one_channel and step == decoder_depth else width
        block = UpsampleBlock(filters, upsampled_filters=width, name=name, **options)
        x = stages[name] = block([x, stages[f"contract_{number}"]])
    return stages


def _tail(x, filters, links, options):
    """The tail by stage; `links` are the further inputs of its first blocks."""
    stages = {}
    for index, width in enumerate(filters):
        name = f"tail_{index + 1}"
        inputs = [x, links[index]] if index < len(links) else x
        x = stages[name] = TailBlock(width, name=name, **options)(inputs)
    return stages


def _statistics(stages, count, data_format):
    """Mean and standard deviation over time of each of the last stages."""
    if not 0 < count <= len(stages):
        raise ValueError(
            f"`pooled_stages` must be from 0 to {len(stages)}, the number of stages. "
            f"Received: pooled_stages={count}"
        )
    return [
        StatisticsPooling1D(data_format, name=f"{name}_statistics")(stages[name])
        for name in list(stages)[-count:]
    ]


def _linear_map(parts, size):
    """The representation as a linear map of statistics and features."""
    if size < 1:
        raise ValueError(f"`pooled_dim` must be positive. Received: pooled_dim={size}")
    pooled = keras.layers.Concatenate(dtype="float32", name="pooled")(parts)
    return keras.layers.Dense(size, dtype="float32", name="representation")(pooled)


def _sample_cnn(x, filters, options):
    """SampleCNN as the whole encoder, or as a tail: the stem, pooled blocks and the last block.

    Source: Lee et al., "SampleCNN" (2018); Spijkervet & Burgoyne, CLMR (ISMIR 2021).
    """
    x = SampleCNNBlock(filters[0], strides=FACTOR, padding="valid", name="stem", **options)(x)
    stages = {"stem": x}
    for index, width in enumerate(filters[1:], start=1):
        name = f"block_{index}"
        x = stages[name] = SampleCNNBlock(width, name=name, **options)(x)
        if index < len(filters) - 1:
            x = MaxPooling1D(FACTOR, name=f"{name}_pool", **options)(x)
    return stages
