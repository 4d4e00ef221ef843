"""Synthesize the clip that the pictures show: chords, one every half second, and noise bursts.

python docs/images/augment/synthesize.py clip.wav
keras-tune augment --source clip.wav --output views --views 1 --each true
"""

import sys

import numpy as np
import soundfile

RATE = 22050
SECONDS = 2.9
CHORDS = ((45, 57, 60, 64), (41, 53, 57, 60), (36, 48, 52, 55), (43, 55, 59, 62))


def synthesize():
    """Add up decaying harmonics and bursts of noise; give (samples,) with a peak of 0.6."""
    rng = np.random.default_rng(5)
    time = np.arange(int(SECONDS * RATE)) / RATE
    clip = np.zeros(len(time))
    for index, onset in enumerate(np.arange(0.0, SECONDS, 0.5)):
        since = np.maximum(time - onset, 0.0)
        envelope = np.exp(-3 * since) * (time >= onset)
        for note in CHORDS[index % len(CHORDS)]:
            frequency = 440 * 2 ** ((note - 69) / 12)
            for harmonic in range(1, 9):
                phase = 2 * np.pi * frequency * harmonic * since + rng.uniform(0, 6)
                clip += envelope * np.sin(phase) / harmonic**1.3
    for onset in np.arange(0.0, SECONDS, 0.25):
        since = np.maximum(time - onset, 0.0)
        clip += (time >= onset) * np.exp(-50 * since) * rng.normal(size=len(time))
    return 0.6 * clip / np.abs(clip).max()


if __name__ == "__main__":
    soundfile.write(sys.argv[1], synthesize(), RATE)
