import keras
import numpy as np
import pytest
import soundfile
from seeded import seed_weights

import keras_tune
from keras_tune.errors import UserError
from keras_tune.models import TUNe
from keras_tune.recipes._cli import run
from keras_tune.recipes.embed import EmbedConfig, main

WINDOW = 243


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Audio files in `audio`, one of them in a folder below, one damaged; and encoder.keras."""
    folder = tmp_path_factory.mktemp("embed")
    (folder / "audio" / "more").mkdir(parents=True)
    generator = np.random.default_rng(0)
    for number in range(5):
        file = folder / "audio" / ("more" if number == 4 else "") / f"{number}.wav"
        soundfile.write(file, generator.normal(0, 0.1, 1000 + 100 * number), 22050)
    (folder / "audio" / "broken.wav").write_text("no audio")
    encoder = TUNe(
        contraction_depth=1, decoder_depth=1, base_filters=2, tail_filters=[4], input_samples=WINDOW
    )
    seed_weights(encoder).save(folder / "encoder.keras")
    return folder


def embed(folder, name, *options, source="audio"):
    output = folder / name
    run(
        main,
        EmbedConfig,
        [
            "--encoder",
            str(folder / "encoder.keras"),
            "--source",
            str(folder / source),
            "--output",
            str(output),
            *options,
        ],
    )
    return dict(np.load(output))


def expected(folder, file, hop=WINDOW):
    """The encoder's outputs for the windows of a file, one by one."""
    encoder = keras.models.load_model(folder / "encoder.keras")
    audio, _ = soundfile.read(folder / "audio" / file, dtype="float32")
    starts = range(0, len(audio) - WINDOW + 1, hop)
    windows = np.stack([audio[start : start + WINDOW] for start in starts])
    return keras.ops.convert_to_numpy(encoder(windows[..., None]))


def test_files_of_a_folder(folder, capsys):
    found = embed(folder, "mean.npz")
    assert found["ids"].tolist() == ["0.wav", "1.wav", "2.wav", "3.wav", "more/4.wav"]
    for name, vector in zip(found["ids"], found["vectors"], strict=True):
        np.testing.assert_allclose(vector, expected(folder, name).mean(0), rtol=1e-4, atol=1e-6)
    assert "broken.wav: cannot be decoded" in capsys.readouterr().err
    assert not list(folder.glob(".*parts"))


def test_mean_and_maximum(folder):
    found = embed(folder, "max.npz", "--pool", "mean_max")
    outputs = expected(folder, "2.wav")
    np.testing.assert_allclose(
        found["vectors"][2], np.r_[outputs.mean(0), outputs.max(0)], rtol=1e-4, atol=1e-6
    )


def test_every_window_with_a_hop(folder):
    hop = 100 / 22050
    found = embed(folder, "none.npz", "--pool", "none", "--hop", str(hop))
    rows = found["owners"] == 1
    outputs = expected(folder, "1.wav", hop=100)
    np.testing.assert_allclose(found["vectors"][rows], outputs, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found["starts"][rows], hop * np.arange(len(outputs)))


def test_stages_side_by_side(folder):
    encoder = keras.models.load_model(folder / "encoder.keras")
    tap = keras.Model(
        encoder.input, [encoder.get_layer(name).output for name in ("bottleneck", "tail_1")]
    )
    audio, _ = soundfile.read(folder / "audio" / "0.wav", dtype="float32")
    windows = audio[: len(audio) // WINDOW * WINDOW].reshape(-1, WINDOW, 1)
    time = -1 if encoder.data_format == "channels_first" else 1
    means = [keras.ops.convert_to_numpy(o).mean(time).mean(0) for o in tap(windows)]
    found = embed(folder, "stages.npz", "--layers", "bottleneck,tail_1")
    np.testing.assert_allclose(found["vectors"][0], np.concatenate(means), rtol=1e-4, atol=1e-6)


def test_a_killed_run_goes_on(folder, monkeypatch):
    whole = embed(folder, "whole.npz")
    monkeypatch.setattr("keras_tune.recipes.embed.PART", 2)
    from keras_tune.data import audio

    decode, decoded = audio.load_audio, []

    def failing(path, *arguments, **options):
        if path.name == "3.wav" and fail:
            raise RuntimeError("killed")
        decoded.append(path.name)
        return decode(path, *arguments, **options)

    monkeypatch.setattr("keras_tune.data.audio.load_audio", failing)
    monkeypatch.setattr("keras_tune.data.load_audio", failing, raising=False)
    fail = True
    with pytest.raises(RuntimeError, match="killed"):
        embed(folder, "resumed.npz", "--workers", "1")
    assert not (folder / "resumed.npz").exists()
    fail = False
    decoded.clear()
    resumed = embed(folder, "resumed.npz", "--workers", "1")
    assert "0.wav" not in decoded
    assert "4.wav" in decoded
    assert resumed["ids"].tolist() == whole["ids"].tolist()
    np.testing.assert_allclose(resumed["vectors"], whole["vectors"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("pool", ["mean", "none"])
def test_a_table_holds_the_same_numbers(folder, pool):
    pytest.importorskip("pyarrow")
    import pandas as pd

    arrays = embed(folder, f"{pool}_again.npz", "--pool", pool)
    run(
        main,
        EmbedConfig,
        [
            "--encoder",
            str(folder / "encoder.keras"),
            "--source",
            str(folder / "audio"),
            "--output",
            str(folder / f"{pool}.parquet"),
            "--pool",
            pool,
        ],
    )
    table = pd.read_parquet(folder / f"{pool}.parquet")
    numbers = [name for name in table.columns if name not in ("id", "start")]
    assert numbers == [f"e{place}" for place in range(arrays["vectors"].shape[1])]
    np.testing.assert_allclose(table[numbers].to_numpy(), arrays["vectors"], rtol=1e-5, atol=1e-6)
    rows = arrays.get("owners", np.arange(len(arrays["ids"])))
    assert table["id"].tolist() == arrays["ids"][rows].tolist()
    if pool == "none":
        np.testing.assert_allclose(table["start"], arrays["starts"])


def test_clips_of_a_set_bring_their_split(folder):
    audio = np.random.default_rng(1).normal(0, 0.1, (4, 500)).astype("float32")
    np.savez(folder / "set.npz", audio=audio, ids=list("abcd"), split=["train", "test"] * 2)
    found = embed(folder, "of_set.npz", source="set.npz")
    split = dict(zip(found["ids"].tolist(), found["split"].tolist(), strict=True))
    assert split == {"a": "train", "b": "test", "c": "train", "d": "test"}


def test_one_line_in_python(folder):
    outputs = expected(folder, "1.wav")
    file = folder / "audio" / "1.wav"
    encoder = keras.models.load_model(folder / "encoder.keras")
    close = {"rtol": 1e-4, "atol": 1e-6}
    np.testing.assert_allclose(keras_tune.embed(file, encoder), outputs.mean(0), **close)
    audio, _ = soundfile.read(file, dtype="float32")
    windows = keras_tune.embed(audio, folder / "encoder.keras", pool="none")
    np.testing.assert_allclose(windows, outputs, **close)
    with pytest.raises(ValueError, match="mono"):
        keras_tune.embed(audio[None], encoder)
    with pytest.raises(ValueError, match="pool"):
        keras_tune.embed(audio, encoder, pool="median")
    with pytest.raises(UserError, match="no stage 'tail_7'; its stages: contract_1"):
        keras_tune.embed(audio, encoder, layers=["tail_7"])


def test_what_cannot_be(folder, capsys):
    with pytest.raises(SystemExit):
        embed(folder, "vectors.txt")
    assert "ends in .npz or .parquet" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        embed(folder, "x.npz", source="nowhere")
    assert "no such file or folder" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        embed(folder, "strict.npz", "--strict")
    assert "1 of 6 clips could not be embedded" in capsys.readouterr().err
