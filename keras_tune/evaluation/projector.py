"""Embeddings in the format of TensorBoard's projector."""

import pathlib

import numpy as np

from keras_tune.files import write_text


def write_projector(folder, embeddings, columns=()):
    """Write `vectors.tsv`, `metadata.tsv` and the `projector_config.pbtxt` that names them.

    Open them by `tensorboard --logdir FOLDER`, or load the two tables at projector.tensorflow.org.

    Args:
        folder: Folder to write to, made if it is missing.
        embeddings: `ClipEmbeddings`.
        columns: Labels to show. Defaults to none but the ids.

    Example:

    ```python
    write_projector("runs/probe/projector", test, ["genre"])
    ```
    """
    folder = pathlib.Path(folder)
    vectors = ["\t".join(f"{value:.6g}" for value in row) for row in np.asarray(embeddings.vectors)]
    write_text(folder / "vectors.tsv", "\n".join(vectors) + "\n")
    rows = [["id", *columns]]
    for clip, labels in zip(embeddings.ids, embeddings.labels, strict=True):
        rows.append([clip, *(labels.get(column) for column in columns)])
    lines = ["\t".join(" ".join(str(cell).split()) for cell in row) for row in rows]
    if not columns:
        # A table of one column has no header.
        lines = lines[1:]
    write_text(folder / "metadata.tsv", "\n".join(lines) + "\n")
    config = (
        "embeddings {\n"
        '  tensor_name: "clips"\n'
        '  tensor_path: "vectors.tsv"\n'
        '  metadata_path: "metadata.tsv"\n'
        "}\n"
    )
    write_text(folder / "projector_config.pbtxt", config)
