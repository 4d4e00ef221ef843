"""A small corpus of synthesized music, for examples and tests.

Each clip is a piece for one instrument: chords of a progression in a key, broken into notes at a
tempo. Eight instruments differ in their spectra (harmonics and slope), in how the spectrum and the
loudness of a note develop, and in the noise at its beginning; notes and players vary at random. The
organ and the reed beat, slowly and fast, like two rows of pipes or reeds that are tuned apart.
Every recording has its own filter, level and noise, so that the average spectrum of a clip says
less about its instrument than the sound of its notes does. On request, filter and noise change
within a clip as well: then two parts of a clip have little in common but the instrument.

Labels: `instrument` (one of `INSTRUMENTS`), `key` (tonic and mode, e.g. "D minor") and `tempo`
(beats per minute). Everything is determined by a seed.
"""

import concurrent.futures
import dataclasses
import os
import pathlib
import tempfile
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_tune.data.audio import to_int16
from keras_tune.files import atomic_path
from keras_tune.storage import AnyPath, FilePath, to_path
from keras_tune.types import DEFAULT_SAMPLE_RATE

if TYPE_CHECKING:
    import pandas as pd

    from keras_tune.data.schema import DatasetInfo

SPLIT_CLIPS = {"train": 160, "valid": 40, "test": 40}
TONICS = ("C", "Db", "D", "Eb", "E", "F", "Gb", "G", "Ab", "A", "Bb", "B")
SCALES = {"major": (0, 2, 4, 5, 7, 9, 11), "minor": (0, 2, 3, 5, 7, 8, 10)}
# Scale degrees of the chords' roots, from 0; each progression begins with the tonic.
PROGRESSIONS = ((0, 3, 4, 0), (0, 4, 5, 3), (0, 5, 3, 4), (0, 3, 0, 4), (0, 1, 4, 0))
# The corpus of pretraining runs and searches without data. The encoder learns to ignore recording
# conditions that change within a clip; at this rate, views of 2.5 s cost as much as those of 0.9 s
# at 22,050 Hz.
RUN_CORPUS: dict[str, Any] = {
    "num_clips": {"train": 320, "valid": 40, "test": 320},
    "sample_rate": 8000,
    "changing": True,
}
# Samples in the one period of a wave table; with 24 harmonics, the error of linear interpolation is
# below -60 dB.
TABLE = 1024
HARMONICS = 24
# Standard deviations in dB of what bodies add to the partials of their notes: of single specimens,
# and where recordings change, of instruments and of specimens of one instrument.
BODY, OWN_BODY, SPECIMEN = 4.0, 5.0, 1.0
# Decibels from the softest to the loudest moment of a beat.
BEAT = 12.0


@dataclasses.dataclass(frozen=True)
class Instrument:
    """How an instrument's notes sound.

    Attributes:
        slope: Decibels that the harmonics fall per octave, at the note's beginning.
        darkening: Decibels per octave by which the spectrum gets steeper until the note's end.
        even: Level of the even harmonics, in decibels.
        partials: Frequencies relative to the fundamental, empty for harmonics.
        attack: Seconds in which a note reaches its level.
        decay: Seconds in which a note falls by 1/e, infinite for one that is held.
        vibrato: Depth of the vibrato, in cents.
        noise: Level of the noise at a note's beginning.
        beats: Beats per second, 0 for a note that does not beat.
    """

    slope: float
    darkening: float = 0.0
    even: float = 0.0
    partials: tuple = ()
    attack: float = 0.005
    decay: float = np.inf
    vibrato: float = 0.0
    noise: float = 0.0
    beats: float = 0.0


INSTRUMENTS = {
    "bell": Instrument(-4, 6, partials=(0.5, 1, 1.19, 1.56, 2, 2.66, 3.01, 4.1), decay=0.9),
    "bowed": Instrument(-7, 0, attack=0.12, vibrato=60, noise=0.02),
    "brass": Instrument(-5, -9, attack=0.35, vibrato=6),
    "flute": Instrument(-15, 0, attack=0.07, vibrato=12, noise=0.06),
    "mallet": Instrument(-12, 8, partials=(1, 3.93, 9.2), decay=0.25, noise=0.1),
    "organ": Instrument(-6, 0, attack=0.015, beats=2.5),
    "plucked": Instrument(-6, 12, decay=0.5, noise=0.03),
    "reed": Instrument(-6, 0, even=-25, attack=0.03, vibrato=4, beats=6.5),
}


def demo_clips(
    split: str = "train",
    num_clips: int | None = None,
    seconds: float = 6.0,
    sample_rate: int = DEFAULT_SAMPLE_RATE,
    seed: int = 0,
    changing: bool = False,
) -> "tuple[np.ndarray, pd.DataFrame]":
    """Synthesize the clips of a split.

    Args:
        split: "train", "valid" or "test". Their clips differ. Defaults to "train".
        num_clips: Number of clips. Defaults to 160 for train, 40 for valid and 40 for test. The
            first clips stay the same when more are asked for.
        seconds: Length of a clip. Defaults to 6.
        sample_rate: Samples per second. Defaults to 22,050.
        seed: Integer, the seed of all random numbers. Defaults to 0.
        changing: Whether the recording changes within a clip, from one filter to another and with
            noise that gets louder or softer, and every instrument has resonances that all of its
            specimens share. Two crops of a clip then agree in their instrument more than in their
            average spectrum. Defaults to False.

    Returns:
        Pair of a float32 array of shape (clips, samples), full scale being 1, and a DataFrame with
        one row per clip and the columns id, split, instrument, key and tempo.

    Example:

    ```python
    from keras_tune.data import demo_clips

    audio, labels = demo_clips("test", num_clips=8, seconds=3.0)
    ```
    """
    import pandas as pd

    num_clips = SPLIT_CLIPS[split] if num_clips is None else num_clips
    names = sorted(INSTRUMENTS)
    stream = sorted(SPLIT_CLIPS).index(split)
    record = _record_changing if changing else _record

    def synthesize(number):
        random = np.random.default_rng([seed, stream, number])
        # In turn, so that every instrument is as frequent as the others.
        name = names[number % len(names)]
        tonic, mode = int(random.integers(12)), str(random.choice(sorted(SCALES)))
        tempo = float(np.round(random.uniform(60, 180), 1))
        notes = _score(random, tonic, mode, tempo, seconds)
        body = _body(random, name, changing)
        clip = _perform(random, INSTRUMENTS[name], body, notes, seconds, sample_rate)
        row = f"{split}-{number:04d}", split, name, f"{TONICS[tonic]} {mode}", tempo
        return record(random, clip), row

    # NumPy computes in several threads at once.
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        audio, rows = zip(*pool.map(synthesize, range(num_clips)), strict=True)
    table = pd.DataFrame(rows, columns=["id", "split", "instrument", "key", "tempo"])
    return np.stack(audio), table


def write_demo(
    output: AnyPath,
    num_clips: dict[str, int] | None = None,
    seconds: float = 6.0,
    sample_rate: int = DEFAULT_SAMPLE_RATE,
    seed: int = 0,
    **options: Any,
) -> "DatasetInfo":
    """Write the corpus as audio files and prepare them as shards with `keras_tune.data.prepare`.

    Args:
        output: Folder to write to.
        num_clips: Dict from split to number of clips. Defaults to 160, 40 and 40.
        seconds: Length of a clip. Defaults to 6.
        sample_rate: Samples per second. Defaults to 22,050.
        seed: Integer, the seed of all random numbers. Defaults to 0.
        **options: Other arguments of `prepare`, e.g. `encoding`.

    Returns:
        `DatasetInfo`.

    Raises:
        UserError: If `prepare` raises it.

    Example:

    ```python
    from keras_tune.data import write_demo

    info = write_demo("demo", num_clips={"train": 8, "test": 8}, seconds=3.0)
    ```
    """
    import soundfile

    from keras_tune.data.preparation import prepare

    audio, table = _all_splits(num_clips, seconds, sample_rate, seed)
    defaults: dict[str, Any] = {"name": "demo", "workers": 1, "progress": False}
    with tempfile.TemporaryDirectory() as folder:
        table["path"] = [str(pathlib.Path(folder) / f"{clip}.wav") for clip in table["id"]]
        for path, clip in zip(table["path"], audio, strict=True):
            soundfile.write(path, clip, sample_rate)
        return prepare(table, output, sample_rate=sample_rate, **(defaults | options))


def save_demo(
    path: AnyPath,
    num_clips: dict[str, int] | None = None,
    seconds: float = 6.0,
    sample_rate: int = DEFAULT_SAMPLE_RATE,
    seed: int = 0,
    changing: bool = False,
) -> None:
    """Save the corpus as an `.npz` file, for `keras_tune.data.open_dataset`.

    Args:
        path: The file to write.
        num_clips: Dict from split to number of clips. Defaults to 160, 40 and 40.
        seconds: Length of a clip. Defaults to 6.
        sample_rate: Samples per second. Defaults to 22,050.
        seed: Integer, the seed of all random numbers. Defaults to 0.
        changing: Whether recordings change within a clip; see `demo_clips`. Defaults to False.

    Raises:
        ValueError: If the file's name does not end in `.npz`.

    Example:

    ```python
    from keras_tune.data import save_demo

    save_demo("demo.npz", num_clips={"train": 8, "test": 8}, seconds=3.0)
    ```
    """
    if to_path(path).suffix != ".npz":
        raise ValueError(f"`path` must end in .npz. Received: path={path}")
    audio, table = _all_splits(num_clips, seconds, sample_rate, seed, changing)
    with atomic_path(path) as temporary:
        np.savez(
            temporary,
            audio=audio,
            ids=table["id"].to_numpy(str),
            split=table["split"].to_numpy(str),
            sample_rate=sample_rate,
            instrument=table["instrument"].to_numpy(str),
            key=table["key"].to_numpy(str),
            tempo=table["tempo"].to_numpy(float),
        )


def demo_corpus(folder: AnyPath, seed: int) -> FilePath:
    """Save the corpus of runs without data in their folder unless it exists; return its path."""
    path = to_path(folder) / f"demo_{seed}.npz"
    if not path.exists():
        save_demo(path, seed=seed, **RUN_CORPUS)
    return path


def _all_splits(num_clips, *settings):
    """The clips of all splits as int16, and their table; `settings` are those of `demo_clips`."""
    import pandas as pd

    counts = num_clips or SPLIT_CLIPS
    parts = [demo_clips(split, count, *settings) for split, count in counts.items()]
    audio, tables = zip(*parts, strict=True)
    return to_int16(np.concatenate(audio)), pd.concat(tables)


def _score(random, tonic, mode, tempo, seconds):
    """Write the piece: a list of (start in s, length in s, pitch in MIDI numbers, loudness)."""
    beat = 60.0 / tempo
    progression = PROGRESSIONS[random.integers(len(PROGRESSIONS))]
    scale = SCALES[mode]
    register = 48 + tonic + 12 * int(random.integers(0, 2))
    broken = random.random() < 0.6
    pattern = random.permutation(3)
    notes = []
    # Pieces begin anywhere in their first bar.
    start, chord = -beat * random.integers(0, 4), 0
    while start < seconds:
        degrees = progression[chord % len(progression)] + np.array([0, 2, 4])
        pitches = [register + scale[degree % 7] + 12 * (degree // 7) for degree in degrees]
        if broken:
            for number in range(4):
                pitch = pitches[pattern[number % 3]] + 12 * (number == 3)
                notes.append((start + number * beat, 1.4 * beat, pitch))
        else:
            notes += [(start, 3.8 * beat, pitch) for pitch in pitches]
        notes.append((start, 3.8 * beat, pitches[0] - 12))
        start, chord = start + 4 * beat, chord + 1
    return [
        (begin, length, pitch, 10 ** (random.uniform(-6, 0) / 20))
        for begin, length, pitch in notes
        if begin + length > 0 and begin < seconds
    ]


def _body(random, name, changing):
    """The resonances of a specimen: decibels that it adds to each harmonic."""
    if not changing:
        return random.normal(0, BODY, HARMONICS)
    own = np.random.default_rng(sorted(INSTRUMENTS).index(name)).normal(0, OWN_BODY, HARMONICS)
    return own + random.normal(0, SPECIMEN, HARMONICS)


def _perform(random, instrument, body, notes, seconds, sample_rate):
    """Play the notes on a specimen of an instrument."""
    samples = int(round(seconds * sample_rate))
    clip = np.zeros(samples, "float32")
    slope = instrument.slope + random.normal(0, 1.5)
    tuning = random.normal(0, 8)
    for start, length, pitch, loudness in notes:
        frequency = 440.0 * 2 ** ((pitch - 69 + tuning / 100) / 12)
        note = _note(random, instrument, frequency, length, slope, body, sample_rate)
        begin = int(round(start * sample_rate))
        first, last = max(0, begin), min(samples, begin + len(note))
        if first < last:
            clip[first:last] += loudness * note[first - begin : last - begin]
    return clip


def _note(random, instrument, frequency, length, slope, body, sample_rate):
    """Synthesize one note: float32 of shape (samples,)."""
    release = 0.06
    time = np.arange(int((length + release) * sample_rate), dtype="float32") / sample_rate
    attack = instrument.attack * random.uniform(0.7, 1.4)
    decay = instrument.decay * random.uniform(0.7, 1.4)
    slope = slope + random.normal(0, 1)
    envelope = np.minimum(time / attack, 1)
    if np.isfinite(decay):
        envelope *= np.exp(-time / decay)
    envelope *= np.clip((length + release - time) / release, 0, 1)
    if instrument.beats:
        rate = 2 * np.pi * instrument.beats * random.uniform(0.8, 1.2)
        loudest = 0.5 - 0.5 * np.cos(rate * time + random.uniform(0, 2 * np.pi))
        envelope *= 10 ** (BEAT * random.uniform(0.7, 1.4) * (loudest - 1) / 20)
    depth = instrument.vibrato * random.uniform(0.5, 1.5) / 1200 * np.log(2)
    rate = random.uniform(4.5, 6.5)
    start = random.uniform(0, 2 * np.pi)
    bent = time
    if depth:
        bent = time - depth / (2 * np.pi * rate) * np.cos(2 * np.pi * rate * time + start)
    cycles = frequency * bent
    bright = _levels(instrument, frequency, slope, body, sample_rate)
    dark = _levels(instrument, frequency, slope - instrument.darkening, body, sample_rate)
    progress = time / time[-1]
    if instrument.partials:
        wave = _partials(random, instrument.partials, cycles, bright, dark, progress)
    else:
        wave = _harmonics(random, cycles, bright, dark, progress)
    breath = random.standard_normal(len(time), dtype="float32")
    if instrument.noise:
        burst = instrument.noise * (0.3 * np.isinf(decay) + np.exp(-time / 0.03))
        wave = wave + burst * breath
    return (wave * envelope).astype("float32", copy=False)


def _levels(instrument, frequency, slope, body, sample_rate):
    """Amplitudes of the partials, with a total power of 1."""
    ratios = np.array(instrument.partials or np.arange(1, HARMONICS + 1))
    decibels = slope * np.log2(ratios / ratios[0]) + body[: len(ratios)] * (ratios > ratios[0])
    if not instrument.partials:
        decibels[1::2] += instrument.even
    levels = 10 ** (decibels / 20) * (ratios * frequency < 0.45 * sample_rate)
    return levels / np.sqrt(np.sum(levels**2))


def _harmonics(random, cycles, bright, dark, progress):
    """Play harmonics along `cycles`, the phase in periods, with levels from bright to dark."""
    phases = np.exp(1j * random.uniform(0, 2 * np.pi, HARMONICS))
    phase = (cycles % 1.0) * TABLE
    index = phase.astype("int32")
    # Both waves are read at the same phase, between the same two entries of their tables.
    between = (phase - index).astype("float32")
    index &= TABLE - 1
    wave = _table(bright, phases, index, between) * (1 - progress)
    wave += _table(dark, phases, index, between) * progress
    return wave


def _table(levels, phases, index, between):
    """One wave with the given harmonics, by linear interpolation in the table of its period."""
    spectrum = np.zeros(TABLE // 2 + 1, complex)
    spectrum[1 : HARMONICS + 1] = levels * phases * TABLE / 2
    period = np.fft.irfft(spectrum, TABLE).astype("float32")
    step = np.append(np.diff(period), period[0] - period[-1])
    return period[index] + between * step[index]


def _partials(random, ratios, cycles, bright, dark, progress):
    wave = np.zeros(len(cycles), "float32")
    for ratio, begin, end in zip(ratios, bright, dark, strict=True):
        phase = (2 * np.pi * ((ratio * cycles + random.random()) % 1.0)).astype("float32")
        wave += np.sin(phase) * (begin + (end - begin) * progress)
    return wave


def _record(random, clip):
    """Record a performance, with its own filter, noise and level."""
    clip = _filter(random, np.fft.rfft(clip), len(clip), strength=1.0)
    clip /= np.abs(clip).max()
    noise = random.standard_normal(len(clip), dtype="float32")
    clip += noise * np.sqrt(np.mean(clip**2)) * 10 ** (random.uniform(-50, -20) / 20)
    return _leveled(random, clip)


def _record_changing(random, clip):
    """Record a performance while the filter and the noise change, with its own level."""
    progress = np.linspace(0, 1, len(clip))
    turns = 2 * np.pi * (random.uniform(0.5, 1.5) * progress + random.random())
    share = 0.5 + 0.5 * np.sin(turns)
    spectrum = np.fft.rfft(clip)
    filtered = [_filter(random, spectrum, len(clip), strength=1.5) for _ in range(2)]
    first, second = [part / np.sqrt(np.mean(part**2)) for part in filtered]
    clip = first * np.sqrt(share) + second * np.sqrt(1 - share)
    decibels = random.uniform(-40, -10) * (1 - progress) + random.uniform(-40, -10) * progress
    clip += random.standard_normal(len(clip)) * 10 ** (decibels / 20)
    return _leveled(random, clip)


def _filter(random, spectrum, samples, strength):
    """Filter a clip with a random slope and random ripples, in proportion to `strength`."""
    octaves = np.log2(np.maximum(np.linspace(0, 1, len(spectrum)), 1e-3)) + 4
    decibels = random.normal(0, 2) * octaves + random.normal(0, 5) * np.sin(
        octaves * random.uniform(0.5, 1.5) + random.uniform(0, 2 * np.pi)
    )
    return np.fft.irfft(spectrum * 10 ** (strength * decibels / 20), samples)


def _leveled(random, clip):
    """A clip at a random peak level, float32."""
    level = 10 ** (random.uniform(-18, -1) / 20)
    return (clip / np.abs(clip).max() * level).astype("float32")
