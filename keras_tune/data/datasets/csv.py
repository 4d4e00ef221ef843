"""csv: any set that a table describes.

Layout expected: a file of comma- or tab-separated values with a header line, one row a clip, one
column holding the path of its audio file relative to the table (or absolute). Other columns can
hold the clip's id, its labels and its split.

Splits: the column named by `split_column` where the table has it (`train`, `valid`, `test`);
otherwise a hash of the id, or of `group_column`, so that no group (an artist, an album) is in two
splits.

Example: Emotify (Aljanaki, Wiering & Veltkamp 2015) comes as `tracks.csv` with the columns
`track_id`, `file`, `genre`, `artist`, ..., `split`:
`manifest_for("csv", "emotify/tracks.csv", label_columns=["genre"])`.
"""

import pathlib

from keras_tune.data.datasets.splits import hash_split
from keras_tune.errors import UserError

PATH_COLUMNS = ("path", "file", "filename", "file_name", "file_path", "audio_path", "mp3_path")
ID_COLUMNS = ("id", "track_id", "clip_id")


def csv_manifest(
    source,
    label_columns=(),
    path_column=None,
    id_column=None,
    split_column="split",
    group_column=None,
    fractions=(0.8, 0.1, 0.1),
):
    """List the clips of a table.

    Args:
        source: The csv or tsv file.
        label_columns: Columns to keep as labels. One whose values are all numbers is a number,
            any other a category. Defaults to none.
        path_column: Column of the audio files. Defaults to the first of path, file, filename,
            file_name, file_path, audio_path and mp3_path that the table has.
        id_column: Column of the ids. Defaults to the first of id, track_id and clip_id that the
            table has, else the path is the id.
        split_column: Column of the splits, used if the table has it. Defaults to "split".
        group_column: Column whose values must not be torn apart by a split that is drawn here.
        fractions: Shares of train, valid and test where splits are drawn. Defaults to 80, 10 and
            10 %.

    Returns:
        DataFrame with the columns id, path, split and those of `label_columns`.

    Raises:
        UserError: If the file or a column is missing, a path or split is empty, or an id is double.

    Example:

    ```python
    manifest = csv_manifest("emotify/tracks.csv", label_columns=["genre"])
    ```
    """
    import pandas as pd

    source = pathlib.Path(source)
    table = _read(source)
    path_column = path_column or _first(table, PATH_COLUMNS)
    if path_column is None:
        raise UserError(
            f"{source}: no column is named like one of files ({', '.join(table.columns)}). "
            "Give --path_column."
        )
    paths = _column(table, path_column, source, complete=True)
    id_column = id_column or _first(table, ID_COLUMNS)
    ids = _column(table, id_column, source, complete=True) if id_column else paths
    if ids.duplicated().any():
        double = ids[ids.duplicated()].iloc[0]
        raise UserError(f"{source}: the id {double!r} is there more than once. Ids must be unique.")
    if split_column in table.columns:
        splits = _column(table, split_column, source, complete=True)
    elif group_column:
        groups = _column(table, group_column, source).fillna(ids)
        splits = hash_split(groups, fractions)
    else:
        splits = hash_split(ids, fractions)
    manifest = pd.DataFrame(
        {
            "id": ids,
            "path": [str(source.parent / path) for path in paths],
            "split": splits,
        }
    )
    for name in label_columns:
        if name in manifest.columns:
            raise UserError(f"{source}: {name!r} cannot be the name of a label. Rename the column.")
        manifest[name] = _label(_column(table, name, source))
    return manifest


def _read(source):
    import pandas as pd

    if not source.is_file():
        raise UserError(f"{source}: no such file. Give --source a csv file with a header line.")
    try:
        with open(source, encoding="utf-8-sig") as file:
            separator = "\t" if "\t" in file.readline() else ","
        # As text: an id 007 stays one, and a genre called None is not a missing value.
        return pd.read_csv(
            source,
            sep=separator,
            dtype=str,
            keep_default_na=False,
            na_values=[""],
            encoding="utf-8-sig",
        )
    except (ValueError, OSError) as error:
        raise UserError(f"{source}: cannot be read as csv ({error}).") from error


def _first(table, names):
    lower = {name.lower(): name for name in reversed(table.columns)}
    return next((lower[name] for name in names if name in lower), None)


def _column(table, name, source, complete=False):
    if name not in table.columns:
        raise UserError(f"{source}: has no column {name!r}. It has: {', '.join(table.columns)}.")
    column = table[name]
    if complete and column.isna().any():
        # The header is line 1.
        line = int(column.isna().to_numpy().argmax()) + 2
        raise UserError(f"{source}: the column {name!r} is empty on line {line}.")
    return column


def _label(column):
    import pandas as pd

    try:
        return pd.to_numeric(column).astype(float)
    except (ValueError, TypeError):
        return column
