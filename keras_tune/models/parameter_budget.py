"""The parameters of an encoder, counted without building it, and the widths that fit a budget."""

import bisect
from collections.abc import Callable, Sequence

from keras_tune.models.presets import SAMPLE_CNN_MULTIPLES, tail_multiples


def count_parameters(
    contraction_depth: int | None,
    decoder_depth: int,
    base_filters: int,
    tail_filters: Sequence[int],
    extra_links: bool = False,
    tail_type: str = "pooled",
) -> int:
    """Count the trainable parameters of a `TUNe` from its arguments.

    Args:
        contraction_depth: Integer, the contractive stages. Ignored at depth zero.
        decoder_depth: Integer, the expansive stages; 0 is CLMR's SampleCNN.
        base_filters: Integer, the width of the first stage.
        tail_filters: List of integers, the widths of the tail.
        extra_links: Whether the tail is linked to the expansive path. Defaults to False.
        tail_type: "pooled" or "sample_cnn". Defaults to "pooled".

    Returns:
        Integer: kernels, biases, and the scale and offset of batch normalization.

    Example:

    ```python
    keras_tune.models.count_parameters(4, 4, 34, [68, 136, 272, 512])  # 2340396
    ```
    """
    if decoder_depth == 0:
        return _stack(1, tail_filters)
    assert contraction_depth is not None
    widths = [base_filters * 2**level for level in range(contraction_depth + 1)]
    total = _stack(1, widths)
    channels = widths[-1]
    expansive = []
    for step in range(1, decoder_depth + 1):
        width = widths[contraction_depth - step]
        out = 1 if tail_type == "sample_cnn" and step == decoder_depth else width
        # A transposed convolution with a bias, then a block on it and the skip.
        total += 3 * channels * width + width + _block(2 * width, out)
        expansive.append(out)
        channels = out
    links = [*reversed(expansive[:-1]), widths[-1]] if extra_links else []
    for index, width in enumerate(tail_filters):
        total += _block(channels + (links[index] if index < len(links) else 0), width)
        channels = width
    return total


def _block(channels, filters):
    # A kernel of 3 and a bias; scale and offset.
    return 3 * channels * filters + 3 * filters


def _stack(channels, widths):
    return sum(
        _block(before, width) for before, width in zip([channels, *widths], widths, strict=False)
    )


def largest_width(count: Callable[[int], int], budget: float, slack: float = 0.35) -> int:
    """The largest width whose parameters fit a budget.

    The widths of the paper were chosen in this way: every variant is as wide as about 2.4 million
    parameters allow, the deepest of them staying 31 % below. Widths are whole numbers and a deep
    encoder has few to choose from, hence the slack.

    Args:
        count: Function from width to number of parameters, which must be increasing.
        budget: Number of parameters that must not be exceeded.
        slack: Share of the budget that may stay unused. Defaults to 0.35.

    Returns:
        Integer, at least 1.

    Raises:
        ValueError: No width uses between `1 - slack` of the budget and all of it.

    Example:

    ```python
    keras_tune.models.largest_width(lambda width: width * width, 120)  # 10
    ```
    """
    # At every width there is at least one parameter more than at the one before.
    width = bisect.bisect_right(range(1, int(budget) + 1), budget, key=count)
    if width == 0:
        raise ValueError(
            f"a width of 1 already has {count(1):,} parameters, above the budget of {budget:,.0f}"
        )
    if count(width) < (1 - slack) * budget:
        raise ValueError(
            f"a width of {width} has {count(width):,} parameters and the next one "
            f"{count(width + 1):,}: none within {slack:.0%} below the budget of {budget:,.0f}"
        )
    return width


def tail_widths(
    decoder_depth: int,
    contraction_depth: int | None,
    base_filters: int,
    tail_length: int | None,
    representation_dim: int,
    input_samples: int,
) -> list[int]:
    """The widths of a tail of any length, by the rule that the published variants follow.

    Behind a decoder: multiples 2, 4, 8, 16, 32, 32 … of the base width, none wider than the
    representation, and the representation last. At depth zero: the widths of CLMR's SampleCNN,
    without the stages for which a short view has no samples.

    Args:
        decoder_depth: Integer; 0 is CLMR's SampleCNN.
        contraction_depth: Integer. Ignored at depth zero.
        base_filters: Integer, the width of the first stage.
        tail_length: Integer, divisions by 3 from the waveform to the representation. Ignored at
            depth zero.
        representation_dim: Integer, the width of the last block.
        input_samples: Integer, the length of a view.

    Returns:
        List of integers, `tail_filters` of `keras_tune.models.TUNe`.

    Raises:
        ValueError: No block is left, because the tail is shorter than the resolution that a shallow
            decoder leaves, or the view too short.

    Source: Vélez Vásquez & Burgoyne (ISMIR 2022), table 1; Lee et al., "SampleCNN" (2018), whose
    number of stages follows the length of the view.

    Example:

    ```python
    keras_tune.models.tail_widths(4, 4, 34, 4, 512, 59049)  # tune_vanilla's: [68, 136, 272, 512]
    ```
    """
    if decoder_depth == 0:
        stages = min(len(SAMPLE_CNN_MULTIPLES) - 1, _divisions(input_samples))
        if stages < 1:
            raise ValueError(
                "`input_samples` must be at least 3 for a SampleCNN. "
                f"Received: input_samples={input_samples}"
            )
        widths = [base_filters * multiple for multiple in SAMPLE_CNN_MULTIPLES[:stages]]
        return [*widths, representation_dim]
    assert contraction_depth is not None and tail_length is not None
    first = contraction_depth - decoder_depth
    if tail_length <= first:
        raise ValueError(
            f"`tail_length` must exceed {first}, for a decoder of {decoder_depth} of "
            f"{contraction_depth} stages. Received: tail_length={tail_length}"
        )
    multiples = tail_multiples(tail_length - 1)[first:]
    widths = [min(base_filters * multiple, representation_dim) for multiple in multiples]
    return [*widths, representation_dim]


def _divisions(samples):
    """How often a length can be divided by 3, rounding down."""
    count = 0
    while samples >= 3:
        samples //= 3
        count += 1
    return count
