"""Counting an encoder's parameters without building it, and the width that fits a budget."""


def count_parameters(
    contraction_depth,
    decoder_depth,
    base_filters,
    tail_filters,
    extra_links=False,
    tail_type="pooled",
):
    """Count the trainable parameters of a `TUNe` from its arguments.

    Args:
        contraction_depth: Integer, the contractive stages.
        decoder_depth: Integer, the expansive stages; 0 is CLMR's SampleCNN.
        base_filters: Integer, the width of the first stage.
        tail_filters: List of integers, the widths of the tail.
        extra_links: Whether the tail is linked to the expansive path. Defaults to False.
        tail_type: "pooled" or "sample_cnn". Defaults to "pooled".

    Returns:
        Integer: kernels, biases, and the scale and offset of batch normalization.

    Example:

    ```python
    count_parameters(4, 4, 34, [68, 136, 272, 512])  # 2340396
    ```
    """
    if decoder_depth == 0:
        return _stack(1, tail_filters)
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


def largest_width(count, budget, slack=0.35):
    """The largest width whose parameters fit a budget.

    So the paper chose its widths: every variant is as wide as about 2.4 million parameters allow,
    the deepest of them 31 % below. Widths are whole numbers and a deep encoder has few to choose
    from, hence the slack.

    Args:
        count: Function from width to number of parameters, rising.
        budget: Number of parameters that must not be exceeded.
        slack: Share of the budget that may stay unused. Defaults to 0.35.

    Returns:
        Integer, at least 1.

    Raises:
        ValueError: No width uses between `1 - slack` of the budget and all of it.

    Example:

    ```python
    largest_width(lambda width: width * width, 120)  # 10
    ```
    """
    low, high = 0, 1
    while count(high) <= budget:
        low, high = high, 2 * high
        if high > budget:
            break
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if count(middle) <= budget else (low, middle)
    if low == 0:
        raise ValueError(
            f"a width of 1 has {count(1):,} parameters already, above the budget of {budget:,.0f}"
        )
    if count(low) < (1 - slack) * budget:
        raise ValueError(
            f"a width of {low} has {count(low):,} parameters and the next one {count(low + 1):,}: "
            f"none within {slack:.0%} below the budget of {budget:,.0f}"
        )
    return low
