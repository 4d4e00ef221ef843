import json

import keras
import numpy as np
import pytest
from seeded import seed_weights

from keras_tune.errors import UserError
from keras_tune.models import Tagger, TUNe
from keras_tune.serving import export_onnx, export_onnx_head

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")


def run(session, clips):
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"waveform": clips}), strict=True))


@pytest.fixture(scope="module")
def session(tagger, tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "moods.onnx"
    export_onnx(tagger, path)
    onnxruntime.set_default_logger_severity(4)
    return onnxruntime.InferenceSession(path)


@pytest.mark.parametrize("batch, samples", [(1, 2500), (2, 7623), (5, 5001)])
def test_outputs_are_those_of_keras(session, predictions, batch, samples):
    clips = np.random.default_rng(samples).uniform(-1, 1, (batch, samples)).astype("float32")
    expected, found = predictions(clips), run(session, clips)
    assert np.ptp(expected["scores"]) > 1e-3
    for name, key in {
        "embedding": "clips",
        "window_embedding": "windows",
        "scores": "scores",
        "window_scores": "window_scores",
    }.items():
        assert found[name].shape == expected[key].shape
        np.testing.assert_allclose(found[name], expected[key], atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    "arguments",
    [
        {"decoder_depth": 0, "base_filters": 2, "tail_filters": [2, 3, 4, 5]},
        {
            "contraction_depth": 3,
            "decoder_depth": 2,
            "base_filters": 2,
            "tail_filters": [4, 6, 5],
            "extra_links": True,
        },
        {
            "contraction_depth": 1,
            "decoder_depth": 1,
            "base_filters": 2,
            "tail_type": "sample_cnn",
            "tail_filters": [2, 3, 4],
            "level": 0.1,
        },
        {
            "contraction_depth": 1,
            "decoder_depth": 1,
            "base_filters": 2,
            "tail_filters": [4, 5],
            "pooled_stages": 2,
            "pooled_dim": 3,
        },
    ],
)
@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_every_architecture(tmp_path, arguments, data_format):
    if data_format == "channels_first" and keras.backend.backend() == "tensorflow":
        pytest.skip("TensorFlow runs channels_first on GPUs only")
    encoder = seed_weights(TUNe(**arguments, input_samples=None, data_format=data_format))
    export_onnx(encoder, tmp_path / "encoder.onnx", window_samples=730)
    clip = np.random.default_rng(1).uniform(-1, 1, (2, 730)).astype("float32")
    found = run(onnxruntime.InferenceSession(tmp_path / "encoder.onnx"), clip)
    expected = keras.ops.convert_to_numpy(encoder(clip[..., None], training=False))
    assert set(found) == {"embedding", "window_embedding"}
    np.testing.assert_allclose(found["embedding"], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("sample_rate", "samples"), [(22050, 59049), (16000, 3072)])
def test_acoustic_features(tmp_path, sample_rate, samples):
    """Noise of two levels, a tone, and pulses, against the layer's own Fourier transform."""
    encoder = TUNe(
        1,
        1,
        base_filters=2,
        tail_filters=[4],
        input_samples=samples,
        sample_rate=sample_rate,
        pooled_stages=1,
        acoustic_features=True,
    )
    encoder = keras.Model(encoder.input, encoder.get_layer("acoustic").output)
    export_onnx(encoder, tmp_path / "features.onnx", window_samples=samples)
    time = np.arange(samples) / sample_rate
    noise = np.random.default_rng(0).normal(0, 0.1, samples)
    waveforms = noise, noise / 1000, np.sin(2 * np.pi * 440 * time), noise * (time % 0.1 < 0.01)
    waveforms = np.stack(waveforms).astype("float32")
    found = run(onnxruntime.InferenceSession(tmp_path / "features.onnx"), waveforms)
    expected = keras.ops.convert_to_numpy(encoder(waveforms[..., None]))
    assert expected.std(axis=0).min() > 0 or samples == 3072
    np.testing.assert_allclose(found["embedding"], expected, atol=1e-3, rtol=1e-4)


def test_kernels_in_half_precision_are_those_that_were_trained(tmp_path):
    encoder = seed_weights(TUNe(2, 2, base_filters=2, tail_filters=[4, 64], input_samples=243))
    for weight in encoder.weights:
        if len(weight.shape) > 1:
            weight.assign(weight.numpy().astype("float16").astype("float32"))
    paths = tmp_path / "half.onnx", tmp_path / "single.onnx"
    export_onnx(encoder, paths[0], half_precision=True, metadata={"origin": "a seed"})
    export_onnx(encoder, paths[1])
    clip = np.random.default_rng(1).uniform(-1, 1, (3, 500)).astype("float32")
    half, single = (onnxruntime.InferenceSession(path) for path in paths)
    assert half.get_modelmeta().custom_metadata_map["origin"] == "a seed"
    # Rounded after folding, kernels would be off by 5e-4.
    np.testing.assert_allclose(
        run(half, clip)["embedding"], run(single, clip)["embedding"], rtol=2e-6, atol=1e-7
    )
    kinds = [weight.data_type for weight in onnx.load(paths[0]).graph.initializer]
    assert kinds.count(onnx.TensorProto.FLOAT16) == sum(len(w.shape) > 1 for w in encoder.weights)


def test_kernels_beyond_half_precision_are_refused(tmp_path):
    encoder = TUNe(1, 1, base_filters=2, tail_filters=[4], input_samples=27)
    kernel = encoder.get_layer("tail_1").weights[0]
    kernel.assign(keras.ops.full(kernel.shape, 1e5))
    with pytest.raises(
        ValueError, match="beyond the range of float16. Received: half_precision=True$"
    ):
        export_onnx(encoder, tmp_path / "encoder.onnx", half_precision=True)
    assert not list(tmp_path.iterdir())


def test_classes_sum_to_one(tmp_path):
    encoder = TUNe(1, 1, base_filters=2, tail_filters=[4], input_samples=27)
    tagger = seed_weights(Tagger(encoder, num_labels=3, activation="softmax"))
    export_onnx(tagger, tmp_path / "classes.onnx")
    clip = np.random.default_rng(1).uniform(-1, 1, (2, 60)).astype("float32")
    scores = run(onnxruntime.InferenceSession(tmp_path / "classes.onnx"), clip)["scores"]
    np.testing.assert_allclose(scores.sum(axis=1), 1, rtol=1e-5)


def test_values_are_those_of_keras(tmp_path):
    encoder = TUNe(1, 1, base_filters=2, tail_filters=[4], input_samples=27)
    options = {"activation": "linear", "scale": [30.0, 0.5], "offset": [120.0, 2.0]}
    tagger = seed_weights(Tagger(encoder, labels=["tempo", "valence"], **options))
    export_onnx(tagger, tmp_path / "values.onnx")
    clip = np.random.default_rng(1).uniform(-1, 1, 60).astype("float32")
    found = run(onnxruntime.InferenceSession(tmp_path / "values.onnx"), clip[None])["scores"][0]
    expected = tagger.predict_tags(clip)
    np.testing.assert_allclose(found, [expected["tempo"], expected["valence"]], rtol=1e-4)


def averaging(tagger):
    """The same tagger, with its scores averaged over windows in place of its embeddings."""
    config = {**tagger.get_config(), "encoder": tagger.encoder, "pooling": "scores"}
    other = Tagger(**config)
    other.head.set_weights(tagger.head.get_weights())
    return other


def test_scores_averaged_over_windows(tagger, predictions, clips, tmp_path):
    export_onnx(averaging(tagger), tmp_path / "averaging.onnx")
    found = run(onnxruntime.InferenceSession(tmp_path / "averaging.onnx"), clips)["scores"]
    expected = predictions(clips)
    means = expected["window_scores"].mean(axis=1)
    assert np.abs(means - expected["scores"]).max() > 1e-4
    np.testing.assert_allclose(found, means, atol=1e-4)


def test_the_head_alone(tagger, predictions, clips, tmp_path):
    export_onnx_head(tagger, tmp_path / "head.onnx")
    expected = predictions(clips)
    (found,) = onnxruntime.InferenceSession(tmp_path / "head.onnx").run(
        ["scores"], {"embedding": expected["clips"].astype("float32")}
    )
    np.testing.assert_allclose(found, expected["scores"], atol=1e-5)


def test_the_file_says_what_it_takes(session):
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["labels"]) == ["guitar", "slow", "vöcal"]
    assert metadata["sample_rate"] == "22050" and metadata["window_samples"] == "2500"
    (waveform,) = session.get_inputs()
    assert (waveform.name, waveform.shape) == ("waveform", ["batch", "samples"])


def broken(clips, value):
    clips = clips.copy()
    clips[1, 3000] = value
    return clips


@pytest.mark.parametrize(
    "spoil",
    [
        lambda clips: broken(clips, np.nan),
        lambda clips: broken(clips, -np.inf),
        lambda clips: broken(clips, 32767),
        lambda clips: clips[:, :2499],
        lambda clips: clips[:, :0],
        lambda clips: clips[:0],
        lambda clips: clips[0],
        lambda clips: clips[..., None],
    ],
    ids=["nan", "infinite", "integers", "short", "no samples", "no clips", "rank 1", "rank 3"],
)
def test_bad_clips_are_errors(session, clips, spoil):
    with pytest.raises(Exception, match="out of data bounds|Invalid rank"):
        run(session, spoil(clips))


def test_outputs_that_are_not_finite_are_errors(tagger, clips, tmp_path):
    """Weights that are finite, and too large for what they are multiplied by."""
    encoder = keras.models.clone_model(tagger.encoder)
    encoder.set_weights([3e18 * weight for weight in tagger.encoder.get_weights()])
    export_onnx(encoder, tmp_path / "large.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "large.onnx")
    with pytest.raises(Exception, match="out of data bounds"):
        session.run(None, {"waveform": clips})
    head = seed_weights(Tagger(tagger.encoder, labels=["a", "b"], activation="softmax"))
    kernel, bias = head.head.get_weights()
    head.head.set_weights([np.float32(3e38) * np.sign(kernel), bias])
    export_onnx_head(head, tmp_path / "head.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "head.onnx")
    with pytest.raises(Exception, match="out of data bounds"):
        session.run(None, {"embedding": np.full((1, 6), 9, "float32")})


def test_layers_that_are_not_supported_are_named(tmp_path):
    waveform = keras.Input((90, 1))
    x = keras.layers.LSTM(3, name="memory")(waveform)
    with pytest.raises(UserError, match="memory.*LSTM"):
        export_onnx(keras.Model(waveform, x), tmp_path / "x.onnx")
    assert not list(tmp_path.iterdir())


def test_only_encoders(tmp_path):
    with pytest.raises(ValueError, match="must map .*input shape"):
        export_onnx(keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]), tmp_path / "x")
    encoder = TUNe(1, 1, base_filters=2, tail_filters=[4], input_samples=27)
    with pytest.raises(ValueError, match="Received: window_samples=28"):
        export_onnx(encoder, tmp_path / "x.onnx", window_samples=28)
