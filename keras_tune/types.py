"""Annotations: names for the arguments and results of functions, and ranges of settings.

Also the settings of the augmentation chain, which command lines show without importing Keras.

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
        above: Float, which numbers must exceed, in place of `low`. Defaults to none.
        below: Float, which must exceed the numbers, in place of `high`. Defaults to none.
    """

    low: float = -math.inf
    high: float = math.inf
    above: float = -math.inf
    below: float = math.inf

    def __contains__(self, value: Any) -> bool:
        # Infinity is not below infinity.
        return self.low <= value <= self.high and self.above < value < self.below

    def __str__(self) -> str:
        words = [
            f"above {self.above:,}" if self.above > -math.inf else "",
            f"from {self.low:,}" if self.low > -math.inf else "",
            f"to {self.high:,}" if self.high < math.inf else "",
            f"below {self.below:,}" if self.below < math.inf else "",
        ]
        return " ".join(filter(None, words))


# Lowest and highest sample rate in Hz. Others are wrong headers or typos, and resampling
# from 1 Hz would need unlimited memory.
SAMPLE_RATES = (1000, 1_000_000)

# Larger counts are typos.
Count = Annotated[int, Interval(1, 1_000_000)]
CountFromZero = Annotated[int, Interval(0, 1_000_000)]
BatchSize = Annotated[int, Interval(1, 65_536)]
# A contrastive loss needs a second clip.
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
Ratio = Annotated[float, Interval(0)]
Percent = Annotated[float, Interval(0, 100)]
Decibels = Annotated[float, Interval(-200, 200)]
Cents = Annotated[float, Interval(-12_000, 12_000)]
# No audio file has a higher sample rate.
Frequency = Annotated[float, Interval(above=0, high=1_000_000)]
Milliseconds = Annotated[float, Interval(0, 60_000)]
# Every delay from the shortest to the longest is kept in memory.
StepMilliseconds = Annotated[float, Interval(0.01, 60_000)]
# A dtype policy of training, or "auto" for what suits the machine.
Precision = Literal["auto", "float32", "mixed_bfloat16", "mixed_float16"]


@dataclasses.dataclass
class AugmentConfig:
    """The settings of the published augmentation chain; a probability of 0 removes a step.

    Args:
        polarity_probability: Probability of inverting the polarity.
        noise_probability: Probability of added white noise.
        min_noise_ratio: Lowest ratio of the noise's standard deviation to the waveform's.
        max_noise_ratio: Highest ratio of the noise's standard deviation to the waveform's.
        gain_probability: Probability of a gain.
        min_gain_db: Lowest gain in dB.
        max_gain_db: Highest gain in dB.
        filter_probability: Probability of a filter: high-pass or low-pass with equal probability.
        min_high_pass: Lowest cutoff frequency of the high-pass in Hz.
        max_high_pass: Highest cutoff frequency of the high-pass in Hz.
        min_low_pass: Lowest cutoff frequency of the low-pass in Hz.
        max_low_pass: Highest cutoff frequency of the low-pass in Hz.
        delay_probability: Probability of an echo.
        min_delay_ms: Shortest delay in milliseconds.
        max_delay_ms: Longest delay in milliseconds.
        delay_step_ms: Distance between the possible delays in milliseconds.
        delay_volume: Factor of the echo.
        pitch_shift_probability: Probability of a pitch shift.
        min_cents: Lowest pitch shift in cents.
        max_cents: Highest pitch shift in cents.
        reverb_probability: Probability of a reverberation.
        min_reverberance: Lowest reverberance in percent.
        max_reverberance: Highest reverberance in percent.
        min_damping: Lowest damping of high frequencies in percent.
        max_damping: Highest damping of high frequencies in percent.
        min_room_size: Smallest room scale in percent.
        max_room_size: Largest room scale in percent.

    Source: Spijkervet and Burgoyne, Contrastive Learning of Musical Representations (ISMIR 2021);
    Vélez Vásquez and Burgoyne, Tailed U-Net (ISMIR 2022).

    Example:

    ```python
    import dataclasses

    config = keras_tune.augment.AugmentConfig(pitch_shift_probability=0.0)
    chain = keras_tune.augment.clmr_chain(22050, seed=42, **dataclasses.asdict(config))
    ```
    """

    polarity_probability: Probability = 0.8
    noise_probability: Probability = 0.01
    min_noise_ratio: Ratio = 1e-4
    max_noise_ratio: Ratio = 1e-2
    gain_probability: Probability = 0.3
    min_gain_db: Decibels = -20.0
    max_gain_db: Decibels = -1.0
    filter_probability: Probability = 0.8
    min_high_pass: Frequency = 200.0
    max_high_pass: Frequency = 1200.0
    min_low_pass: Frequency = 2200.0
    max_low_pass: Frequency = 4000.0
    delay_probability: Probability = 0.3
    min_delay_ms: Milliseconds = 200.0
    max_delay_ms: Milliseconds = 450.0
    delay_step_ms: StepMilliseconds = 50.0
    delay_volume: Ratio = 0.5
    pitch_shift_probability: Probability = 0.6
    min_cents: Cents = -700.0
    max_cents: Cents = 700.0
    reverb_probability: Probability = 0.6
    min_reverberance: Percent = 0.0
    max_reverberance: Percent = 100.0
    min_damping: Percent = 0.0
    max_damping: Percent = 100.0
    min_room_size: Percent = 0.0
    max_room_size: Percent = 100.0


def check_values(config: Any, prefix: str = "") -> None:
    """Raise an error unless the annotations of a configuration allow the values of its fields.

    Args:
        config: Dataclass instance. Numbers with an `Interval`, `Literal` choices, and lists and
            nested dataclasses of them are checked; other fields are not.
        prefix: Text before the names of the fields. Defaults to "".

    Raises:
        ValueError: A value is not allowed.
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
