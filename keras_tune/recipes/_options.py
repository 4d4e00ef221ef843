"""Options: the parser's types for annotated configurations, and errors that name the option.

The parser refuses values that are out of range, not finite or not numbers, and `--help` shows the
ranges. Other errors are translated to one line with the option or the file, and the fix.
"""

import dataclasses
import difflib
import errno
import functools
import inspect
import math
import operator
import os
import pathlib
import re
import types
import typing

from keras_tune.errors import UserError
from keras_tune.types import Interval

# Errors of the system, and how to fix them.
FIXES = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space",
    errno.EFBIG: "raise the limit of file sizes (ulimit -f)",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENAMETOOLONG: "give a shorter name",
}


def names_in(text):
    """The names in an option with commas, an empty list for None."""
    return [name.strip() for name in (text or "").split(",") if name.strip()]


@functools.cache
def as_options(config_class):
    """Make the subclass of a configuration that the parser uses.

    Its types are those of the parser, and its docstring also has the arguments of the base classes.
    Fields may be annotated with a `keras_tune.types.Interval`, also within lists and unions, and
    may be dataclasses themselves.
    """
    hints = typing.get_type_hints(config_class, include_extras=True)
    fields = []
    for field in dataclasses.fields(config_class):
        kind, factory = _parser_type(hints[field.name]), field.default_factory
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
    """Make a configuration, of `config_class` itself, from the values that the parser has read.

    `values` is a dict; values that are dataclasses are of the classes of `as_options`.
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


def _parser_type(hint):
    """The parser's type for an annotation."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated and isinstance(parts[1], Interval):
        return _number(parts[0], parts[1])
    if origin in (typing.Union, types.UnionType):
        return functools.reduce(operator.or_, map(_parser_type, parts))
    if origin is list:
        return list[_parser_type(parts[0])]
    return hint


@functools.cache
def _number(base, limits):
    """Register a type whose values are the numbers of the class `base` within an `Interval`."""
    from jsonargparse.typing import register_type

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


def answer_of_system(error, config):
    """An error of the system as one line with the file and the fix; None for other errors.

    Libraries that write files themselves (HDF5, TensorFlow, libsndfile) raise their own errors, at
    best with the message of the system in them.
    """
    if isinstance(error, MemoryError):
        return f"not enough memory ({error or 'none left'}); give a smaller batch or shorter clips"
    number, reason, file = None, None, None
    if isinstance(error, OSError):
        number, reason, file = error.errno, error.strerror or str(error), error.filename
    else:
        for code in (*FIXES, errno.EACCES, errno.EROFS):
            if os.strerror(code) in str(error):
                number, reason = code, os.strerror(code)
        if number is None:
            return None
    output = getattr(config, "output", None)
    file = file if file is not None else output
    fix = FIXES.get(number)
    if fix is None:
        fix = f"give another --output than {output}" if _within(file, output) else "check the file"
    again = "resume with --resume true" if hasattr(config, "resume") else "run again"
    return f"{file}: {reason}; {fix} and {again}"


def _within(file, output):
    """Whether a file is the output, in it, or one of its parent folders."""
    if output is None or isinstance(file, int):
        return False
    file, output = os.path.abspath(os.fsdecode(file)), os.path.abspath(output)
    return os.path.commonpath([file, output]) in (file, output)


def described(message, options, recipes, positional=""):
    """The parser's message; for a value of the wrong type, `--option value: takes ...`.

    `positional` is the option that may be given first, without its name.
    """
    stray = re.match(r"unrecognized arguments: ([^-].*)", message)
    if stray:
        if positional:
            one = "with one value: for several files, their folder"
            return f"{stray[1]}: unexpected; write --{positional} VALUE, {one}"
        return f"{stray[1]}: unexpected; write --option value, and lists as [a,b]"
    short = re.match(r"unrecognized arguments: (-[^- ]\S*)", message)
    if short:
        return f"{short[1]}: no such option; options begin with --, see --help"
    unknown = re.match(r"unrecognized arguments: (--[^ =]+)", message)
    if unknown:
        hint = _nearest_option(unknown[1], options)
        return f"{unknown[1]}: no such option; {hint or 'see --help'}"
    required = re.match(r"the following arguments are required: (.*)", message)
    if required:
        names = (f"--{name}" for name in required[1].split(", "))
        return f"{', '.join(names)}: required; see --help"
    not_here = re.match(r"Option '([^']+)' is not accepted", message)
    if not_here:
        return f"--config: {not_here[1]} is no option of this command; see --help"
    key = re.match(r'Parser key "([^"]+)": (.*)', message)
    if key is None:
        return message
    option, rest = key.groups()
    missing = re.match(r"File does not exist: '(.*)'", rest)
    if missing:
        by_file = {file.name: name for name, file in recipes.items()}
        close = difflib.get_close_matches(pathlib.Path(missing[1]).name, by_file, n=1)
        hint = "".join(
            f"; did you mean the recipe {by_file[name]}, which comes with the package?"
            for name in close
        )
        return f"--{option} {missing[1]}: no such file{hint}"
    folder = re.match(r"Path is not a file: '(.*)'", rest)
    if folder:
        return f"--{option} {folder[1]}: is no file; give a YAML file or the name of a recipe"
    choice = re.match(r"Expected a typing.Literal\[(.*?)\]. Got value: (.*)$", rest)
    if choice:
        return _wrong_choice(option, choice[2], choice[1])
    one = re.match(r"Not of type (.+?): got (.*)$", rest)
    several = re.search(r"Subtypes: [\[(](.*?)[\])] Errors: .* Given value: (.*)$", rest)
    if one is None and several is None:
        return message
    kinds, value = (one or several).groups()
    # <class 'keras_tune.recipes._options.integer from 1 to 9'>, <class 'NoneType'>
    kinds = re.sub(r"<class '([^']+)'>", r"\1", kinds).replace("keras_tune.recipes._options.", "")
    kinds = kinds.replace("NoneType", "null")
    choices = re.match(r"typing.Literal\[([^]]*)\]", kinds)
    if choices:
        return _wrong_choice(option, value, choices[1])
    return f"--{option} {value}: takes {kinds.replace(', null', ' or null')}"


def _wrong_choice(option, value, choices):
    known = re.findall(r"'([^']*)'", choices)
    return f"--{option} {value}: {did_you_mean(value, known) or 'use one of ' + ', '.join(known)}"


def _nearest_option(option, options):
    """The option that is meant: of all options, or by the last part of its name, model.preset."""
    options = [name for name in options if name not in ("--help", "--config")]
    ends = {f"--{name.rpartition('.')[2].removeprefix('--')}": name for name in reversed(options)}
    if option in ends:
        return f"did you mean {ends[option]}?"
    # Without the two hyphens, which would make names with little in common similar.
    names = {name.removeprefix("--"): name for name in options}
    close = difflib.get_close_matches(option.removeprefix("--"), names, n=1)
    return f"did you mean {names[close[0]]}?" if close else ""


def did_you_mean(word, known):
    """Return "did you mean X?" for the nearest of the known words, or "" if none is near."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"did you mean {close[0]}?" if close else ""


def names_options(otherwise=None, **names):
    """Let errors about arguments of library functions name the option that the value came from.

    The library raises `ValueError`s such as "`folds` must be at least 2. Received: folds=1". If the
    configuration has an option of this name, or exactly one of its groups has (`task.folds`),
    `main` raises a `UserError` instead, which says "--folds 1: must be at least 2". Other errors
    stay as they are.

    Args:
        otherwise: Options to put before a `ValueError` that names none. Defaults to None.
        **names: The options whose names differ from those of the arguments: `columns="target"`.
            None for an argument without an option.

    Returns:
        A decorator of `main`, or of another function whose first argument is the configuration.
    """

    def decorate(main):
        @functools.wraps(main)
        def wrapped(config, *arguments):
            try:
                return main(config, *arguments)
            except ValueError as error:
                message = _about_option(str(error), names, type(config))
                if message is None and (otherwise is None or isinstance(error, UserError)):
                    raise
                if message is None:
                    raise UserError(f"{otherwise}: {error}") from error
                raise UserError(_with_options(message, type(config))) from error

        return wrapped

    return decorate


def with_option_names(message, config_class):
    """The library's message with the names of options in place of those of arguments."""
    return _with_options(_about_option(message, {}, config_class) or message, config_class)


def _about_option(message, names, config_class):
    """The library's message about an argument as one about an option; None if there is no such."""
    found = re.fullmatch(r"`([\w.]+)` (.+?)\.? Received: \1=(.*)", message, re.DOTALL)
    if found is None:
        return None
    argument, problem, value = found.groups()
    option = _option_of(names.get(argument, argument), config_class)
    if option is None:
        return None
    if value == "None":
        return f"--{option}: {problem}"
    if value.startswith("["):
        # Lists as they are written on the command line.
        value = value.replace("'", "").replace(", ", ",")
    return f"--{option} {value}: {problem}"


def _option_of(argument, config_class):
    """The name of the option that gives an argument; None if none does, or several could."""
    options = list(_dotted_names(config_class))
    if argument in options:
        return argument
    # A key within an option that is a table, such as `space.augment.min_cents`.
    if any(argument.startswith(f"{option}.") for option in options):
        return argument
    within = [option for option in options if option.endswith(f".{argument}")]
    return within[0] if len(within) == 1 else None


def _with_options(message, config_class):
    """Replace arguments that a message mentions by the names of their options.

    "`micro_batch`" becomes "--micro_batch", and "`resume=True`" becomes "--resume true".
    """

    def replace(found):
        option = _option_of(found[1], config_class)
        if option is None:
            return found[0]
        if found[2] is None:
            return f"--{option}"
        value = found[2].strip("'\"")
        return f"--{option} {value.lower() if value in ('True', 'False') else value}"

    return re.sub(r"`([\w.]+)(?:=([^`]+))?`", replace, message)


def _dotted_names(config_class, prefix=""):
    """The dotted names of all options, those with keys of their own included."""
    for field in dataclasses.fields(config_class):
        yield prefix + field.name
        if dataclasses.is_dataclass(field.type):
            yield from _dotted_names(field.type, f"{prefix}{field.name}.")
