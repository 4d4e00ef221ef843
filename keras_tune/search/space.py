"""The search space: every setting is one value, a list of values or a range."""

import dataclasses
import math
from typing import Any

from keras_tune.errors import UserError


@dataclasses.dataclass(frozen=True)
class Range:
    """An interval of numbers.

    Args:
        min: Lower end, included.
        max: Upper end, included.
        log: Whether to sample evenly on a logarithmic scale. Defaults to False.

    Example:

    ```python
    keras_tune.search.Range(1e-4, 1e-2, log=True)
    ```
    """

    min: float
    max: float
    log: bool = False


@dataclasses.dataclass
class Space:
    """The search space: a single value fixes a setting, a list or a `Range` makes it free.

    Contraction depth, tail length and links only exist for encoders with a decoder, and are only
    searched for those.

    Args:
        decoder_depth: Expansive stages; 0 is CLMR's SampleCNN.
        contraction_depth: Contractive stages; values below the depth of the decoder are skipped.
        tail_length: Divisions of the resolution by 3 from the waveform to the representation; 4 in
            the paper's vanilla TUNe, 9 in its TUNe. With a shallower decoder, the tail has fewer
            blocks by the same number.
        extra_links: Links from the decoder to the tail: TUNe+.
        representation_dim: Size of the representation.
        base_filters: Width of the first stage; null takes the largest that the parameter budget
            allows.
        learning_rate: Learning rate of Adam.
        temperature: Temperature of NT-Xent.
        augment: The settings of the augmentations to search, by name.

    Raises:
        UserError: A list is empty, the ends of a range are in the wrong order, or no contraction is
            as deep as a decoder.

    Example:

    ```python
    from keras_tune.search import Range, Space

    Space(decoder_depth=[0, 2, 4], learning_rate=Range(1e-4, 1e-2, log=True))
    ```
    """

    decoder_depth: int | list[int] = dataclasses.field(default_factory=lambda: [0, 1, 2, 3, 4])
    contraction_depth: int | list[int] = 4
    tail_length: int | list[int] = 9
    extra_links: bool | list[bool] = True
    representation_dim: int | list[int] = 512
    base_filters: int | list[int] | None = None
    learning_rate: float | list[float] | Range = 3e-4
    temperature: float | list[float] | Range = 0.5
    augment: dict[str, float | list[float] | Range] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        named = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name != "augment"
        }
        named |= {f"augment.{key}": value for key, value in self.augment.items()}
        for key, choice in named.items():
            _check(key, choice)
        for depth in as_list(self.decoder_depth):
            if depth and not self.contractions(depth):
                raise _error(
                    "contraction_depth",
                    f"must reach the decoder's depth of {depth}",
                    self.contraction_depth,
                )

    def contractions(self, decoder_depth: int) -> list[int]:
        """The contraction depths that are possible with a decoder depth above 0."""
        return [depth for depth in as_list(self.contraction_depth) if depth >= decoder_depth]

    def is_free(self, key: str) -> bool:
        """Whether a setting has more than one value."""
        choice = getattr(self, key)
        return isinstance(choice, Range) or len(as_list(choice)) > 1


def as_list(choice: Any) -> list:
    """The values of a choice that is not a `Range`."""
    return list(choice) if isinstance(choice, (list, tuple)) else [choice]


# The smallest possible value; augmentations check theirs when they are built.
_LEAST = {
    "decoder_depth": 0,
    "contraction_depth": 1,
    "tail_length": 1,
    "representation_dim": 1,
    "base_filters": 1,
}
_POSITIVE = ("learning_rate", "temperature")


def _error(key, problem, value):
    return UserError(f"`space.{key}` {problem}. Received: space.{key}={value}")


def _check(key, choice):
    if isinstance(choice, Range):
        if not choice.min < choice.max or not math.isfinite(choice.max - choice.min):
            raise _error(key, "must be a range whose min is below its max, both finite", choice)
        if choice.log and choice.min <= 0:
            raise _error(key, "must begin above 0 if it is a range with log", choice)
        values = [choice.min]
    else:
        values = as_list(choice)
        if not values:
            raise _error(key, "must not be empty: give a value, a list or a range", choice)
        if len(set(values)) < len(values):
            raise _error(key, "must not contain a value twice", values)
    for value in values:
        if value is not None and value < _LEAST.get(key, -math.inf):
            raise _error(key, f"must be at least {_LEAST[key]}", value)
        if isinstance(value, float) and not math.isfinite(value):
            raise _error(key, "must be finite", value)
        if key in _POSITIVE and value <= 0:
            raise _error(key, "must be positive", value)
