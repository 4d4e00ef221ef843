"""Types of numeric options: the range is a part of the type, so that `--help` shows it.

Values stay plain `int` and `float`. The parser refuses what is out of range, NaN, infinite or no
number at all, and names the option.
"""

import dataclasses
import math
import typing

from jsonargparse.typing import register_type

from keras_tune.data.schema import SAMPLE_RATES


def integer(low, high):
    """Make the type of whole numbers from `low` to `high`, both included.

    Example:

    ```python
    Folds = integer(2, 1000)
    ```
    """
    return _type(f"integer from {low:,} to {high:,}", int, lambda value: low <= value <= high)


def number(low=-math.inf, high=math.inf, above=None, below=None):
    """Make the type of finite numbers from `low` to `high`, both included.

    Args:
        low: Lowest number. Defaults to none.
        high: Highest number. Defaults to none.
        above: The number that they must exceed, in place of `low`. Defaults to none.
        below: The number that must exceed them, in place of `high`. Defaults to none.

    Example:

    ```python
    Share = number(above=0, high=1)
    ```
    """
    words = [
        f"above {above:,}" if above is not None else "",
        f"from {low:,}" if low > -math.inf else "",
        f"to {high:,}" if high < math.inf else "",
        f"below {below:,}" if below is not None else "",
    ]

    def within(value):
        inside = (above is None or value > above) and (below is None or value < below)
        return inside and low <= value <= high

    return _type(" ".join(filter(None, ["number", *words])), float, within)


def as_options(config_class):
    """Make the options of a library's configuration: their types carry the ranges of its fields.

    Args:
        config_class: A dataclass with defaults, whose annotations hold a `keras_tune.types.Range`.

    Returns:
        A dataclass of the same name, a subclass.

    Example:

    ```python
    AugmentConfig = as_options(keras_tune.augment_config.AugmentConfig)
    ```
    """
    hints = typing.get_type_hints(config_class, include_extras=True)
    fields = [
        (
            field.name,
            number(**dataclasses.asdict(hints[field.name].__metadata__[0])),
            dataclasses.field(default=field.default),
        )
        for field in dataclasses.fields(config_class)
    ]
    namespace = {"__doc__": config_class.__doc__, "__module__": __name__}
    return dataclasses.make_dataclass(
        config_class.__name__, fields, bases=(config_class,), namespace=namespace
    )


def _type(name, base, within):
    """Register a type whose values are those of `base` for which `within` holds."""

    def read(value):
        try:
            found = base(value)
            # A fraction is no integer, and for YAML yes and no are no numbers.
            whole = isinstance(value, str) or value == found
            if whole and not isinstance(value, bool) and math.isfinite(found) and within(found):
                return found
        except (TypeError, ValueError, OverflowError):
            pass
        raise ValueError(f"got {value}")

    def check(value, _):
        return type(value) is base and math.isfinite(value) and within(value)

    made = type(name, (base,), {"__module__": __name__})
    register_type(made, lambda value: value, read, type_check=check)
    return made


# Of what is counted; beyond it are slips.
Count = integer(1, 1_000_000)
CountFromZero = integer(0, 1_000_000)
BatchSize = integer(1, 65_536)
# Contrast needs a second clip.
ContrastBatchSize = integer(2, 65_536)
Workers = integer(1, 1_024)
Folds = integer(2, 1_000)
Repetitions = integer(1, 1_000)
# Some are added up, and all must fit into 32 bits.
Seed = integer(0, 2**31 - 1)
Depth = integer(0, 99)
Width = integer(1, 65_536)
Samples = integer(1, 100_000_000)
SampleRate = integer(*SAMPLE_RATES)
# A millisecond is a sample at the lowest rate.
Hop = number(0.001, 3_600)
Seconds = number(0, 86_400)
Positive = number(above=0)
NotNegative = number(0)
Finite = number()
Probability = number(0, 1)
Share = number(above=0, high=1)
Decay = number(above=0, below=1)
