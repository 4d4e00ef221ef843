"""The command line that writes augmented views."""

import dataclasses

import numpy as np
import pytest
import soundfile

from keras_tune.errors import UserError
from keras_tune.recipes.augment import AugmentConfig, AugmentViewsConfig, main

pytestmark = pytest.mark.one_backend

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "tone.wav"
    time = np.arange(30000) / 22050
    soundfile.write(path, 0.5 * np.sin(2 * np.pi * 440 * time) * np.exp(-time), 22050)
    return str(path)


def test_views_are_written_as_sound_and_picture(source, tmp_path):
    output = tmp_path / "views"
    # Gain alone, at a level that can be checked.
    keys = {field.name: 0.0 for field in dataclasses.fields(AugmentConfig)}
    keys = {name: value for name, value in keys.items() if name.endswith("_probability")}
    keys |= {"gain_probability": 1.0, "min_gain_db": -6.0, "max_gain_db": -6.0}
    main(
        AugmentViewsConfig(
            source, str(output), views=2, samples=20000, augment=AugmentConfig(**keys)
        )
    )
    names = [f"view-{n}{end}" for n in (1, 2) for end in ("-after.wav", "-before.wav", ".png")]
    assert sorted(path.name for path in output.iterdir()) == names
    for number in (1, 2):
        before, rate = soundfile.read(output / f"view-{number}-before.wav")
        after, _ = soundfile.read(output / f"view-{number}-after.wav")
        assert rate == 22050
        assert before.shape == after.shape == (20000,)
        np.testing.assert_allclose(after, before * 10 ** (-6 / 20), atol=1e-4)
        assert (output / f"view-{number}.png").read_bytes().startswith(PNG)


def test_every_augmentation_gets_a_view(source, tmp_path):
    output = tmp_path / "views"
    main(AugmentViewsConfig(source, str(output), views=1, samples=20000, each=True))
    pictures = {path.stem for path in output.glob("*.png")}
    assert {"view-1", "PitchShift", "Reverb", "BackgroundMix", "TimeStretch"} < pictures
    for name in pictures - {"view-1"}:
        before, _ = soundfile.read(output / f"{name}-before.wav")
        after, _ = soundfile.read(output / f"{name}-after.wav")
        assert np.abs(before - after).max() > 1e-3


def test_mistakes_are_one_line(source, tmp_path):
    with pytest.raises(UserError, match="probability=2"):
        augment = AugmentConfig(gain_probability=2.0)
        main(AugmentViewsConfig(source, str(tmp_path / "views"), samples=20000, augment=augment))
    with pytest.raises(UserError, match="tone.wav"):
        main(AugmentViewsConfig(source, str(tmp_path / "views"), samples=10**6))
    with pytest.raises(UserError, match="is a folder; give an audio file"):
        main(AugmentViewsConfig(str(tmp_path), str(tmp_path / "views"), samples=20000))
