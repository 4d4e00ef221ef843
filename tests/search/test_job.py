import keras_tuner
import numpy as np
import pytest
from keras_tuner.errors import FailedTrialError
from named_streams import QUIET, killed, tiny_streams, wrong_data

from keras_tune.errors import UserError
from keras_tune.search import Job, Space, TUNeHyperModel
from keras_tune.search.job import ran_out_of_memory, run, run_isolated

pytestmark = pytest.mark.one_backend


def job_of(streams, **options):
    space = Space(1, 2, 4, representation_dim=4, base_filters=2)
    hypermodel = TUNeHyperModel(
        space, None, input_samples=243, augment=QUIET, projection_dim=4, precision="mixed_bfloat16"
    )
    return Job(hypermodel, keras_tuner.HyperParameters(), streams, epochs=2, **options)


@pytest.mark.nightly
def test_a_process_of_its_own_gives_the_same(tmp_path):
    isolated = run_isolated(job_of(tiny_streams, history=tmp_path / "history.csv"))
    here = run(job_of(tiny_streams))
    assert set(isolated) == set(here) and isolated["parameters"] == here["parameters"]
    for name, values in here["history"].items():
        np.testing.assert_allclose(isolated["history"][name], values, rtol=1e-3, atol=1e-4)
    assert len((tmp_path / "history.csv").read_text().splitlines()) == 3


@pytest.mark.nightly
def test_going_on_is_as_if_it_had_not_stopped(tmp_path):
    whole = run(job_of(tiny_streams))["history"]["loss"]
    first = job_of(tiny_streams, save=tmp_path / "model.keras")
    first.epochs = 1
    second = job_of(tiny_streams, initial_epoch=1, warm_start=tmp_path / "model.keras")
    parts = run(first)["history"]["loss"] + run(second)["history"]["loss"]
    np.testing.assert_allclose(parts, whole, rtol=1e-3)


@pytest.mark.parametrize(
    "streams, error, message",
    [(wrong_data, UserError, "no such data"), (killed, FailedTrialError, "signal 9.*memory")],
)
def test_what_goes_wrong_there_is_told_here(streams, error, message):
    with pytest.raises(error, match=message):
        run_isolated(job_of(streams))


def test_exhausted_memory_is_told_from_mistakes():
    # The classes by which TensorFlow, PyTorch and JAX say so.
    exhausted = type("ResourceExhaustedError", (Exception,), {})
    out_of_memory = type("OutOfMemoryError", (RuntimeError,), {})
    jax_error = type("JaxRuntimeError", (RuntimeError,), {})
    assert ran_out_of_memory(exhausted("OOM when allocating tensor"))
    assert ran_out_of_memory(out_of_memory("CUDA out of memory. Tried to allocate"))
    assert ran_out_of_memory(jax_error("RESOURCE_EXHAUSTED: Out of memory while trying"))
    assert ran_out_of_memory(MemoryError())
    assert not ran_out_of_memory(jax_error("INVALID_ARGUMENT: shapes"))
    assert not ran_out_of_memory(ValueError("wrong"))
