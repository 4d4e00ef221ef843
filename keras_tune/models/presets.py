"""Every published variant of TUNe, CLMR's encoder, and the trained ones, as arguments of `TUNe`.

Source: Vélez Vásquez & Burgoyne, "Tailed U-Net: Multi-Scale Music Representation Learning" (ISMIR
2022), table 1 and appendix table S3; Spijkervet & Burgoyne, CLMR (ISMIR 2021).
"""

import dataclasses
from typing import Any

from keras_tune.types import DEFAULT_ENCODER


@dataclasses.dataclass(frozen=True)
class Preset:
    """A variant of `TUNe`: a published one, or one of ours with trained weights.

    Tail widths are given in multiples of the base width where the paper does so, and then change
    with the base width.

    Args:
        base_filters: Integer, the width N of the first stage.
        tail_multiples: Widths of the first tail blocks, in multiples of N. Defaults to none.
        tail_widths: Widths of the remaining tail blocks, in channels. Defaults to (512,).
        contraction_depth: Integer, the number of contractive stages above the bottleneck. Defaults
            to 4.
        decoder_depth: Integer, the number of expansive stages; 0 is CLMR's SampleCNN. Defaults to
            4.
        extra_links: Whether the tail is linked to the expansive path (TUNe+). Defaults to False.
        tail_type: "pooled" for TUNe's tail, "sample_cnn" for a whole SampleCNN. Defaults to
            "pooled".
        level: Float, the root mean square level that waveforms are brought to. Defaults to None:
            their level is not changed.
        pooled_stages: Integer, the number of last stages whose statistics make up the
            representation (see `TUNe`). Defaults to 0.
        acoustic_features: Whether acoustic features of the waveform do so as well. Defaults to
            False.
        weights: String, the file in `keras_tune/models/weights` with trained weights. Defaults to
            None.
        description: What the variant is, in a sentence. Defaults to an empty one.

    Example:

    ```python
    preset = keras_tune.models.PRESETS["tune_plus"]
    preset.tail_filters(base_filters=22)  # twice the published width
    ```
    """

    base_filters: int
    tail_multiples: tuple[int, ...] = ()
    tail_widths: tuple[int, ...] = (512,)
    contraction_depth: int = 4
    decoder_depth: int = 4
    extra_links: bool = False
    tail_type: str = "pooled"
    level: float | None = None
    pooled_stages: int = 0
    acoustic_features: bool = False
    weights: str | None = None
    description: str = ""

    def tail_filters(self, base_filters: int | None = None) -> tuple[int, ...]:
        """The widths of all tail blocks, for this preset's base width or another."""
        n = self.base_filters if base_filters is None else base_filters
        return tuple(n * m for m in self.tail_multiples) + self.tail_widths

    def arguments(
        self,
        base_filters: int | None = None,
        contraction_depth: int | None = None,
        decoder_depth: int | None = None,
    ) -> dict[str, Any]:
        """The arguments of `TUNe` that determine the tensors, for this width and depth or others.

        With another contraction depth, as many expansive stages are left out as before. A decoder
        with fewer stages than that has a shorter tail, without its first blocks.
        """
        if base_filters is None:
            base_filters = self.base_filters
        if contraction_depth is None:
            contraction_depth = self.contraction_depth
        left_out = self.contraction_depth - self.decoder_depth
        if decoder_depth is None:
            decoder_depth = contraction_depth - left_out if self.decoder_depth else 0
        tail = self.tail_filters(base_filters)
        if decoder_depth:
            tail = tail[max(0, contraction_depth - decoder_depth - left_out) :]
        return {
            "contraction_depth": contraction_depth,
            "decoder_depth": decoder_depth,
            "base_filters": base_filters,
            "tail_filters": tail,
            "extra_links": self.extra_links,
            "tail_type": self.tail_type,
        }


def tail_multiples(length: int) -> tuple[int, ...]:
    """The widths of the first blocks of a tail behind a U-Net, in multiples of the base width.

    The published tails double the base width from block to block, up to 32 times of it.
    """
    return tuple(min(2 ** (index + 1), 32) for index in range(length))


# Stem, nine blocks that are followed by max pooling, and the last block.
SAMPLE_CNN_MULTIPLES = (1, 1, 1, 2, 2, 2, 2, 2, 2, 4, 4)
SAMPLE_CNN_BASE_FILTERS = 128

PRESETS = {
    "tune_vanilla": Preset(34, (2, 4, 8), description="U-Net and a tail of four blocks"),
    "tune_contractive_1": Preset(
        18, (2, 4, 8), contraction_depth=5, decoder_depth=5, description="one stage deeper"
    ),
    "tune_contractive_2": Preset(
        9, (2, 4, 8), contraction_depth=6, decoder_depth=6, description="two stages deeper"
    ),
    "tune_contractive_3": Preset(
        4, (2, 4, 8), contraction_depth=7, decoder_depth=7, description="three stages deeper"
    ),
    "tune_expansive_1": Preset(
        34, (4, 8), decoder_depth=3, description="one expansive stage fewer"
    ),
    "tune_expansive_2": Preset(35, (8,), decoder_depth=2, description="two expansive stages fewer"),
    "tune_expansive_3": Preset(38, decoder_depth=1, description="three expansive stages fewer"),
    "tune_tail_1": Preset(28, tail_multiples(4), description="one tail block more"),
    "tune_tail_2": Preset(19, tail_multiples(5), description="two tail blocks more"),
    "tune_tail_3": Preset(15, tail_multiples(6), description="three tail blocks more"),
    "tune_tail_4": Preset(13, tail_multiples(7), description="four tail blocks more"),
    "tune_tail_5": Preset(
        11, tail_multiples(8), description="the paper's TUNe: five tail blocks more"
    ),
    "tune_plus": Preset(
        11, tail_multiples(8), extra_links=True, description="the paper's TUNe+: linked tail"
    ),
    "tune_plus_large": Preset(
        34, (2, 4, 8), (512,) * 6, extra_links=True, description="TUNe+ three times as wide"
    ),
    "tune_tail_5_large": Preset(
        19, (2, 4, 8, 16), (512,) * 5, description="TUNe nearly twice as wide"
    ),
    "tune_vanilla_small": Preset(11, (2, 4, 8), description="tune_vanilla a third as wide"),
    "tune_plus_1024": Preset(
        11,
        (2, 4, 8, 16, 32, 64),
        (1024,) * 3,
        extra_links=True,
        description="TUNe+, representation of 1,024",
    ),
    "tune_plus_256": Preset(
        11, (2, 4, 8), (256,) * 6, extra_links=True, description="TUNe+, representation of 256"
    ),
    "tune_plus_128": Preset(
        11, (2, 4, 8), (128,) * 6, extra_links=True, description="TUNe+, representation of 128"
    ),
    "tune_plus_64": Preset(
        11, (2, 4), (64,) * 7, extra_links=True, description="TUNe+, representation of 64"
    ),
    "tune_plus_32": Preset(
        11, (2, 4), (32,) * 7, extra_links=True, description="TUNe+, representation of 32"
    ),
    "tune_clmr_tail": Preset(
        10,
        (),
        tuple(SAMPLE_CNN_BASE_FILTERS * multiple for multiple in SAMPLE_CNN_MULTIPLES),
        tail_type="sample_cnn",
        description="a whole SampleCNN behind a U-Net with one output channel",
    ),
    "clmr": Preset(
        SAMPLE_CNN_BASE_FILTERS,
        SAMPLE_CNN_MULTIPLES,
        (),
        decoder_depth=0,
        description="CLMR's SampleCNN, the decoder of depth zero",
    ),
}


def is_trained(name: str) -> bool:
    """Whether there is a preset of this name that comes with trained weights."""
    return name in PRESETS and PRESETS[name].weights is not None


# What the papers describe; their authors publish weights for some, which `convert` reads.
PUBLISHED = tuple(PRESETS)

PRESETS[DEFAULT_ENCODER] = dataclasses.replace(
    PRESETS["tune_plus"],
    level=0.1,
    pooled_stages=4,
    acoustic_features=True,
    weights="tune_plus_open.safetensors",
    description="tune_plus, trained on 30 hours of freely licensed music",
)
PRESETS["tune_plus_64_open"] = dataclasses.replace(
    PRESETS["tune_plus_64"],
    level=0.1,
    pooled_stages=4,
    acoustic_features=True,
    weights="tune_plus_64_open.safetensors",
    description=f"tune_plus_64, which has learned the representation of {DEFAULT_ENCODER}",
)
