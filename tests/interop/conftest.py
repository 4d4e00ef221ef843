import keras
import numpy as np
import pytest


@pytest.fixture(autouse=True)
def undrawn_kernels(monkeypatch):
    """Encoders here get their weights from files; drawing them first takes JAX very long."""

    def zeros(self, shape, dtype=None):
        return keras.ops.convert_to_tensor(np.zeros(shape), dtype=dtype)

    monkeypatch.setattr(keras.initializers.HeUniform, "__call__", zeros)
