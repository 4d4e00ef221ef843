"""gtzan: 1,000 excerpts of 30 s in ten genres, in the fault-filtered split.

Citation: G. Tzanetakis and P. Cook, "Musical genre classification of audio signals", IEEE
Transactions on Speech and Audio Processing 10(5), 2002.

Licence: none is known; the set is for research.

Where to get it: the archive `genres.tar.gz` (.au) was at http://opihi.cs.uvic.ca/sound; there are
copies with .wav files, such as https://www.kaggle.com/datasets/andradaolteanu/gtzan-dataset-music-genre-classification
in which `jazz.00054.wav` (a train clip) is damaged.

Layout expected:

    SOURCE/blues/blues.00000.wav ... SOURCE/rock/rock.00099.wav     or .au

or the same within `genres`, `genres_original` or `Data/genres_original` of SOURCE.

Label: the category `genre`.

Split: 443 / 197 / 290 clips. Repeated, mislabelled and distorted excerpts (B. L. Sturm, "The GTZAN
dataset: its contents, its faults, their effects on evaluation, and its future use",
arXiv:1306.1461) are left out, and no artist is in two splits; the lists, which ship with this
package, are those of C. Kereliuk, B. L. Sturm and J. Larsen, "Deep learning and music adversaries",
IEEE Transactions on Multimedia 17(11), 2015 (https://github.com/coreyker/dnn-mgr). For all 1,000
excerpts use the adapter `folder`.
"""

import os
import pathlib

import pandas as pd

from keras_tune.data.datasets.layout import audio_path, locate
from keras_tune.data.schema import SPLITS

GENRES = tuple("blues classical country disco hiphop jazz metal pop reggae rock".split())
FOLDERS = (".", "genres", "genres_original", "Data/genres_original")


def gtzan_manifest(source: str | os.PathLike) -> pd.DataFrame:
    """List the clips of GTZAN's fault-filtered split.

    Args:
        source: Folder with one folder per genre, or the one above it.

    Returns:
        DataFrame with the columns id, path, split and genre.

    Raises:
        UserError: If the folder contains no folder of a genre.

    Example:

    ```python
    from keras_tune.data.datasets import gtzan_manifest

    manifest = gtzan_manifest("gtzan/genres")
    ```
    """
    folder = locate(source, FOLDERS, GENRES, "`source` must be the folder with GTZAN's genres.")
    rows = [
        (name, audio_path(folder / genre, name, (".wav", ".au")), split, genre)
        for split in SPLITS
        for genre, name in _listed(split)
    ]
    manifest = pd.DataFrame(rows, columns=["id", "path", "split", "genre"])
    manifest.attrs["published_counts"] = {"train": 443, "valid": 197, "test": 290}
    return manifest


def _listed(split):
    """Return the genre and the name of each clip of a split."""
    lists = pathlib.Path(__file__).with_name("split_lists")
    text = (lists / f"gtzan_fault_filtered_{split}.txt").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return [line.removesuffix(".wav").split("/") for line in lines]
