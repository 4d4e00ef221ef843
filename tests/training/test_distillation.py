"""A small encoder learns the outputs of a large one."""

import keras
import numpy as np
import pytest
from seeded import seed_weights

from keras_tune.data import open_dataset
from keras_tune.models import TUNe
from keras_tune.training import distill

SAMPLES = 243


def encoder(filters, output=4, **arguments):
    sizes = {"tail_filters": [8, output], "input_samples": SAMPLES, **arguments}
    return TUNe(1, 1, filters, **sizes)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Tones of all pitches in noise, of 600 samples."""
    file = tmp_path_factory.mktemp("tones") / "tones.npz"
    generator = np.random.default_rng(0)
    pitch = generator.uniform(100, 8000, (80, 1))
    audio = 0.3 * np.sin(2 * np.pi * pitch * np.arange(600) / 22050)
    audio += generator.normal(0, 0.02, audio.shape)
    split = np.where(np.arange(80) < 64, "train", "valid")
    np.savez(file, audio=audio.astype("float32"), split=split)
    return open_dataset(file)


@pytest.fixture(scope="module")
def teacher():
    return seed_weights(encoder(8))


def test_the_student_comes_close_to_the_teacher(dataset, teacher):
    keras.utils.set_random_seed(0)
    before = [weight.numpy() for weight in teacher.weights]
    student = encoder(2)
    options = {"epochs": 3, "steps_per_epoch": 200, "batch_size": 16, "learning_rate": 0.01}
    history = distill(student, teacher, dataset, verbose=0, **options)
    assert len(history) == 3
    assert history["loss"].iloc[-1] < 0.5 * history["loss"].iloc[0]
    for weight, value in zip(teacher.weights, before, strict=True):
        np.testing.assert_array_equal(weight.numpy(), value)
    # What the history says of valid, by hand: its crops begin at the middle of what is left.
    batches = dataset.batches("valid", clip_samples=SAMPLES, batch_size=16, shuffle=False)
    (crops,) = (batch["audio"][..., None] for batch in batches.as_numpy_iterator())
    expected, found = teacher.predict(crops, verbose=0), student.predict(crops, verbose=0)
    residual = np.sum((expected - found) ** 2)
    r2 = 1 - residual / np.sum((expected - expected.mean(axis=0)) ** 2)
    # Keras subtracts sums that are much larger than their difference.
    np.testing.assert_allclose(history["val_r2"].iloc[-1], r2, atol=0.01)
    np.testing.assert_allclose(history["val_loss"].iloc[-1], residual / expected.size, rtol=1e-4)
    assert r2 > 0.5


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ({"output": 5}, r"output, \(4,\). Received: \(5,\)"),
        ({"input_samples": 729}, r"window, \(243, 1\). Received: \(729, 1\)"),
        ({"sample_rate": 16000}, "sample rate, 22050. Received: 16000"),
    ],
)
def test_encoders_that_do_not_go_together(dataset, teacher, arguments, what):
    with pytest.raises(ValueError, match=f"`student` must have the teacher's {what}"):
        distill(encoder(2, **arguments), teacher, dataset)


@pytest.mark.one_backend
def test_data_at_another_rate_or_with_too_few_clips(dataset, teacher):
    slow = [encoder(n, sample_rate=16000) for n in (2, 8)]
    with pytest.raises(ValueError, match="sample rate, 16000 Hz. Received: 22050 Hz"):
        distill(*slow, dataset)
    with pytest.raises(ValueError, match="at most the 64 clips of train. Received: batch_size=65"):
        distill(encoder(2), teacher, dataset, batch_size=65)
