"""Streams that a process of its own can import, and some that go wrong there."""

import os
import signal
import types

from keras_tune.data import array_clips, demo_clips
from keras_tune.errors import UserError

# No augmentation, which would take longer to compile than these encoders.
QUIET = {
    f"{step}_probability": 0.0
    for step in ("polarity", "noise", "gain", "filter", "delay", "pitch_shift", "reverb")
}


def tiny_streams(initial_epoch, epochs):
    """Two batches of four pairs of views of 243 samples."""
    clips = demo_clips(num_clips=8, seconds=0.1)[0]
    crops = {"clip_samples": 243, "crops": 2, "batch_size": 4}
    train = array_clips(clips, **crops, seed=1, initial_epoch=initial_epoch, epochs=epochs)
    valid = array_clips(clips, **crops, shuffle=False)
    return types.SimpleNamespace(train=train, valid=valid, steps_per_epoch=2)


def wrong_data(initial_epoch, epochs):
    raise UserError("no such data")


def killed(initial_epoch, epochs):
    os.kill(os.getpid(), signal.SIGKILL)
