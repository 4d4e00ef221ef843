"""The parts of Keras that this package uses without their being public, in one place.

Any release of Keras may change them, hence the upper pin in setup.cfg. To raise it, run
tests/test_keras_internals.py with the new release: it checks that each entry below still exists and
works as assumed, and that nothing that is not listed here is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import keras

# What each is needed for, and what breaks without it.
INTERNALS = {
    "Layer._flatten_layers": (
        "finds layers inside blocks: without it saved models lose which layers are trainable, and "
        "statistics of batch normalization cannot be measured again or synchronized"
    ),
    "Layer.input_spec": (
        "set to None by FusedConv1D, which takes several tensors: Conv1D refuses a list otherwise"
    ),
    "Optimizer._get_variable_index": (
        "finds the momentum of a weight: LARS cannot take a step without it"
    ),
    "Trainer._loss_tracker": (
        "has the mean loss of an epoch: training in micro-batches reports no loss without it"
    ),
    "Trainer._maybe_symbolic_build": (
        "TensorFlow only: keeps Keras from averaging a first batch over machines to learn its "
        "shape, which fails for batches that are dicts"
    ),
    "Trainer.distribute_strategy": (
        "TensorFlow only: the optimizer and the seeds of replicas are set in its scope, or every "
        "replica draws the same crops"
    ),
    "Trainer.train_function": (
        "set to None for another set of resident clips: otherwise TensorFlow reads the first one"
    ),
}


def sublayers(layer: keras.layers.Layer, recursive: bool = True) -> list[keras.layers.Layer]:
    """The layers inside a layer or a model, without itself.

    Args:
        layer: Keras layer or model.
        recursive: Whether to include the layers inside those, at any depth. Defaults to True.

    Returns:
        List of Keras layers, each once.
    """
    return layer._flatten_layers(include_self=False, recursive=recursive)
