import numpy as np
import pandas as pd
import pytest

from keras_tune.evaluation import plots

pytestmark = pytest.mark.one_backend


@pytest.fixture
def figures(monkeypatch):
    found = []
    monkeypatch.setattr(plots, "save_figure", lambda figure, path: found.append(figure))
    return found


def test_a_history_with_a_probe_every_few_epochs(figures):
    history = pd.DataFrame({"epoch": range(6), "loss": np.linspace(3, 2, 6)})
    history["val_probe"] = [0.3, np.nan, 0.5, np.nan, np.nan, 0.6]
    plots.draw_history("training.png", history, {"loss": {"chance": 3.5}})
    loss, probe = figures[0].axes
    assert [line.get_ydata()[0] for line in loss.lines] == [3, 3.5]
    # A line through all of them: with the epochs between them it would have nothing to connect.
    (line,) = probe.lines
    assert line.get_xdata().tolist() == [1, 3, 6] and line.get_ydata().tolist() == [0.3, 0.5, 0.6]
    assert line.get_linestyle() == "-"
    assert [text.get_text() for text in figures[0].legends[0].texts] == ["train", "chance", "valid"]


def test_a_history_of_one_epoch_is_a_dot(figures):
    plots.draw_history("training.png", pd.DataFrame({"epoch": [0], "loss": [2.0]}))
    (line,) = figures[0].axes[0].lines
    assert line.get_marker() == "."
