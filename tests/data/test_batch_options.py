import numpy as np
import pytest

from keras_tune.data import BatchOptions

pytestmark = pytest.mark.one_backend


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size=0"),
        ({"clip_samples": -1}, "clip_samples=-1"),
        ({"steps_per_epoch": 0}, "steps_per_epoch=0"),
        ({"crops": 0}, "crops=0"),
        ({"initial_epoch": 3, "epochs": 2}, "initial_epoch=3, epochs=2"),
        ({"initial_step": -1}, "initial_step=-1"),
        ({"part": (2, 2)}, r"part=\(2, 2\)"),
    ],
)
def test_values_out_of_range(options, message):
    with pytest.raises(ValueError, match=f"Received: .*{message}"):
        BatchOptions(**options)
    with pytest.raises(TypeError, match="batchsize"):
        BatchOptions(batchsize=3)


def test_steps_and_batches():
    assert BatchOptions(batch_size=4).steps(10) == 2
    assert BatchOptions(batch_size=4, drop_remainder=False).steps(10) == 3
    assert BatchOptions(batch_size=4, fill_remainder=True).steps(10) == 3
    assert BatchOptions(batch_size=None).steps(10) == 10
    assert BatchOptions(batch_size=4, steps_per_epoch=7).steps(10) == 7
    later = BatchOptions(initial_epoch=2, epochs=5, initial_step=3)
    assert (later.num_batches(7), BatchOptions(repeat=True).num_batches(7)) == (18, None)


def test_weights_have_a_mean_of_1_over_all_processes():
    options = BatchOptions(batch_size=4, fill_remainder=True)
    counts = [9, 7]
    steps = options.steps(max(counts))
    weight = options.weight(counts, steps)
    assert weight * sum(counts) == pytest.approx(2 * 4 * steps)


def test_crops_are_spread_evenly():
    fractions = BatchOptions(crops=4).crop_fractions
    np.testing.assert_allclose(np.diff(fractions), 0.25)
    assert fractions[0] == 1 - fractions[-1]
