"""csv: any set that a table describes.

Layout expected: a file of comma- or tab-separated values with a header line, one row per clip, and
one column with the path of its audio file relative to the table (or absolute, or a URL in a store).
Other columns can contain the clip's id, its labels and its split.

Splits: the column named by `split_column` if the table has it (`train`, `valid`, `test`);
otherwise a hash of the id, or of `group_column`, so that no group (an artist, an album) is in two
splits.

Clips that are parts of longer files: keep the columns `start` and `duration` (seconds) as labels,
and a column `song` for the song of each part.

Example: Emotify (Aljanaki, Wiering & Veltkamp 2015) comes as `tracks.csv` with the columns
`track_id`, `file`, `genre`, `artist`, ..., `split`:
`manifest_for("csv", "emotify/tracks.csv", label_columns=["genre"])`.
"""

import warnings
from collections.abc import Sequence

import pandas as pd

from keras_tune.data.datasets.layout import Table
from keras_tune.data.datasets.splits import hash_split
from keras_tune.data.schema import merged_by_storage
from keras_tune.errors import UserError
from keras_tune.storage import AnyPath, beside, to_path

PATH_COLUMNS = ("path", "file", "filename", "file_name", "file_path", "audio_path", "mp3_path")
ID_COLUMNS = ("id", "track_id", "clip_id")


def csv_manifest(
    source: AnyPath,
    label_columns: Sequence[str] = (),
    path_column: str | None = None,
    id_column: str | None = None,
    split_column: str = "split",
    group_column: str | None = None,
    fractions: Sequence[float] = (0.8, 0.1, 0.1),
) -> pd.DataFrame:
    r"""List the clips of a table.

    Args:
        source: The csv or tsv file, or its URL in a store.
        label_columns: Columns to keep as labels. One whose values are all numbers is a number,
            any other a category, also one of whole numbers that single precision would make
            equal. Defaults to none.
        path_column: Column of the audio files. Defaults to the first of path, file, filename,
            file_name, file_path, audio_path and mp3_path that the table has.
        id_column: Column of the ids. Defaults to the first of id, track_id and clip_id that the
            table has, else the path is the id.
        split_column: Column of the splits, used if the table has it. Defaults to "split".
        group_column: Column of groups, each of which is in one split only, if splits are drawn.
            Defaults to None.
        fractions: Shares of train, valid and test if splits are drawn. Defaults to 80, 10 and
            10 %.

    Returns:
        DataFrame with the columns id, path, split and those of `label_columns`.

    Raises:
        UserError: If the file or a column is missing, a path or split is empty, or ids repeat.

    Example:

    ```python
    import pathlib

    from keras_tune.data.datasets import csv_manifest

    pathlib.Path("tracks.csv").write_text("track_id,file,genre\n1,1.mp3,rock\n2,2.mp3,jazz\n")
    manifest = csv_manifest("tracks.csv", label_columns=["genre"])
    ```
    """
    source = to_path(source)
    table = Table.read(source, "`source` must be a csv file with a header line.")
    columns = table.rows.columns
    if len(columns) == 1 and ";" in columns[0]:
        # Such files often have commas in numbers, which would become categories.
        raise UserError(
            f"{source}: the columns must be separated by commas or tabs, not by semicolons. "
            f"Received: {columns[0]}"
        )
    path_column = path_column or _first(table, PATH_COLUMNS)
    if path_column is None:
        raise UserError(
            f"`path_column` must be given, as no column of {source} has a usual name for files "
            f"({', '.join(columns)}). Received: path_column=None"
        )
    paths = table.column(path_column, complete=True)
    id_column = id_column or _first(table, ID_COLUMNS)
    if id_column is None and paths.duplicated().any():
        raise UserError(
            f"{source}: {paths[paths.duplicated()].iloc[0]} is in several rows, and no column is "
            f"named {', '.join(ID_COLUMNS[:-1])} or {ID_COLUMNS[-1]}. Add a column id with a name "
            "for each clip, or give `id_column`."
        )
    ids = table.ids(id_column or path_column)
    if split_column in table.rows.columns:
        splits = table.column(split_column, complete=True)
    elif group_column:
        splits = hash_split(table.column(group_column).fillna(ids), fractions)
    else:
        splits = hash_split(ids, fractions)
    manifest = pd.DataFrame(
        {
            "id": ids,
            "path": [beside(source.parent, path) for path in paths],
            "split": splits,
        }
    )
    if "start" in table.rows.columns and "start" not in label_columns:
        warnings.warn(
            f"{source}: start is not one of the label columns, so each clip is a whole file; for "
            "parts of files add start and duration to them",
            stacklevel=2,
        )
    for name in label_columns:
        if name in manifest.columns:
            raise UserError(f"{source}: {name!r} cannot be the name of a label. Rename the column.")
        manifest[name] = _label(table.column(name), source)
    return manifest


def _first(table, names):
    lower = {name.lower(): name for name in reversed(table.rows.columns)}
    return next((lower[name] for name in names if name in lower), None)


def _label(column, source):
    exact = pd.to_numeric(column, errors="coerce")
    numbers = exact.astype(float)
    missing = column.isna() | (column.astype(str).str.strip().str.lower() == "nan")
    others = column[numbers.isna() & ~missing]
    if len(others) == 0:
        # With missing ones, pandas has integers in double precision, which merges the largest.
        huge = numbers.abs().max() >= 2**53 and column[~missing].nunique() > numbers.nunique()
        if not huge and not merged_by_storage(exact.to_numpy()):
            return numbers
        warnings.warn(
            f"{source}: {column.name} is read as categories, since single precision, in which "
            "numbers are stored, would make some of its values equal",
            stacklevel=2,
        )
        return column.astype(str).where(column.notna())
    if len(others) < numbers.notna().sum():
        row = others.index[0] + 2
        warnings.warn(
            f"{source}: {column.name} is read as categories, since not all of its values are "
            f"numbers; the first that is none is {others.iloc[0]!r} in line {row}",
            stacklevel=2,
        )
    return column
