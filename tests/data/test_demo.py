import numpy as np
import pytest
import scipy.signal

from keras_tune.data import demo, demo_clips, open_dataset, read_records, save_demo, write_demo

pytestmark = pytest.mark.one_backend

RATE = 22050
COUNTS = {"train": 8, "valid": 2, "test": 3}


@pytest.fixture(scope="module")
def corpus():
    return demo_clips("test", num_clips=40, seconds=6.0)


def test_is_deterministic_and_grows_at_the_end(corpus):
    audio, table = corpus
    again, same = demo_clips("test", num_clips=9, seconds=6.0)
    np.testing.assert_array_equal(again, audio[:9])
    assert same.equals(table[:9])


def test_splits_seeds_and_clips_differ(corpus):
    audio, _ = corpus
    others = [demo_clips("test", 1, seed=1)[0], demo_clips("train", 1)[0]]
    clips = np.concatenate([audio, *others])
    assert len({clip.tobytes() for clip in clips}) == len(clips)


def test_is_audio(corpus):
    audio, table = corpus
    assert audio.shape == (40, 6 * RATE)
    assert audio.dtype == np.float32
    assert (np.abs(audio).max(axis=1) <= 1).all()
    assert (np.abs(audio).max(axis=1) > 0.1).all()
    assert list(table.columns) == ["id", "split", "instrument", "key", "tempo"]
    assert table["id"].is_unique


def test_instruments_are_equally_frequent(corpus):
    _, table = corpus
    assert set(table["instrument"]) == set(demo.INSTRUMENTS)
    assert table["instrument"].value_counts().nunique() == 1


def chroma(samples):
    """Energy of each of the twelve pitch classes, from C, between 60 and 2,000 Hz."""
    frequencies, _, spectrum = scipy.signal.stft(samples, RATE, nperseg=8192)
    power = (np.abs(spectrum) ** 2).sum(axis=1)
    classes = np.zeros(12)
    for frequency, value in zip(frequencies, power, strict=True):
        if 60 < frequency < 2000:
            classes[int(round(69 + 12 * np.log2(frequency / 440))) % 12] += value
    return classes / classes.sum()


def test_notes_are_those_of_the_key(corpus):
    audio, table = corpus
    held = ~table["instrument"].isin(["bell", "mallet"]).to_numpy()  # inharmonic: no clear chroma
    shares, tonics = [], []
    for clip, key in zip(audio[held], table["key"][held], strict=True):
        tonic, mode = key.split()
        scale = (np.array(demo.SCALES[mode]) + demo.TONICS.index(tonic)) % 12
        classes = chroma(clip)
        shares.append(classes[scale].sum())
        tonics.append(classes[demo.TONICS.index(tonic)])
    # Seven of twelve classes would hold 58 % by chance, the tonic 8 %.
    assert np.min(shares) > 0.7
    assert np.mean(shares) > 0.85
    assert np.mean(tonics) > 0.17


@pytest.mark.parametrize("name", [name for name in demo.INSTRUMENTS if name != "bell"])
def test_a_note_has_its_fundamental(name):
    """A bell sounds an octave below the partial it is named for, as bells do."""
    random = np.random.default_rng(0)
    instrument = demo.INSTRUMENTS[name]
    note = demo._note(random, instrument, 440.0, 1.0, instrument.slope, np.zeros(24), RATE)
    power = np.abs(np.fft.rfft(note * np.hanning(len(note)))) ** 2
    frequencies = np.fft.rfftfreq(len(note), 1 / RATE)
    below = power[frequencies < 400].sum()
    fundamental = power[np.abs(frequencies - 440) < 20].sum()
    assert fundamental > 5 * below
    assert fundamental > 0.1 * power.sum()


def test_a_reed_lacks_even_harmonics_and_an_organ_does_not():
    shares = {}
    for name in ("reed", "organ"):
        instrument = demo.INSTRUMENTS[name]
        random = np.random.default_rng(0)
        note = demo._note(random, instrument, 440.0, 1.0, instrument.slope, np.zeros(24), RATE)
        power = np.abs(np.fft.rfft(note * np.hanning(len(note)))) ** 2
        frequencies = np.fft.rfftfreq(len(note), 1 / RATE)
        second, third = (power[np.abs(frequencies - f) < 30].sum() for f in (880, 1320))
        shares[name] = second / third
    assert shares["reed"] < 0.1 < 1 < shares["organ"]


@pytest.mark.parametrize("name", ["organ", "reed", "flute"])
def test_an_organ_beats_slowly_and_a_reed_fast(name):
    instrument = demo.INSTRUMENTS[name]
    for seed in range(5):
        random = np.random.default_rng(seed)
        note = demo._note(random, instrument, 440.0, 4.0, instrument.slope, np.zeros(24), RATE)
        # The loudness of 20 ms each, without the attack and the release.
        frames = note[RATE // 2 : RATE // 2 + 3 * RATE].reshape(150, -1)
        decibels = 10 * np.log10(np.mean(frames**2, axis=1))
        depth = np.ptp(decibels)
        if not instrument.beats:
            assert depth < 4
            continue
        assert 7 < depth < 18
        spectrum = np.abs(np.fft.rfft((decibels - decibels.mean()) * np.hanning(150), 4096))
        beats = spectrum.argmax() * 50 / 4096
        assert 0.75 * instrument.beats < beats < 1.25 * instrument.beats


def test_two_crops_of_a_clip_are_more_alike_than_two_clips(corpus):
    audio, _ = corpus
    halves = audio.reshape(len(audio), 2, -1)
    _, _, spectrum = scipy.signal.stft(halves, RATE, nperseg=1024)
    features = np.log(np.abs(spectrum).mean(axis=-1) + 1e-4)
    features -= features.mean(axis=(0, 1))
    features /= np.linalg.norm(features, axis=-1, keepdims=True)
    similarity = features[:, 0] @ features[:, 1].T
    ranks = (similarity >= np.diag(similarity)[:, None]).sum(axis=1)
    assert np.mean(ranks == 1) > 0.6
    np.testing.assert_array_less(similarity.mean(), np.diag(similarity).mean() - 0.3)


def test_instruments_can_be_told_but_not_from_the_spectrum_alone(corpus):
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def features(audio):
        _, _, spectrum = scipy.signal.stft(audio, RATE, nperseg=1024)
        edges = np.unique(np.geomspace(1, 512, 41).astype(int))
        bands = np.add.reduceat(np.abs(spectrum)[:, :512], edges[:-1], axis=1)
        return np.log(bands.mean(axis=-1) + 1e-5)

    audio, table = demo_clips("train", 80, seconds=3.0)
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=500))
    probe.fit(features(audio), table["instrument"])
    score = probe.score(features(corpus[0]), corpus[1]["instrument"])
    assert 0.2 < score < 0.8


def test_changing_recordings_change_within_a_clip():
    def change(audio):
        """How much the share of the treble varies from second to second, in dB; a median."""
        power = np.abs(scipy.signal.stft(audio, RATE, nperseg=1024)[2]) ** 2
        seconds = np.stack([part.mean(axis=-1) for part in np.array_split(power, 6, axis=-1)])
        edge = round(1500 * 1024 / RATE)
        tilt = seconds[..., edge:].sum(axis=-1) / seconds[..., :edge].sum(axis=-1)
        return np.median(np.std(10 * np.log10(tilt), axis=0))

    steady, table = demo_clips("test", 40)
    changing, same = demo_clips("test", 40, changing=True)
    assert same.equals(table)
    assert change(changing) > 1.3 * change(steady)


def test_specimens_share_the_resonances_of_their_instrument():
    random = np.random.default_rng(0)
    bodies = {
        name: [demo._body(random, name, changing=True) for _ in range(2)]
        for name in ("reed", "brass")
    }
    for first, second in bodies.values():
        assert np.std(first - second) < 0.5 * np.std(first)
    assert np.std(bodies["reed"][0] - bodies["brass"][0]) > np.std(bodies["reed"][0])


def test_shards_and_npz_hold_the_same_corpus(tmp_path):
    pytest.importorskip("tensorflow")
    info = write_demo(tmp_path / "shards", COUNTS, seconds=1.0)
    save_demo(tmp_path / "demo.npz", COUNTS, seconds=1.0)
    arrays = open_dataset(tmp_path / "demo.npz")
    assert info.counts == arrays.info.counts == COUNTS
    assert info.fingerprints == arrays.info.fingerprints
    assert info.labels == arrays.info.labels
    for split in COUNTS:
        one, two = (
            sorted(read_records(path, split), key=lambda record: record["id"])
            for path in (tmp_path / "shards", tmp_path / "demo.npz")
        )
        assert len(one) == COUNTS[split]
        for record, same in zip(one, two, strict=True):
            np.testing.assert_array_equal(record["audio"], same["audio"])
            assert record["id"] == same["id"]
            assert record["labels"] == same["labels"]


def test_an_npz_has_its_suffix(tmp_path):
    with pytest.raises(ValueError, match=r"must end in \.npz. Received: path=.*demo"):
        save_demo(tmp_path / "demo", num_clips={"train": 1}, seconds=0.1)
    assert not list(tmp_path.iterdir())


def test_a_folder_has_a_corpus_for_each_seed(tmp_path, monkeypatch):
    monkeypatch.setitem(demo.RUN_CORPUS, "num_clips", {"train": 1})
    first, second = (demo.demo_corpus(tmp_path, seed) for seed in (1, 2))
    audio = [np.load(path)["audio"] for path in (first, second)]
    assert (audio[0] != audio[1]).any()
    written = first.stat().st_mtime_ns
    assert demo.demo_corpus(tmp_path, 1) == first and first.stat().st_mtime_ns == written
