"""How wide the blocks behind the decoder are, for any depth, length and size."""

from keras_tune.models.presets import SAMPLE_CNN_MULTIPLES

# The published tails double the base width from block to block, up to this multiple of it.
_WIDEST = 32


def tail_widths(
    decoder_depth, contraction_depth, base_filters, tail_length, representation_dim, input_samples
):
    """Widths of the tail, as the published variants have them.

    Behind a decoder: multiples 2, 4, 8, 16, 32, 32 … of the base width, none wider than the
    representation, then the representation. At depth zero: CLMR's SampleCNN, without the stages
    that a short view has no samples for.

    Args:
        decoder_depth: Integer; 0 is CLMR's SampleCNN.
        contraction_depth: Integer; means nothing at depth zero.
        base_filters: Integer, the width of the first stage.
        tail_length: Integer, divisions by 3 from the waveform to the representation; means nothing
            at depth zero.
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
    tail_widths(4, 4, 34, 4, 512, 59049)  # tune_vanilla's: [68, 136, 272, 512]
    ```
    """
    if decoder_depth == 0:
        stages = min(len(SAMPLE_CNN_MULTIPLES) - 1, _divisions(input_samples))
        if stages < 1:
            raise ValueError(
                "`input_samples` must be at least 3 for a SampleCNN. "
                f"Received: input_samples={input_samples}"
            )
        return [base_filters * multiple for multiple in SAMPLE_CNN_MULTIPLES[:stages]] + [
            representation_dim
        ]
    first = contraction_depth - decoder_depth
    if tail_length <= first:
        raise ValueError(
            f"`tail_length` must exceed {first}, for a decoder of {decoder_depth} of "
            f"{contraction_depth} stages. Received: tail_length={tail_length}"
        )
    multiples = [min(2 ** (index + 1), _WIDEST) for index in range(tail_length - 1)]
    return [min(base_filters * multiple, representation_dim) for multiple in multiples[first:]] + [
        representation_dim
    ]


def _divisions(samples):
    """How often a length can be divided by 3, rounding down."""
    count = 0
    while samples >= 3:
        samples //= 3
        count += 1
    return count
