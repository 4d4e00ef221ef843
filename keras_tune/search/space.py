"""What a search may vary: every setting is one value, a list of values or a range."""

import dataclasses
import math

from keras_tune.errors import UserError


@dataclasses.dataclass(frozen=True)
class Range:
    """An interval of numbers.

    Args:
        min: Lower end, included.
        max: Upper end, included.
        log: Whether to search evenly on the logarithm. Defaults to False.

    Example:

    ```python
    Range(1e-4, 1e-2, log=True)
    ```
    """

    min: float
    max: float
    log: bool = False


@dataclasses.dataclass
class Space:
    """The space of a search: a value fixes a setting, a list or a `Range` frees it.

    What only an encoder with a decoder has (contraction depth, tail length, links) is searched for
    those alone.

    Args:
        decoder_depth: Expansive stages; 0 is CLMR's SampleCNN.
        contraction_depth: Contractive stages; those below the decoder's depth are left out.
        tail_length: Divisions of the resolution by 3 from the waveform to the representation; 4 is
            the paper's vanilla TUNe, 9 its TUNe. A tail behind a shallower decoder has as many
            blocks fewer.
        extra_links: Links from the decoder to the tail: TUNe+.
        representation_dim: Size of the representation.
        base_filters: Width of the first stage; null takes the largest that the parameter budget
            allows.
        learning_rate: Of Adam.
        temperature: Of NT-Xent.
        augment: What is searched of the augmentations, by their keys.

    Raises:
        UserError: A list is empty, a range is upside down, or no contraction is as deep as a
            decoder.

    Example:

    ```python
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

    def __post_init__(self):
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
                raise UserError(
                    f"space.contraction_depth {self.contraction_depth}: must reach the decoder's "
                    f"depth of {depth}"
                )

    def contractions(self, decoder_depth):
        """The contraction depths that go with a decoder depth above 0, a list."""
        return [depth for depth in as_list(self.contraction_depth) if depth >= decoder_depth]

    def is_free(self, key):
        """Whether a setting has more than one value."""
        choice = getattr(self, key)
        return isinstance(choice, Range) or len(as_list(choice)) > 1


def as_list(choice):
    """The values of a choice that is no `Range`."""
    return list(choice) if isinstance(choice, (list, tuple)) else [choice]


# The least value that makes sense; augmentations check theirs when they are built.
_LEAST = {
    "decoder_depth": 0,
    "contraction_depth": 1,
    "tail_length": 1,
    "representation_dim": 1,
    "base_filters": 1,
}
_POSITIVE = ("learning_rate", "temperature")


def _check(key, choice):
    if isinstance(choice, Range):
        if not choice.min < choice.max or not math.isfinite(choice.max - choice.min):
            raise UserError(f"space.{key}: the range's min {choice.min} must be below {choice.max}")
        if choice.log and choice.min <= 0:
            raise UserError(f"space.{key}: a range with log must begin above 0, not {choice.min}")
        values = [choice.min]
    else:
        values = as_list(choice)
        if not values:
            raise UserError(f"space.{key}: the list is empty; give a value, a list or a range")
        if len(set(values)) < len(values):
            raise UserError(f"space.{key} {values}: holds a value twice")
    for value in values:
        if value is not None and value < _LEAST.get(key, -math.inf):
            raise UserError(f"space.{key} {value}: must be at least {_LEAST[key]}")
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"space.{key} {value}: must be finite")
        if key in _POSITIVE and value <= 0:
            raise UserError(f"space.{key} {value}: must be positive")
