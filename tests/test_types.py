"""Configurations refuse values that their annotations do not allow."""

import dataclasses
from typing import Literal

import pytest

from keras_tune.types import Count, Fraction, Interval, Positive, Width, check_values

pytestmark = pytest.mark.one_backend


@dataclasses.dataclass
class Inner:
    widths: list[Width] | None = None
    level: Fraction | None = None


@dataclasses.dataclass
class Config:
    inner: Inner = dataclasses.field(default_factory=Inner)
    name: str = "x"
    epochs: Count = 3
    rate: Positive = 0.1
    kind: Literal["a", "b"] = "a"
    size: Count | None = None


@pytest.mark.parametrize(
    "config",
    [
        Config(),
        Config(size=1, rate=2, kind="b"),
        Config(Inner([1, 2], 1.0)),
        Config(Inner((65536,))),
    ],
)
def test_what_is_allowed(config):
    check_values(config)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (Config(epochs=0), "`epochs` must be an integer from 1 to 1,000,000. Received: epochs=0"),
        (Config(epochs=2.0), "Received: epochs=2.0"),
        (Config(epochs=True), "Received: epochs=True"),
        (Config(rate=0), "`rate` must be a number above 0. Received: rate=0"),
        (Config(rate=float("nan")), "Received: rate=nan"),
        (Config(rate=float("inf")), "Received: rate=inf"),
        (Config(rate="1"), "Received: rate=1"),
        (Config(kind="c"), "`kind` must be one of a, b. Received: kind=c"),
        (Config(size=-1), "from 1 to 1,000,000 or None. Received: size=-1"),
        (Config(Inner([4, 0])), "`inner.widths` must be a list, each an integer from 1"),
        (Config(Inner(level=0.0)), "number above 0 to 1 or None. Received: inner.level=0.0"),
    ],
)
def test_what_is_refused(config, message):
    with pytest.raises(ValueError) as found:
        check_values(config)
    assert message in str(found.value)


def test_ranges():
    assert 0 in Interval(0, 1) and 1 in Interval(0, 1) and 1.1 not in Interval(0, 1)
    assert 0 not in Interval(above=0) and 1 not in Interval(below=1)
    assert float("nan") not in Interval() and 10**30 in Interval()
    assert str(Interval(1, 1_000_000)) == "from 1 to 1,000,000"
    assert str(Interval(above=0, high=1)) == "above 0 to 1"
    assert str(Interval()) == ""
