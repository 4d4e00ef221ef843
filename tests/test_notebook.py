"""The notebook runs from its first cell to its last, and holds no outputs."""

import json
import pathlib

import matplotlib.pyplot as plt
import numpy as np
import pytest

pytestmark = pytest.mark.one_backend

NOTEBOOK = pathlib.Path(__file__).parents[1] / "examples" / "embeddings.ipynb"


def test_the_cells_run(monkeypatch):
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert not any(cell.get("outputs") for cell in cells)
    monkeypatch.setattr(plt, "show", plt.close)
    # A few pieces are enough here, two windows of each.
    first = code[0].replace("num_clips=60", "num_clips=40")
    assert first != code[0]
    names = {}
    for source in (first, *code[1:]):
        exec(compile(source, str(NOTEBOOK), "exec"), names)
    assert names["vectors"].shape == (40, 512) and np.isfinite(names["vectors"]).all()
    assert set(names["scores"]) == {"tune_plus_open", "mel statistics"}
    assert len(names["windows"]) == len(names["times"]) == 7
