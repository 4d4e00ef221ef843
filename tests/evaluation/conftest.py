import pytest

from keras_tune.evaluation.protocols import grid_configurations


@pytest.fixture
def few_configurations(monkeypatch):
    """A tenth of the grid is enough to see that it works, and takes seconds."""
    chosen = [c for c in grid_configurations() if c.learning_rate == 1e-3 and c.l2 == 0]
    chosen = [c for c in chosen if c.dropout == 0.25 and c.batch_size == 64]
    monkeypatch.setattr("keras_tune.evaluation.protocols.grid_configurations", lambda: chosen)
