import shutil

import keras
import numpy as np
import pytest
import soundfile
from seeded import seed_weights

import keras_tune
from keras_tune.errors import UserError
from keras_tune.evaluation import embed_files
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
    outputs = [keras.ops.convert_to_numpy(o) for o in tap(windows)]
    found = embed(folder, "stages.npz", "--layers", "bottleneck,tail_1")
    means = [o.mean(time).mean(0) for o in outputs]
    np.testing.assert_allclose(found["vectors"][0], np.concatenate(means), rtol=1e-4, atol=1e-6)
    options = ("--layers", "bottleneck,tail_1", "--layer_pooling", "mean_std")
    found = embed(folder, "deviations.npz", *options)
    both = [pooled(axis=time).mean(0) for o in outputs for pooled in (o.mean, o.std)]
    np.testing.assert_allclose(found["vectors"][0], np.concatenate(both), rtol=1e-4, atol=1e-6)


def test_a_killed_run_goes_on(folder, monkeypatch):
    whole = embed(folder, "whole.npz")
    monkeypatch.setattr("keras_tune.evaluation.embed_audio.PART", 2)
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
    windows, times = keras_tune.embed(audio, folder / "encoder.keras", pool="none")
    np.testing.assert_allclose(windows, outputs, **close)
    np.testing.assert_allclose(times, np.arange(len(outputs)) * WINDOW / 22050)
    both = keras_tune.embed([file, audio], encoder)
    np.testing.assert_allclose(both, [outputs.mean(0)] * 2, **close)
    with pytest.raises(ValueError, match="mono"):
        keras_tune.embed(audio[None], encoder)
    with pytest.raises(ValueError, match="pool"):
        keras_tune.embed(audio, encoder, pool="median")
    with pytest.raises(UserError, match="no stage 'tail_7'; its stages: contract_1"):
        keras_tune.embed(audio, encoder, layers=["tail_7"])


def test_a_folder_becomes_a_table(folder, tmp_path):
    encoder = keras.models.load_model(folder / "encoder.keras")
    with pytest.warns(UserWarning, match="left out: .*broken.wav"):
        table = keras_tune.embed(folder / "audio", encoder)
    assert table.index.tolist() == [*(f"{k}.wav" for k in range(4)), "more/4.wav"]
    close = {"rtol": 1e-4, "atol": 1e-6}
    np.testing.assert_allclose(table.loc["2.wav"], expected(folder, "2.wav").mean(0), **close)
    with pytest.warns(UserWarning, match="left out"):
        table = keras_tune.embed(str(folder / "audio"), encoder, pool="none", hop=100 / 22050)
    found = table.loc["more/4.wav"]
    np.testing.assert_allclose(found, expected(folder, "more/4.wav", 100), **close)
    np.testing.assert_allclose(found.index, np.arange(len(found)) * 100 / 22050)
    (tmp_path / "short.wav").write_bytes((folder / "audio" / "broken.wav").read_bytes())
    with pytest.warns(UserWarning), pytest.raises(UserError, match="no clip is as long"):
        keras_tune.embed(tmp_path, encoder)


def test_what_cannot_be(folder, capsys):
    with pytest.raises(SystemExit):
        embed(folder, "vectors.txt")
    assert "vectors.txt: must end in .npz or .parquet" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        embed(folder, "x.npz", source="nowhere")
    assert "must be an existing file or folder" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        embed(folder, "strict.npz", "--strict")
    assert "1 of 6 clips could not be embedded" in capsys.readouterr().err


def prepared(folder, count=12):
    """A prepared set of three shards."""
    pytest.importorskip("tensorflow")
    from keras_tune.data import prepare
    from keras_tune.data.datasets import manifest_for

    audio = folder / "clips"
    audio.mkdir(parents=True)
    generator = np.random.default_rng(2)
    for number in range(count):
        soundfile.write(audio / f"{number:02d}.wav", generator.normal(0, 0.1, 600), 22050)
    manifest = manifest_for("folder", audio, fractions=[1, 0, 0])
    prepare(manifest, folder / "set", workers=1, shards=3, progress=False)
    return sorted((folder / "set").glob("*.tfrecord"))


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def test_a_damaged_shard_is_an_error_and_what_was_done_is_kept(folder, tmp_path, capsys):
    shards = prepared(tmp_path)
    whole = shards[1].read_bytes()
    flip(shards[1])
    options = {"source": tmp_path / "set"}
    with pytest.raises(SystemExit) as stop:
        embed(folder, tmp_path / "set.npz", **options)
    assert stop.value.code == 1
    error = capsys.readouterr().err
    assert shards[1].name in error and "is damaged" in error
    assert "shorter than a window" not in error and not (tmp_path / "set.npz").exists()
    kept = {file: file.stat().st_mtime_ns for file in (tmp_path / ".set.npz.parts").glob("*.npz")}
    assert len(kept) == 1
    shards[1].write_bytes(whole)
    found = embed(folder, tmp_path / "set.npz", **options)
    assert len(found["ids"]) == 12 and set(found["split"]) == {"train"}
    assert "0 clips left out" in capsys.readouterr().out


def stopped(folder, tmp_path, monkeypatch):
    """A run over a copy of the files that is killed before it writes its output."""
    shutil.copytree(folder / "audio", tmp_path / "audio")
    monkeypatch.setattr("keras_tune.evaluation.embed_audio.PART", 3)

    def killed(*_):
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr("keras_tune.evaluation.embed_audio._write", killed)
        with pytest.raises(RuntimeError, match="killed"):
            embed(folder, tmp_path / "out.npz", source=tmp_path / "audio")


def decoded_again(folder, tmp_path, monkeypatch):
    """What the second run writes, and the files that it decoded."""
    from keras_tune.data import audio

    decode, decoded = audio.load_audio, []

    def noted(path, *arguments, **options):
        decoded.append(path.name)
        return decode(path, *arguments, **options)

    monkeypatch.setattr("keras_tune.data.load_audio", noted, raising=False)
    found = embed(folder, tmp_path / "out.npz", source=tmp_path / "audio")
    return found, sorted(decoded)


def test_a_replaced_file_gets_a_new_vector(folder, tmp_path, monkeypatch):
    stopped(folder, tmp_path, monkeypatch)
    other = tmp_path / "audio" / "more" / "4.wav"
    soundfile.write(other, np.random.default_rng(7).normal(0, 0.1, 1000), 22050)
    found, decoded = decoded_again(folder, tmp_path, monkeypatch)
    direct = keras_tune.embed(other, folder / "encoder.keras")
    vectors = dict(zip(found["ids"], found["vectors"], strict=True))
    np.testing.assert_allclose(vectors["more/4.wav"], direct, rtol=1e-4, atol=1e-6)
    # Of the other part, the file that cannot be used is tried again, and nothing else.
    assert "4.wav" in decoded and "0.wav" not in decoded


def test_a_file_that_failed_is_tried_again(folder, tmp_path, monkeypatch):
    # Whatever size and time say: the folder of another machine may have been away for a moment.
    monkeypatch.setattr("keras_tune.evaluation.embed_audio._Files.stamps", lambda *_: [])
    stopped(folder, tmp_path, monkeypatch)
    file = tmp_path / "audio" / "broken.wav"
    soundfile.write(file, np.random.default_rng(7).normal(0, 0.1, 1000), 22050)
    found, decoded = decoded_again(folder, tmp_path, monkeypatch)
    assert decoded == ["broken.wav"]
    assert found["ids"].tolist() == sorted(found["ids"].tolist()) and len(found["ids"]) == 6
    direct = keras_tune.embed(file, folder / "encoder.keras")
    vectors = dict(zip(found["ids"], found["vectors"], strict=True))
    np.testing.assert_allclose(vectors["broken.wav"], direct, rtol=1e-4, atol=1e-6)


def test_files_are_resampled_to_the_encoders_rate_and_sets_must_have_it(folder, tmp_path, capsys):
    encoder = keras.models.load_model(folder / "encoder.keras")
    slow = TUNe.from_config({**encoder.get_config(), "sample_rate": 8000})
    slow.set_weights(encoder.get_weights())
    slow.save(tmp_path / "encoder.keras")
    audio = np.random.default_rng(1).normal(0, 0.1, (2, 2000)).astype("float32")
    (tmp_path / "audio").mkdir()
    for name, samples in zip("ab", audio, strict=True):
        soundfile.write(tmp_path / "audio" / f"{name}.wav", samples, 8000, subtype="FLOAT")
    found = embed(tmp_path, "out.npz", source="audio")
    windows = audio[:, : 2000 // WINDOW * WINDOW].reshape(-1, WINDOW, 1)
    outputs = keras.ops.convert_to_numpy(encoder(windows)).reshape(2, -1, encoder.output_shape[1])
    np.testing.assert_allclose(found["vectors"], outputs.mean(1), rtol=1e-4, atol=1e-6)
    direct = keras_tune.embed(tmp_path / "audio" / "b.wav", tmp_path / "encoder.keras")
    np.testing.assert_allclose(direct, outputs.mean(1)[1], rtol=1e-4, atol=1e-6)
    np.savez(tmp_path / "set.npz", audio=audio, sample_rate=22050)
    with pytest.raises(SystemExit):
        embed(tmp_path, "of_set.npz", source="set.npz")
    assert "encoder.keras: made for audio at 8000 Hz, not at 22050 Hz" in capsys.readouterr().err
    np.savez(tmp_path / "set.npz", audio=audio, sample_rate=8000)
    of_set = embed(tmp_path, "of_set.npz", source="set.npz")
    np.testing.assert_allclose(of_set["vectors"], outputs.mean(1), rtol=1e-4, atol=1e-6)


def test_a_song_alone_is_embedded_by_the_encoder_that_ships(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    noise = np.random.default_rng(0).normal(0, 0.1, 2 * 59049 + 100)
    soundfile.write("song.wav", noise, 22050)
    run(main, EmbedConfig, ["song.wav"])
    assert "song_embedding.npz: 1 clip, 1 vector;" in capsys.readouterr().out
    found = np.load("song_embedding.npz")["vectors"]
    windows = soundfile.read("song.wav", dtype="float32")[0][: 2 * 59049].reshape(2, 59049, 1)
    encoder = TUNe.from_preset("tune_plus_open")
    np.testing.assert_allclose(
        found[0], encoder.predict(windows, verbose=0).mean(0), rtol=1e-3, atol=1e-5
    )
    np.testing.assert_allclose(keras_tune.embed("song.wav"), found[0], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    "source, output",
    [
        ("music/", "music_embedding.npz"),
        ("s3://music/jazz", "jazz_embedding.npz"),
        ("clips.npz", "clips_embedding.npz"),
        (".", "music_embedding.npz"),
        ("..", "music_embedding.npz"),
        ("Vol. 2.mp3", "Vol. 2_embedding.npz"),
        ("Vol. 2", "Vol. 2_embedding.npz"),
    ],
)
def test_the_output_is_named_after_the_source(tmp_path, monkeypatch, source, output):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "Vol. 2").mkdir()
    assert EmbedConfig(source).output == output


@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_a_lost_part_of_a_killed_run_is_embedded_again(
    folder, tmp_path, monkeypatch, capsys, damage
):
    """Its clips are neither left out in silence nor an error that only deleting files removes."""
    stopped(folder, tmp_path, monkeypatch)
    parts = sorted((tmp_path / ".out.npz.parts").glob("*.npz"))
    assert len(parts) == 2
    if damage == "missing":
        parts[0].unlink()
    else:
        parts[0].write_bytes(parts[0].read_bytes()[:-100])
    found = embed(folder, tmp_path / "out.npz", source=tmp_path / "audio")
    assert f"{parts[0]}: missing or damaged" in capsys.readouterr().err
    whole = embed(folder, tmp_path / "whole.npz", source=tmp_path / "audio")
    np.testing.assert_array_equal(found["ids"], whole["ids"])
    np.testing.assert_allclose(found["vectors"], whole["vectors"], rtol=1e-5, atol=1e-6)


def test_a_default_output_of_another_source_is_not_replaced(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("song.wav", "song.flac"):
        noise = np.random.default_rng(len(name)).normal(0, 0.1, 1000)
        soundfile.write(name, noise, 22050)
    options = ["--encoder", str(folder / "encoder.keras")]
    run(main, EmbedConfig, ["song.wav", *options])
    before = np.load("song_embedding.npz")["vectors"]
    with pytest.raises(SystemExit):
        run(main, EmbedConfig, ["song.flac", *options])
    error = capsys.readouterr().err
    assert "song_embedding.npz: already exists for" in error and "song.wav, not for" in error
    np.testing.assert_array_equal(np.load("song_embedding.npz")["vectors"], before)
    # The same song again, and another one where its name is given.
    run(main, EmbedConfig, ["song.wav", *options])
    run(main, EmbedConfig, ["song.flac", *options, "--output", "song_embedding.npz"])
    assert not np.array_equal(np.load("song_embedding.npz")["vectors"], before)


def test_from_python_as_from_the_command_line(folder, tmp_path):
    """An encoder that is given, and not named, and what the call returns."""
    found = embed(folder, "by_command.npz", "--pool", "none", "--layers", "tail_1")
    encoder = keras.models.load_model(folder / "encoder.keras")
    with pytest.warns(UserWarning, match=r"^left out: broken.wav: cannot be decoded"):
        written = embed_files(
            folder / "audio", tmp_path / "x.npz", encoder, pool="none", layers=["tail_1"]
        )
    again = dict(np.load(written.path))
    for name in ("ids", "vectors", "owners", "starts", "source", "encoder"):
        np.testing.assert_array_equal(again[name], found[name])
    assert (written.clips, written.vectors) == (5, len(found["vectors"]))
    assert [name for name, _ in written.left_out] == ["broken.wav"]


def test_a_set_at_another_rate_than_the_model_that_is_given(tmp_path):
    np.savez(tmp_path / "set.npz", audio=np.full((2, 500), 0.1, "float32"), split=["test"] * 2)
    encoder = TUNe(1, 1, 2, tail_filters=[4], input_samples=WINDOW, sample_rate=16000)
    with pytest.raises(UserError, match="made for audio at 16000 Hz, not at 22050 Hz"):
        embed_files(tmp_path / "set.npz", tmp_path / "x.npz", encoder)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"output": "x.csv"}, "`output` must end in .npz or .parquet. Received: output=.*x.csv"),
        ({"pool": "max"}, "`pool` must be one of mean, mean_max, none. Received: pool=max"),
        ({"layer_pooling": "mean_std"}, "`layer_pooling` needs `layers`"),
    ],
)
def test_arguments_that_are_refused(folder, tmp_path, arguments, message):
    options = {"output": "x.npz", "encoder": folder / "encoder.keras", **arguments}
    options["output"] = tmp_path / options["output"]
    with pytest.raises(ValueError, match=message):
        embed_files(folder / "audio", **options)
    assert not list(tmp_path.iterdir())
