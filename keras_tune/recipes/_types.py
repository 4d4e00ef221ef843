"""From annotated configurations to options: the parser checks ranges, and `--help` shows them.

The parser refuses values that are out of range, not finite or not numbers, and names the option.
"""

import dataclasses
import functools
import inspect
import math
import operator
import re
import types
import typing

from jsonargparse.typing import register_type

from keras_tune.types import Interval


def names_in(text):
    """The names in an option with commas, an empty list for None."""
    return [name.strip() for name in (text or "").split(",") if name.strip()]


@functools.cache
def as_options(config_class):
    """Make the class that the parser uses for a configuration.

    Args:
        config_class: A dataclass. Fields may be annotated with a `keras_tune.types.Interval`, also
            within lists and unions, and may be dataclasses themselves.

    Returns:
        A subclass whose types are those of the parser, and whose docstring also has the arguments
        of the base classes.
    """
    hints = typing.get_type_hints(config_class, include_extras=True)
    fields = []
    for field in dataclasses.fields(config_class):
        kind, factory = _option(hints[field.name]), field.default_factory
        if dataclasses.is_dataclass(field.type):
            kind = as_options(field.type)
            if callable(factory):
                factory = functools.partial(_default, kind, factory)
        default = dataclasses.field(default=field.default, default_factory=factory)
        fields.append((field.name, kind, default))
    namespace = {"__doc__": _documented(config_class), "__module__": config_class.__module__}
    return dataclasses.make_dataclass(
        config_class.__name__, fields, bases=(config_class,), namespace=namespace
    )


def from_options(config_class, values):
    """Make a configuration from the values that the parser has read.

    Args:
        config_class: The dataclass.
        values: Dict of the values of its fields; those that are dataclasses are of the classes of
            `as_options`.

    Returns:
        An instance of `config_class` itself, not of a subclass.
    """
    found = {}
    for field in dataclasses.fields(config_class):
        if field.name in values:
            value = values[field.name]
            nested = dataclasses.is_dataclass(field.type)
            found[field.name] = from_options(field.type, vars(value)) if nested else value
    return config_class(**found)


def _default(options_class, factory):
    """The default of a field that is a dataclass, as an instance of the parser's class."""
    return options_class(**vars(factory()))


def _option(hint):
    """The parser's type for an annotation."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated and isinstance(parts[1], Interval):
        return _number(parts[0], parts[1])
    if origin in (typing.Union, types.UnionType):
        return functools.reduce(operator.or_, map(_option, parts))
    if origin is list:
        return list[_option(parts[0])]
    return hint


@functools.cache
def _number(base, limits):
    """Register a type whose values are the numbers of the class `base` within an `Interval`."""

    def read(value):
        try:
            found = base(value)
            # Fractions are not integers, and YAML's yes and no are not numbers.
            whole = isinstance(value, str) or value == found
            if whole and not isinstance(value, bool) and math.isfinite(found) and found in limits:
                return found
        except (TypeError, ValueError, OverflowError):
            pass
        raise ValueError(f"got {value}")

    def check(value, _):
        return type(value) is base and value in limits

    name = f"{'integer' if base is int else 'number'} {limits}".rstrip()
    made = type(name, (base,), {"__module__": __name__})
    register_type(made, lambda value: value, read, type_check=check)
    return made


def _documented(config_class):
    """The docstring of a dataclass, with the arguments of its base classes at the end."""
    parts = [inspect.cleandoc(config_class.__doc__)]
    for base in config_class.__mro__[1:]:
        if dataclasses.is_dataclass(base):
            text = inspect.cleandoc(base.__doc__) + "\n"
            found = re.search(r"^(?:Args|Attributes):\n((?:    .*\n|\n)+)", text, re.MULTILINE)
            parts += [found[1].rstrip()] if found else []
    return "\n".join(parts)
