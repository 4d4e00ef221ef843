"""The files that come with a set: found in the layout of its archives, and its tables read.

What is missing or wrong raises a `UserError` that names the file.
"""

from __future__ import annotations

import contextlib
import io
import os
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from keras_tune.errors import UserError
from keras_tune.storage import AnyPath, to_path

if TYPE_CHECKING:
    import pandas as pd

# Options of pandas.read_csv: an id 007 stays 007, and a genre called None is not a missing value.
AS_TEXT = {"dtype": str, "keep_default_na": False, "na_values": [""]}


def locate(
    source: str | os.PathLike, folders: Iterable[str], holds: Sequence[str], fix: str
) -> pathlib.Path:
    """Return the first of some folders that contains one of the given names.

    Args:
        source: The set's folder.
        folders: Paths within it, with "." for the folder itself.
        holds: Names of files or folders. The right folder contains at least one of them.
        fix: What to do if there is none, for the error.

    Returns:
        `pathlib.Path` of a folder.

    Raises:
        UserError: If the folder is missing, or no folder contains any of the names.
    """
    source = pathlib.Path(source)
    if not source.is_dir():
        raise UserError(f"{source}: no such folder. {fix}")
    for folder in folders:
        if any((source / folder / name).exists() for name in holds):
            return source / folder
    raise UserError(f"{source}: contains no {' or '.join(holds)}. {fix}")


def audio_path(folder: str | os.PathLike, stem: str, suffixes: Iterable[str]) -> str:
    """Return the path of an audio file, with the first suffix if it does not exist with any.

    Args:
        folder: The folder of the file.
        stem: Its name, without the suffix.
        suffixes: The suffixes it may have, e.g. `(".wav", ".au")`.

    Returns:
        The path, a text.
    """
    paths = [pathlib.Path(folder) / f"{stem}{suffix}" for suffix in suffixes]
    return str(next((path for path in paths if path.is_file()), paths[0]))


def read_table(
    path: AnyPath, fix: str = "It is part of the set: see the adapter's description."
) -> pd.DataFrame:
    r"""Read a file of comma- or tab-separated values with a header line.

    Args:
        path: The file.
        fix: What to do if it is missing, for the error. Defaults to a hint at the
            adapter's description.

    Returns:
        DataFrame of texts; empty values are missing.

    Raises:
        UserError: If the file is missing or is not a table.
    """
    import pandas as pd

    path = to_path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file. {fix}")
    with reading(path):
        text = path.read_bytes().decode("utf-8-sig")
        separator = "\t" if "\t" in text.partition("\n")[0] else ","
        return pd.read_csv(io.StringIO(text), sep=separator, **AS_TEXT)


@contextlib.contextmanager
def reading(path: AnyPath) -> Iterator[None]:
    r"""Turn errors of reading a table into a `UserError` that names the file.

    Args:
        path: The table's file.
    """
    try:
        yield
    except UserError:
        raise
    except (ValueError, OSError) as error:
        raise UserError(f"{path}: cannot be read as csv ({error}).") from error


def table_column(
    table: pd.DataFrame, name: str, path: AnyPath, complete: bool = False
) -> pd.Series:
    """Return a column of a table.

    Args:
        table: What `read_table` returned.
        name: The column's name.
        path: The table's file, for the error.
        complete: Whether a missing value is an error. Defaults to False.

    Returns:
        Series of texts.

    Raises:
        UserError: If there is no such column, or with `complete` a value is missing.
    """
    if name not in table.columns:
        raise UserError(f"{path}: has no column {name!r}. It has: {', '.join(table.columns)}.")
    column = table[name]
    if complete and column.isna().any():
        raise UserError(
            f"{path}: the column {name!r} is empty on line {line_of(column.isna())}. "
            "Fill it in, or download the table again."
        )
    return column


def number_column(table: pd.DataFrame, name: str, path: AnyPath) -> pd.Series:
    """Return a column of a table as floats; raise a `UserError` unless all values are numbers.

    Args:
        table: What `read_table` returned.
        name: The column's name.
        path: The table's file, for the error.

    Returns:
        Series of floats.
    """
    import pandas as pd

    column = table_column(table, name, path, complete=True)
    numbers = pd.to_numeric(column, errors="coerce")
    problem = "is not a number. Fix it, or download the table again."
    refuse_values(column, numbers.isna(), path, problem)
    return numbers.astype(float)


def refuse_values(column: pd.Series, wrong: pd.Series, path: AnyPath, problem: str) -> None:
    """Raise a `UserError` that names the first value of a column for which `wrong` is true, if any.

    Args:
        column: Series, a column as `table_column` returns it.
        wrong: Boolean series, true where a value cannot be used.
        path: The file, for the error.
        problem: What is wrong with the value, and the fix.
    """
    if wrong.any():
        raise UserError(
            f"{path}: {column[wrong].iloc[0]!r} in the column {column.name!r} on line "
            f"{line_of(wrong)} {problem}"
        )


def unique_column(table: pd.DataFrame, name: str, path: AnyPath) -> pd.Series:
    """Return a column of ids; raise a `UserError` if one is missing or not unique.

    Args:
        table: What `read_table` returned.
        name: The column's name.
        path: The table's file, for the error.

    Returns:
        Series of texts.
    """
    ids = table_column(table, name, path, complete=True)
    if ids.duplicated().any():
        double = ids[ids.duplicated()].iloc[0]
        raise UserError(f"{path}: the id {double!r} occurs more than once. Ids must be unique.")
    return ids


def line_of(mask: pd.Series) -> int:
    """Return the line of the file with the first true value of `mask`."""
    # The header is line 1.
    return int(mask.to_numpy().argmax()) + 2
