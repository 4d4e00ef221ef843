"""Annotations: names for the arguments and results of functions, and ranges of settings.

Keras gives tensors of three frameworks no common class, so these names say to a reader what a type
checker cannot check. The fields of configurations are annotated with ranges, which the help of the
command lines shows; the values are plain `int` and `float`.
"""

import dataclasses
import math
import types
import typing
from typing import Annotated, Any, Literal

# A tensor of the Keras backend, eager or symbolic.
Tensor = Any
# What `keras.ops.convert_to_tensor` takes: a tensor, a NumPy array or nested lists of numbers.
TensorLike = Any
# The shape of a tensor; None is a length that is not known in advance.
Shape = tuple[int | None, ...]
# A dtype policy: its name ("mixed_bfloat16") or a `keras.DTypePolicy`.
DType = Any

# The preset, trained, that is used where no encoder is given. It is named here because the help of
# the command lines shows it, which imports no framework.
DEFAULT_ENCODER = "tune_plus_open"
# The window (2.68 s) and the sample rate in Hz of the publications, for encoders of any length, or
# that do not know their sample rate.
DEFAULT_WINDOW, DEFAULT_SAMPLE_RATE = 59049, 22050


@dataclasses.dataclass(frozen=True)
class Interval:
    """The finite numbers that a setting may have, as a part of its annotation.

    Args:
        low: Float, the lowest number. Defaults to none.
        high: Float, the highest number. Defaults to none.
        above: Float, which numbers must exceed, in place of `low`. Defaults to None.
        below: Float, which must exceed the numbers, in place of `high`. Defaults to None.

    Example:

    ```python
    from typing import Annotated

    from keras_tune.types import Interval

    Probability = Annotated[float, Interval(0, 1)]
    ```
    """

    low: float = -math.inf
    high: float = math.inf
    above: float | None = None
    below: float | None = None

    def __contains__(self, value: Any) -> bool:
        if not math.isfinite(value):
            return False
        inside = (self.above is None or value > self.above) and (
            self.below is None or value < self.below
        )
        return inside and self.low <= value <= self.high

    def __str__(self) -> str:
        words = [
            f"above {self.above:,}" if self.above is not None else "",
            f"from {self.low:,}" if self.low > -math.inf else "",
            f"to {self.high:,}" if self.high < math.inf else "",
            f"below {self.below:,}" if self.below is not None else "",
        ]
        return " ".join(filter(None, words))


# Lowest and highest sample rate in Hz. Others are wrong headers or typos, and resampling
# from 1 Hz would take memory without end.
SAMPLE_RATES = (1000, 1_000_000)

# Larger counts are typos.
Count = Annotated[int, Interval(1, 1_000_000)]
CountFromZero = Annotated[int, Interval(0, 1_000_000)]
BatchSize = Annotated[int, Interval(1, 65_536)]
# Contrast needs a second clip.
ContrastBatchSize = Annotated[int, Interval(2, 65_536)]
Workers = Annotated[int, Interval(1, 1_024)]
Folds = Annotated[int, Interval(2, 1_000)]
Repetitions = Annotated[int, Interval(1, 1_000)]
# Some seeds are added up, and the sums must fit into 32 bits.
Seed = Annotated[int, Interval(0, 2**31 - 1)]
Depth = Annotated[int, Interval(0, 99)]
Width = Annotated[int, Interval(1, 65_536)]
Samples = Annotated[int, Interval(1, 100_000_000)]
SampleRate = Annotated[int, Interval(*SAMPLE_RATES)]
# In seconds; a millisecond is one sample at the lowest sample rate.
Hop = Annotated[float, Interval(0.001, 3_600)]
Seconds = Annotated[float, Interval(0, 86_400)]
Positive = Annotated[float, Interval(above=0)]
NotNegative = Annotated[float, Interval(0)]
Finite = Annotated[float, Interval()]
Probability = Annotated[float, Interval(0, 1)]
Fraction = Annotated[float, Interval(above=0, high=1)]
Decay = Annotated[float, Interval(above=0, below=1)]
# A dtype policy of training, or "auto" for what suits the machine.
Precision = Literal["auto", "float32", "mixed_bfloat16", "mixed_float16"]


def check_values(config: Any, prefix: str = "") -> None:
    """Raise unless the fields of a configuration have values that their annotations allow.

    Args:
        config: Dataclass instance. Numbers with an `Interval`, `Literal` choices, and lists and
            nested dataclasses of them are checked; other fields are not.
        prefix: Text before the names of the fields. Defaults to "".

    Raises:
        ValueError: A value is not allowed.

    Example:

    ```python
    import dataclasses

    from keras_tune.types import Count, check_values

    @dataclasses.dataclass
    class Config:
        epochs: Count = 100

    check_values(Config(epochs=3))
    ```
    """
    hints = typing.get_type_hints(type(config), include_extras=True)
    for field in dataclasses.fields(config):
        name, value = f"{prefix}{field.name}", getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            check_values(value, f"{name}.")
            continue
        allowed = []
        if not _is_allowed(value, hints[field.name], allowed):
            raise ValueError(f"`{name}` must be {' or '.join(allowed)}. Received: {name}={value}")


def _is_allowed(value, hint, allowed):
    """Whether an annotation allows a value; what it allows is added to `allowed`, in words."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated and isinstance(parts[1], Interval):
        kind = "an integer" if parts[0] is int else "a number"
        allowed.append(f"{kind} {parts[1]}".rstrip())
        kinds = int if parts[0] is int else (int, float)
        return isinstance(value, kinds) and not isinstance(value, bool) and value in parts[1]
    if origin is Literal:
        allowed.append(f"one of {', '.join(map(str, parts))}")
        return value in parts
    if origin in (typing.Union, types.UnionType):
        # All of them, so that all are named.
        return any([_is_allowed(value, part, allowed) for part in parts])
    if origin is list:
        inner = []
        _is_allowed(None, parts[0], inner)
        allowed.append(f"a list, each {' or '.join(inner)}" if inner else "a list")
        several = isinstance(value, (list, tuple))
        return several and all(_is_allowed(item, parts[0], []) for item in value)
    if hint is type(None):
        allowed.append("None")
        return value is None
    return True
