"""magnatagatune: 25,863 clips of 29 s, tagged by players of a game; the 50 most frequent tags.

Citation: E. Law, K. West, M. Mandel, M. Bay and J. S. Downie, "Evaluation of algorithms using
games: the case of music tagging", ISMIR 2009.

Licence: CC BY-NC-SA 3.0 (music of the Magnatune label).

Where to get it: https://mirg.city.ac.uk/codeapps/the-magnatagatune-dataset: `annotations_final.csv`
and the three parts of `mp3.zip`, which `cat mp3.zip.* > mp3.zip` puts together.

Layout expected:

    SOURCE/annotations_final.csv          tab-separated: clip_id, one 0/1 column per tag, mp3_path
    SOURCE/0/*.mp3 ... SOURCE/f/*.mp3     16 folders, or the same within SOURCE/mp3

Labels: a number (0 or 1) for each of the 50 tags with the highest counts over the whole table, and
the category `song`: the clips of one song share it, and are in one folder.

Splits, both by folder (0-9, a, b train; c valid; d, e, f test):

- `full`: every clip whose file is not empty, 18,706 / 1,825 / 5,329. Used by CLMR (Spijkervet &
  Burgoyne 2021), TUNe (2022) and jukemir (Castellon et al. 2021). The files of the clips 35644,
  55753 and 57881 are empty in the archive.
- `clean`: of these, the clips with at least one of the 50 tags, 15,247 / 1,529 / 4,332. Used by Lee
  et al. ("Sample-level deep convolutional neural networks", SMC 2017, the `MTAT_split` of
  https://github.com/jongpillee/music_dataset_split) and by Won et al. (2020). Their lists are not
  needed, because they follow from the table. Their second condition, more than 29.1 s of audio, is
  true for all clips except the empty ones. If a publication counts these, its number for train is
  higher by up to three.

The two have different test sets, so their scores cannot be compared.
"""

import os
import pathlib

import pandas as pd

from keras_tune.data.datasets.layout import Table, line_of, locate
from keras_tune.errors import UserError

TAGS = 50
TABLE = "annotations_final.csv"
FOLDERS = "0123456789abcdef"
EMPTY_FILES = (
    "6/norine_braun-now_and_zen-08-gently-117-146.mp3",
    "8/jacob_heringman-josquin_des_prez_lute_settings-19-gintzler__pater_noster-204-233.mp3",
    "9/american_baroque-dances_and_suites_of_rameau_and_couperin-25-"
    "le_petit_rien_xiveme_ordre_couperin-88-117.mp3",
)
PUBLISHED = {
    "full": {"train": 18706, "valid": 1825, "test": 5329},
    "clean": {"train": 15247, "valid": 1529, "test": 4332},
}


def magnatagatune_manifest(source: str | os.PathLike, split: str = "full") -> pd.DataFrame:
    """List the clips of MagnaTagATune with the 50 most frequent tags.

    Args:
        source: Folder with `annotations_final.csv` and the folders of clips.
        split: "full" for all clips, "clean" for those with at least one of the 50 tags. Defaults
            to "full".

    Returns:
        DataFrame with the columns id, path, split, song and one for each tag, the most frequent
        first.

    Raises:
        UserError: If the table or the folders of clips are missing, or the table is damaged.

    Example:

    ```python
    from keras_tune.data.datasets import magnatagatune_manifest

    manifest = magnatagatune_manifest("magnatagatune", split="clean")
    ```
    """
    if split not in PUBLISHED:
        raise UserError(f"`split` must be 'full' or 'clean'. Received: split={split}")
    source = pathlib.Path(source)
    fix = f"`source` must be the folder with MagnaTagATune's {TABLE}."
    table = Table.read(source / TABLE, fix)
    ids = table.ids("clip_id")
    paths = table.column("mp3_path", complete=True)
    strange = ~paths.str.match(r"[0-9a-f]/.+\.mp3$")
    table.refuse("mp3_path", strange, "is not like '0/name.mp3'. Download the table again.")
    audio = locate(source, [".", "mp3"], list(FOLDERS), "Unpack mp3.zip there.")
    tags = _top_tags(table)
    manifest = pd.DataFrame(
        {
            "id": ids,
            "path": [str(audio / path) for path in paths],
            "split": [_split(path) for path in paths],
            "song": paths.str.replace(r"-\d+-\d+\.mp3$", "", regex=True),
        }
    )
    manifest = pd.concat([manifest, tags], axis=1)
    kept = ~paths.isin(EMPTY_FILES)
    if split == "clean":
        kept &= tags.any(axis=1)
    manifest = manifest[kept].reset_index(drop=True)
    manifest.attrs["published_counts"] = PUBLISHED[split]
    return manifest


def _top_tags(table):
    texts = table.rows.drop(columns=["clip_id", "mp3_path"])
    if texts.shape[1] < TAGS:
        raise UserError(
            f"{table.file}: has {texts.shape[1]} columns of tags, fewer than {TAGS}. "
            "Download it again."
        )
    wrong = ~texts.isin(["0", "1"])
    if wrong.to_numpy().any():
        name = wrong.columns[wrong.any()][0]
        raise UserError(
            f"{table.file}: the tag {name!r} on line {line_of(wrong[name])} is neither 0 nor 1. "
            "Download the table again."
        )
    tags = pd.DataFrame(texts.to_numpy() == "1", columns=texts.columns).astype(float)
    return tags[tags.sum().sort_values(ascending=False, kind="stable").index[:TAGS]]


def _split(path):
    return "train" if path[0] <= "b" else "valid" if path[0] == "c" else "test"
