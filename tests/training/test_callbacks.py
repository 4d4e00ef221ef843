"""Callbacks that do not belong to a pretraining run."""

import keras
import numpy as np
import pytest

from keras_tune.training import TimeLeft

pytestmark = pytest.mark.one_backend


def test_the_time_left_is_that_of_the_epochs_after_the_first(capsys):
    model = keras.Sequential([keras.layers.Dense(1)])
    model.compile("sgd", loss="mse")
    seconds = iter([0, 100, 160, 230, 300])
    left = TimeLeft(clock=lambda: next(seconds))
    data = np.ones((4, 2)), np.ones((4, 1))
    model.fit(*data, epochs=4, callbacks=[left], verbose=0)
    assert capsys.readouterr().out.splitlines() == [
        "about 05:00 left",  # three times the first, 100 s
        "about 02:00 left",  # twice the second, 60 s
        "about 01:05 left",  # once the mean of 60 and 70 s
    ]
