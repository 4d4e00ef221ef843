"""The options of the pretraining command are those of what it builds."""

import dataclasses
import inspect

from keras_tune.augment import clmr_chain
from keras_tune.recipes.pretrain import AugmentConfig


def test_augment_keys_are_those_of_the_published_chain():
    parameters = inspect.signature(clmr_chain).parameters
    expected = {
        name: parameter.default
        for name, parameter in parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }
    assert dataclasses.asdict(AugmentConfig()) == expected
