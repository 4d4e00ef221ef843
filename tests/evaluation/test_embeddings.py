import keras
import numpy as np
import pytest
from seeded import seed_weights

from keras_tune.errors import UserError
from keras_tune.evaluation import cut_windows, embed_clips, untrained_copy
from keras_tune.models import TUNe


def encoder(seed=0):
    return seed_weights(
        TUNe(
            contraction_depth=1, decoder_depth=1, base_filters=2, tail_filters=[4], input_samples=81
        ),
        seed,
    )


def records(*lengths):
    generator = np.random.default_rng(0)
    for number, length in enumerate(lengths):
        audio = generator.normal(0, 0.3, length).astype("float32")
        yield {"id": f"clip-{number}", "audio": audio, "labels": {"genre": "ab"[number % 2]}}


def test_windows_are_consecutive_and_the_rest_is_dropped():
    assert cut_windows(np.arange(10), 4).tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert cut_windows(np.arange(10), 4, 3).tolist() == [[0, 1, 2, 3], [3, 4, 5, 6], [6, 7, 8, 9]]
    assert cut_windows(np.arange(3), 4).shape == (0, 4)


@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_a_clip_is_the_mean_of_its_windows(batch_size):
    model = encoder()
    lengths = (81, 300, 80, 243)
    found = embed_clips(model, records(*lengths), batch_size=batch_size)
    assert found.ids == ["clip-0", "clip-1", "clip-3"]
    assert found.skipped == ["clip-2"]
    assert found.target("genre").tolist() == ["a", "b", "b"]
    expected = []
    for record in records(*lengths):
        windows = [record["audio"][k : k + 81] for k in range(0, len(record["audio"]) - 80, 81)]
        if windows:
            outputs = [keras.ops.convert_to_numpy(model(w[None, :, None]))[0] for w in windows]
            expected.append(np.mean(outputs, axis=0))
    np.testing.assert_allclose(found.vectors, expected, rtol=1e-4, atol=1e-6)


def test_nothing_long_enough():
    with pytest.raises(UserError, match="window of 81 samples"):
        embed_clips(encoder(), records(10, 20))


def test_the_untrained_copy_has_the_shape_but_not_the_weights():
    trained = encoder()
    copies = [untrained_copy(trained, seed=seed) for seed in (1, 1, 2)]
    assert copies[0].get_config() == trained.get_config()
    kernels = [copy.get_weights()[0] for copy in [trained, *copies]]
    np.testing.assert_array_equal(kernels[1], kernels[2])
    assert not np.array_equal(kernels[0], kernels[1])
    assert not np.array_equal(kernels[1], kernels[3])
