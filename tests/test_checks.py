"""What the doors keep out: numbers that are not finite, models that are no encoders, bombs."""

import io
import zipfile

import h5py
import keras
import numpy as np
import pytest
from seeded import seed_weights

import keras_tune
from keras_tune.errors import UserError
from keras_tune.evaluation import ClipEmbeddings, embed_clips, load_encoder, named_encoder
from keras_tune.interop import export_pytorch_checkpoint, load_pytorch_checkpoint
from keras_tune.models import Tagger, TUNe
from keras_tune.models.saved import load_saved_model, save_model
from keras_tune.serving import export_onnx, export_saved_model
from keras_tune.serving.windows import Windows
from keras_tune.training import load_checkpoint

pytestmark = pytest.mark.one_backend


def small(**options):
    sizes = {"base_filters": 2, "tail_filters": [4], "input_samples": 27}
    return seed_weights(TUNe(1, 1, **sizes, **options))


def spoiled(value=np.nan):
    encoder = small()
    weights = encoder.get_weights()
    weights[0].flat[3] = value
    encoder.set_weights(weights)
    return encoder


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_neither_loaded_nor_written(tmp_path, value):
    encoder, clip = spoiled(value), 0.1 * np.ones(100, "float32")
    path = tmp_path / "spoiled.keras"
    encoder.save(path)
    message = r"^\S*spoiled.keras: the weight \S*kernel is not finite"
    for load in (load_saved_model, load_encoder, lambda p: named_encoder(str(p)), load_checkpoint):
        with pytest.raises(UserError, match=message):
            load(path)
    with pytest.raises(UserError, match=message):
        keras_tune.embed(clip, path)
    if np.isnan(value):
        # A ReLU may hide an infinite weight.
        with pytest.raises(UserError, match="is not finite"):
            keras_tune.embed(clip, encoder)
    out = tmp_path / "out"
    for write in (
        lambda: save_model(encoder, out / "a.keras"),
        lambda: save_model(Tagger(encoder, num_labels=2), out / "b.keras"),
        lambda: export_pytorch_checkpoint(encoder, out / "c.safetensors"),
        lambda: export_saved_model(encoder, out / "d"),
    ):
        with pytest.raises(UserError, match=r"the weight \S*kernel is not finite"):
            write()
    assert not out.exists()


def test_onnx_files_of_weights_that_are_not_finite(tmp_path):
    pytest.importorskip("onnx")
    with pytest.raises(UserError, match=r"the weight \S* is not finite"):
        export_onnx(spoiled(), tmp_path / "a.onnx")
    assert not (tmp_path / "a.onnx").exists()


@pytest.mark.parametrize("value", [np.nan, 1e300])
def test_checkpoints_with_tensors_that_are_not_finite(tmp_path, value):
    safetensors = pytest.importorskip("safetensors.numpy")
    path = tmp_path / "a.safetensors"
    export_pytorch_checkpoint(small(), path)
    tensors = safetensors.load_file(path)
    name = next(name for name in tensors if name.startswith("model.") and name.endswith("weight"))
    tensors = {key: array.astype("float64") for key, array in tensors.items()}
    tensors[name].flat[0] = value
    safetensors.save_file(tensors, path)
    with pytest.raises(UserError, match=r"a.safetensors: tensor \S+ is not finite"):
        load_pytorch_checkpoint(path, input_samples=27)


def test_embeddings_that_are_not_finite_name_the_clip(tmp_path):
    encoder = small()
    records = [
        {"id": name, "audio": np.full(60, level, "float32"), "labels": {}}
        for name, level in (("good", 0.1), ("bad", np.inf), ("short", 0.1))
    ]
    records[2]["audio"] = records[2]["audio"][:5]
    with pytest.raises(UserError, match="the vector of bad is not finite"):
        embed_clips(encoder, records)
    found = embed_clips(encoder, [records[0], records[2]])
    assert found.skipped == ["short"]
    found.windows[0, 0] = np.nan
    found.save(tmp_path / "a.npz")
    with pytest.raises(UserError, match="a.npz: windows is not finite"):
        ClipEmbeddings.load(tmp_path / "a.npz")


def two_channels():
    waveform = keras.Input((27, 2))
    return keras.Model(waveform, keras.layers.GlobalAveragePooling1D()(waveform))


def two_outputs():
    waveform = keras.Input((27, 1))
    mean = keras.layers.GlobalAveragePooling1D()(waveform)
    return keras.Model(waveform, [mean, keras.layers.Dense(2)(mean)])


def two_inputs():
    waveforms = [keras.Input((27, 1)), keras.Input((27, 1))]
    mean = keras.layers.GlobalAveragePooling1D()(keras.layers.Add()(waveforms))
    return keras.Model(waveforms, mean)


def output_in_time():
    waveform = keras.Input((27, 1))
    return keras.Model(waveform, keras.layers.Conv1D(2, 3)(waveform))


@pytest.mark.parametrize("build", [two_channels, two_outputs, two_inputs, output_in_time])
def test_models_that_are_no_encoders_are_refused(build, tmp_path):
    model = build()
    model.save(tmp_path / "other.keras")
    message = r"other.keras: an encoder must map \(batch, samples, 1\) to \(batch, d\)"
    with pytest.raises(UserError, match=message):
        named_encoder(str(tmp_path / "other.keras"), 22050)
    records = [{"id": "a", "audio": np.zeros(60, "float32"), "labels": {}}]
    for use in (
        lambda: embed_clips(model, records),
        lambda: Tagger(model, num_labels=2),
        lambda: Windows.of(model),
        lambda: keras_tune.embed(0.1 * np.ones(60), model),
    ):
        with pytest.raises(ValueError, match="must map"):
            use()


def test_encoders_of_another_rate_are_refused(tmp_path):
    encoder = small(sample_rate=16000)
    encoder.save(tmp_path / "slow.keras")
    name = str(tmp_path / "slow.keras")
    assert named_encoder(name).sample_rate == named_encoder(name, 16000).sample_rate == 16000
    message = "made for audio at 16000 Hz, not at 22050 Hz"
    with pytest.raises(UserError, match=f"slow.keras: {message}"):
        named_encoder(name, 22050)
    with pytest.raises(ValueError, match=message):
        Windows.of(encoder, sample_rate=22050)
    assert Windows.of(encoder).sample_rate == 16000
    tagger = Tagger(encoder, num_labels=2)
    assert tagger.sample_rate == 16000
    with pytest.raises(UserError, match=message):
        tagger.predict_tags(np.zeros(27), sample_rate=22050)
    # A model of somebody else does not tell.
    waveform = keras.Input((27, 1))
    foreign = keras.Model(waveform, keras.layers.GlobalAveragePooling1D()(waveform))
    foreign.save(tmp_path / "foreign.keras")
    assert named_encoder(str(tmp_path / "foreign.keras"), 16000).input_shape == (None, 27, 1)
    assert Windows.of(foreign, sample_rate=16000).sample_rate == 16000
    assert named_encoder("untrained:clmr", 16000).sample_rate == 16000


def test_arrays_of_integers_and_at_another_rate(tmp_path):
    encoder = small(sample_rate=16000)
    floats = np.random.default_rng(0).normal(0, 0.1, 100)
    integers = np.round(32768 * floats).astype("int16")
    found = keras_tune.embed(integers, encoder)
    np.testing.assert_allclose(
        found, keras_tune.embed(integers / 32768, encoder), rtol=1e-4, atol=1e-6
    )
    with pytest.raises(UserError, match="audio: out of scale"):
        keras_tune.embed(integers.astype("float32"), encoder)
    same = keras_tune.embed(floats, encoder, sample_rate=16000)
    np.testing.assert_array_equal(same, keras_tune.embed(floats, encoder))


def members(path):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def packed(path, content):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return path


MIB = 2**20


def test_archives_that_unpack_to_far_more_are_not_unpacked(tmp_path, monkeypatch):
    small().save(tmp_path / "good.keras")
    content = members(tmp_path / "good.keras")
    assert load_saved_model(packed(tmp_path / "again.keras", content)).count_params()

    def refused(path):
        with monkeypatch.context() as patch:
            patch.setattr(keras.models, "load_model", lambda *_, **__: pytest.fail("unpacked"))
            with pytest.raises(UserError, match=f"{path.name}: refused, as .* would unpack to"):
                load_saved_model(path)

    refused(packed(tmp_path / "zip.keras", {**content, "model.weights.h5": bytes(100 * MIB)}))
    for options in ({}, {"chunks": (MIB,), "compression": "gzip"}):
        # An array that is not stored at all, and one that is compressed within the HDF5 file.
        buffer = io.BytesIO()
        with h5py.File(buffer, "w") as file:
            array = file.create_dataset("layers/conv/vars/0", (100 * MIB,), "int8", **options)
            if options:
                array[:MIB] = 0
        inner = {**content, "model.weights.h5": buffer.getvalue()}
        refused(packed(tmp_path / "hdf5.keras", inner))


def test_pytorch_checkpoints_that_unpack_to_far_more(tmp_path):
    torch = pytest.importorskip("torch")
    zeros = torch.zeros(100 * MIB, dtype=torch.int8)
    torch.save({"encoder.a": zeros}, tmp_path / "plain.ckpt")
    path = packed(tmp_path / "zip.ckpt", members(tmp_path / "plain.ckpt"))
    with pytest.raises(UserError, match="zip.ckpt: refused, as"):
        load_pytorch_checkpoint(path)
    torch.save({"encoder.a": torch.zeros(1).expand(2**34)}, tmp_path / "view.ckpt")
    with pytest.raises(UserError, match="view.ckpt: refused, as"):
        load_pytorch_checkpoint(tmp_path / "view.ckpt")


def test_a_folder_without_audio_is_named(tmp_path):
    (tmp_path / "readme.txt").touch()
    encoder = keras_tune.TUNe(1, 0, base_filters=2, tail_filters=[4], input_samples=81)
    with pytest.raises(UserError, match=f"{tmp_path.name}: contains no audio files"):
        keras_tune.embed(tmp_path, encoder)
