"""Audio files that tests of several folders read, as fixtures."""

import numpy as np
import pandas as pd
import pytest
import soundfile

RATE = 22050


@pytest.fixture(scope="session")
def clips(tmp_path_factory):
    """Fourteen wav files whose every sample tells which file it is from, and where from."""
    folder = tmp_path_factory.mktemp("clips")
    rows = []
    for number in range(14):
        # Sample k of clip n is 2000 n + k: any crop can be told from its first sample.
        samples = 2000 * number + np.arange(1000 + 10 * number)
        path = folder / f"{number:02d}.wav"
        soundfile.write(path, samples.astype("int16"), RATE)
        split = "train" if number < 10 else "test"
        rows.append((f"clip {number:02d}", str(path), split, "ab"[number % 2], number / 2))
    return pd.DataFrame(rows, columns=["id", "path", "split", "letter", "half"])


@pytest.fixture
def bad_files(tmp_path):
    """A folder of four usable files among others, and why the others are not."""
    random = np.random.default_rng(0)
    folder = tmp_path / "bad"
    folder.mkdir()
    for number in range(4):
        soundfile.write(folder / f"good{number}.wav", random.normal(0, 0.1, 3000), RATE)
    (folder / "text.wav").write_text("This is not audio. " * 50)
    (folder / "empty.wav").touch()
    soundfile.write(folder / "silent.wav", np.zeros(3000), RATE)
    soundfile.write(folder / "short.wav", random.normal(0, 0.1, 200), RATE)
    broken = random.normal(0, 0.1, 3000)
    broken[7] = np.nan
    soundfile.write(folder / "nan.wav", broken, RATE, subtype="FLOAT")
    reasons = {
        "text.wav": "cannot be decoded (Format not recognised)",
        "empty.wav": "cannot be decoded (the file is empty)",
        "silent.wav": "silent",
        "short.wav": "too short (0.01 s of 0.05 s)",
        "nan.wav": "contains NaN or infinity",
    }
    return folder, reasons
