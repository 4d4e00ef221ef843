"""TUNe and CLMR music representations in Keras 3.

Importing this package imports no deep-learning framework. Its Keras classes register themselves
for `keras.models.load_model` at the moment Keras itself is imported, before or after this package.
"""

import lazy_loader
import wrapt

from keras_tune.version import __version__ as __version__

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=[
        "augment",
        "data",
        "evaluation",
        "finetuning",
        "interop",
        "layers",
        "losses",
        "models",
        "search",
        "serving",
        "training",
    ],
    submod_attrs={
        "evaluation": ["embed"],
        "losses": ["NTXent"],
        "models": ["TUNe"],
        "training": ["ContrastiveModel"],
    },
)


def _register(keras):
    # load_model finds a class only in Keras' registry: it does not import the module that a file
    # names. So every module with a registered class is imported as soon as Keras is. None of them
    # needs another one of its folder, which may be the one that is just importing Keras.
    import keras_tune.augment
    import keras_tune.layers
    import keras_tune.losses
    import keras_tune.models
    import keras_tune.training.contrastive_model
    import keras_tune.training.optimizers  # noqa: F401


wrapt.register_post_import_hook(_register, "keras")
