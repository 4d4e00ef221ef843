"""The files that come with a set: found in the layout of its archives, and its tables read.

What is missing or wrong raises a `UserError` that names the file.
"""

import contextlib
import dataclasses
import io
import os
import pathlib
from collections.abc import Iterable, Iterator, Sequence

import pandas as pd

from keras_tune.errors import UserError
from keras_tune.storage import AnyPath, FilePath, to_path

# Options of pandas.read_csv: an id 007 stays 007, and a genre called None is not a missing value.
AS_TEXT = {"dtype": str, "keep_default_na": False, "na_values": [""]}


def locate(
    source: str | os.PathLike, folders: Iterable[str], holds: Sequence[str], fix: str
) -> pathlib.Path:
    """Return the first of some folders that contains one of the given names.

    Args:
        source: The set's folder.
        folders: Paths within it, with "." for the folder itself.
        holds: Names of files or folders, at least one of which the right folder contains.
        fix: What to do if there is none, for the error.
    """
    source = pathlib.Path(source)
    if not source.is_dir():
        raise UserError(f"{source}: no such folder. {fix}")
    for folder in folders:
        if any((source / folder / name).exists() for name in holds):
            return source / folder
    raise UserError(f"{source}: contains no {' or '.join(holds)}. {fix}")


def audio_path(folder: str | os.PathLike, stem: str, suffixes: Iterable[str]) -> str:
    """Return the path of an audio file, with the first suffix if it does not exist with any."""
    paths = [pathlib.Path(folder) / f"{stem}{suffix}" for suffix in suffixes]
    return str(next((path for path in paths if path.is_file()), paths[0]))


def audio_seconds(path: str | os.PathLike) -> float | None:
    """Return the duration of an audio file; None if it cannot be read, which `prepare` reports."""
    import soundfile

    try:
        return soundfile.info(path).duration
    except (OSError, RuntimeError):
        return None


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of a set; what is missing or wrong in it raises a `UserError` that names the file.

    Args:
        file: Its file.
        rows: DataFrame of texts; empty values are missing.
    """

    file: FilePath
    rows: pd.DataFrame

    @classmethod
    def read(
        cls, path: AnyPath, fix: str = "It is part of the set: see the adapter's description."
    ) -> "Table":
        """Read a file of comma- or tab-separated values with a header line.

        Args:
            path: The file.
            fix: What to do if it is missing, for the error. Defaults to a hint at the adapter's
                description.
        """
        path = to_path(path)
        if not path.is_file():
            raise UserError(f"{path}: no such file. {fix}")
        with reading(path):
            text = path.read_bytes().decode("utf-8-sig")
            separator = "\t" if "\t" in text.partition("\n")[0] else ","
            return cls(path, pd.read_csv(io.StringIO(text), sep=separator, **AS_TEXT))

    def column(self, name: str, complete: bool = False) -> pd.Series:
        """Return a column of texts; with `complete`, no value may be missing. Defaults to False."""
        if name not in self.rows.columns:
            known = ", ".join(self.rows.columns)
            raise UserError(f"{self.file}: has no column {name!r}. It has: {known}.")
        column = self.rows[name]
        if complete and column.isna().any():
            raise UserError(
                f"{self.file}: the column {name!r} is empty on line {line_of(column.isna())}. "
                "Fill it in, or download the table again."
            )
        return column

    def ids(self, name: str) -> pd.Series:
        """Return a column of texts, none of which may be missing or occur twice."""
        ids = self.column(name, complete=True)
        if ids.duplicated().any():
            double = ids[ids.duplicated()].iloc[0]
            raise UserError(
                f"{self.file}: the id {double!r} occurs more than once. Ids must be unique."
            )
        return ids

    def numbers(self, name: str) -> pd.Series:
        """Return a column as floats; all values must be numbers."""
        numbers = pd.to_numeric(self.column(name, complete=True), errors="coerce")
        self.refuse(name, numbers.isna(), "is not a number. Fix it, or download the table again.")
        return numbers.astype(float)

    def refuse(self, name: str, wrong: pd.Series, problem: str) -> None:
        """Raise a `UserError` that names the first value of a column which is wrong, if any is.

        Args:
            name: The column's name.
            wrong: Boolean series, true where a value cannot be used.
            problem: What is wrong with the value, and the fix.
        """
        if wrong.any():
            raise UserError(
                f"{self.file}: {self.rows[name][wrong].iloc[0]!r} in the column {name!r} on line "
                f"{line_of(wrong)} {problem}"
            )


@contextlib.contextmanager
def reading(path: AnyPath) -> Iterator[None]:
    """Turn errors of reading a table into a `UserError` that names the file."""
    try:
        yield
    except UserError:
        raise
    except (ValueError, OSError) as error:
        raise UserError(f"{path}: cannot be read as csv ({error}).") from error


def line_of(mask: pd.Series) -> int:
    """Return the line of the file with the first true value of `mask`."""
    # The header is line 1.
    return int(mask.to_numpy().argmax()) + 2
