"""Write augmented views of an audio file as sound and plots.

The command cuts crops from the file, applies the published augmentation chain to each, and writes
every crop and its view as WAV files, with a plot of both (waveform and spectrogram). With --each
true, it also writes one view for each single augmentation, applied with probability 1.
"""

import dataclasses
import functools
import io
import os
from typing import Literal

from keras_tune.errors import UserError
from keras_tune.recipes._cli import run
from keras_tune.recipes._folder import writes
from keras_tune.recipes._options import names_options
from keras_tune.storage import local_output
from keras_tune.types import (
    DEFAULT_SAMPLE_RATE,
    DEFAULT_WINDOW,
    AugmentConfig,
    Repetitions,
    SampleRate,
    Samples,
    Seed,
)


@dataclasses.dataclass
class AugmentViewsConfig:
    """Options of the views.

    Args:
        source: Audio file.
        output: Folder for the WAV files and plots.
        views: Number of views.
        samples: Length of a view in samples.
        sample_rate: Sample rate in Hz.
        seed: Seed of crops and augmentations.
        each: Whether to also write a view for each single augmentation.
        augment: The augmentation chain.
        backend: Keras backend. Defaults to KERAS_BACKEND, else the first one installed.
    """

    source: str
    output: str
    views: Repetitions = 4
    samples: Samples = DEFAULT_WINDOW
    sample_rate: SampleRate = DEFAULT_SAMPLE_RATE
    seed: Seed = 42
    each: bool = False
    augment: AugmentConfig = dataclasses.field(default_factory=AugmentConfig)
    backend: Literal["tensorflow", "jax", "torch"] | None = None


@names_options()
@writes("folder")
def main(config):
    """Run the command line; see `AugmentViewsConfig`."""
    import numpy as np
    from keras import ops

    from keras_tune.augment import RandomCrop, clmr_chain
    from keras_tune.data import load_audio

    output = local_output(config.output)
    if os.path.isdir(config.source):
        raise UserError(f"--source {config.source}: is a folder; give an audio file")
    audio = load_audio(config.source, config.sample_rate, min_samples=config.samples)
    try:
        keys = dataclasses.asdict(config.augment)
        chain = clmr_chain(config.sample_rate, config.seed, **keys)
    except ValueError as error:
        raise UserError(f"--augment: {error}") from error
    clips = np.repeat(audio[None], config.views, axis=0)
    crops = RandomCrop(config.samples, config.seed)(clips, training=True)
    views = chain(crops, training=True)
    pairs = {f"view-{k + 1}": (crops[k], views[k]) for k in range(config.views)}
    if config.each:
        clips = _with_partner(crops[:1], config.sample_rate)
        for name, layer in single_layers(config.sample_rate).items():
            pairs[name] = (crops[0], layer(clips, training=True)[0])
    for name, (crop, view) in pairs.items():
        crop, view = ops.convert_to_numpy(crop), ops.convert_to_numpy(view)
        _write(output, name, crop, view, config.sample_rate)
    print(f"{output}: {len(pairs)} views of {config.source}, as WAV files and PNG plots")


def single_layers(sample_rate):
    """Build one layer of every kind by name, at a clearly audible setting."""
    from keras_tune import augment

    layers = [
        augment.PolarityInversion(),
        augment.GaussianNoise(0.1, 0.1, seed=1),
        augment.Gain(-12.0, -12.0),
        augment.HighPass(sample_rate, 1000.0, 1000.0),
        augment.LowPass(sample_rate, 2200.0, 2200.0),
        augment.HighLowPass(sample_rate, seed=1),
        augment.Delay(sample_rate, 400.0, 400.0, volume=0.9),
        augment.Reverb(sample_rate, 85.0, 85.0, 30.0, 30.0, 100.0, 100.0),
        augment.PitchShift(500.0, 500.0),
        augment.TimeStretch(1.25, 1.25),
        augment.TimeMask(0.15, 0.15, seed=2),
        augment.BandReject(sample_rate, 1500.0, 1500.0, 2.0, 2.0),
        augment.Clipping(0.3, 0.3),
        augment.BackgroundMix(6.0, 6.0),
    ]
    return {type(layer).__name__: layer for layer in layers}


def _with_partner(crop, sample_rate):
    """A crop and a second clip, for the layer that mixes clips: pulses of a high tone."""
    import numpy as np
    from keras import ops

    time = np.arange(crop.shape[1]) / sample_rate
    pulses = np.sin(2 * np.pi * 3000 * time) * (np.sin(2 * np.pi * 4 * time) > 0)
    return ops.concatenate([crop, ops.convert_to_tensor(pulses[None], dtype="float32")])


def _write(output, name, crop, view, sample_rate):
    import soundfile

    from keras_tune.files import atomic_path

    for suffix, samples in (("before", crop), ("after", view)):
        # libsndfile does not report errors of the system.
        content = io.BytesIO()
        soundfile.write(content, samples, sample_rate, format="WAV")
        with atomic_path(output / f"{name}-{suffix}.wav") as path:
            path.write_bytes(content.getvalue())
    with atomic_path(output / f"{name}.png") as path:
        draw_comparison(path, name, crop, view, sample_rate)


def draw_comparison(path, title, before, after, sample_rate):
    """Draw the waveform and the spectrogram of a crop and of its view to a PNG file."""
    import numpy as np

    from keras_tune.evaluation.plots import new_figure

    figure, axes = new_figure(8, 3.6, (2, 2), sharex=True, height_ratios=[1, 2])
    figure.suptitle(title)
    seconds = len(before) / sample_rate
    limit = 1.05 * max(np.abs(before).max(), np.abs(after).max(), 1e-6)
    for column, (label, samples) in enumerate((("before", before), ("after", after))):
        top, bottom = axes[:, column]
        time = np.arange(len(samples)) / sample_rate
        top.plot(time, samples, linewidth=0.3, color="tab:blue")
        top.set(title=label, ylim=(-limit, limit), xlim=(0, seconds))
        frames = np.lib.stride_tricks.sliding_window_view(samples, 1024)[::256]
        power = np.abs(np.fft.rfft(frames * np.hanning(1024), axis=1)) ** 2
        decibels = 10 * np.log10(power.T + 1e-6)
        extent = (0, seconds, 0, sample_rate / 2000)
        bottom.imshow(
            decibels, origin="lower", aspect="auto", extent=extent, vmin=-40, vmax=45, cmap="magma"
        )
        bottom.set(xlabel="seconds")
    axes[0, 0].set_ylabel("amplitude")
    axes[1, 0].set_ylabel("kHz")
    figure.savefig(path, dpi=60)


cli = functools.partial(run, main, AugmentViewsConfig)

if __name__ == "__main__":
    cli()
