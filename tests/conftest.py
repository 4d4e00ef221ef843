import gc
import pathlib
import sys

import pytest

GOLDEN = pathlib.Path(__file__).resolve().parents[2] / "shared" / "golden"


@pytest.fixture(scope="session")
def golden():
    """The folder of reference outputs; not part of the project, so absent on most machines."""
    if not GOLDEN.is_dir():
        pytest.skip("the golden outputs of the reference modules are not on this machine")
    return GOLDEN


@pytest.fixture(autouse=True)
def own_dtype_policy():
    """What a test sets as the global dtype policy ends with it."""
    yield
    if "keras" in sys.modules:
        sys.modules["keras"].config.set_dtype_policy("float32")


@pytest.fixture(autouse=True, scope="module")
def own_keras_state():
    """What Keras keeps of the models of a module, such as their graphs, ends with the module.

    It slows down the tests behind it: a search takes twice as long after a thousand tests.
    """
    yield
    if "keras" in sys.modules:
        sys.modules["keras"].backend.clear_session()
        gc.collect()
        # Later collections need not look again at what is left, most of which are modules.
        gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def unknown_processor():
    """The precision "auto" is float32 in tests, whatever the processor has."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("keras_tune.machine.CPUINFO", pathlib.Path("nowhere"))
        yield


@pytest.fixture
def undrawn_kernels(monkeypatch):
    """For encoders that get their weights from files; drawing them first takes JAX very long."""
    import keras
    import numpy as np

    def zeros(self, shape, dtype=None):
        return keras.ops.convert_to_tensor(np.zeros(shape), dtype=dtype)

    monkeypatch.setattr(keras.initializers.HeUniform, "__call__", zeros)
