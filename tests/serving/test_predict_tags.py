import numpy as np
import pytest
import soundfile

from keras_tune.data import AudioError
from keras_tune.models import Tagger


def test_scores_of_a_file_are_sorted_and_those_of_its_windows(tagger, predictions, tmp_path):
    noise = np.random.default_rng(3).uniform(-1, 1, 8000)
    soundfile.write(tmp_path / "clip.wav", noise, 22050)
    found = tagger.predict_tags(tmp_path / "clip.wav", batch_size=2)
    samples, _ = soundfile.read(tmp_path / "clip.wav", dtype="float32")
    expected = dict(zip(tagger.labels, predictions(samples[None])["scores"][0], strict=True))
    assert found == pytest.approx(expected, abs=1e-5)
    assert list(found.values()) == sorted(found.values(), reverse=True)


def test_classes_sum_to_one_and_unnamed_labels_have_numbers(tagger, tmp_path):
    classifier = Tagger(tagger.encoder, num_labels=4, activation="softmax")
    noise = np.random.default_rng(3).uniform(-1, 1, 8000)
    soundfile.write(tmp_path / "clip.wav", noise, 44100)
    found = classifier.predict_tags(tmp_path / "clip.wav")
    assert set(found) == {"0", "1", "2", "3"}
    assert sum(found.values()) == pytest.approx(1, abs=1e-5)


def test_scores_can_be_averaged_in_place_of_embeddings(tagger, predictions, tmp_path):
    noise = np.random.default_rng(3).uniform(-1, 1, 8000)
    soundfile.write(tmp_path / "clip.wav", noise, 22050)
    config = {**tagger.get_config(), "encoder": tagger.encoder, "pooling": "scores"}
    averaging = Tagger(**config)
    averaging.head.set_weights(tagger.head.get_weights())
    samples, _ = soundfile.read(tmp_path / "clip.wav", dtype="float32")
    expected = predictions(samples[None])
    scores = expected["window_scores"][0].mean(axis=0)
    assert np.abs(scores - expected["scores"][0]).max() > 1e-4
    found = averaging.predict_tags(tmp_path / "clip.wav")
    assert found == pytest.approx(dict(zip(tagger.labels, scores, strict=True)), abs=1e-5)


def test_files_that_cannot_be_scored(tagger, tmp_path):
    noise = np.random.default_rng(3).uniform(-1, 1, 2499)
    soundfile.write(tmp_path / "short.wav", noise, 22050)
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    for name, reason in (("short", "too short"), ("broken", "decoded"), ("none", "missing")):
        with pytest.raises(AudioError, match=f"{name}.wav: .*{reason}"):
            tagger.predict_tags(tmp_path / f"{name}.wav")


def test_the_activation_is_kept(tagger, tmp_path):
    import keras

    classifier = Tagger(tagger.encoder, num_labels=4, activation="softmax")
    classifier.save(tmp_path / "classifier.keras")
    assert keras.models.load_model(tmp_path / "classifier.keras").activation == "softmax"
    with pytest.raises(ValueError, match="Received: activation=tanh"):
        Tagger(tagger.encoder, num_labels=4, activation="tanh")
