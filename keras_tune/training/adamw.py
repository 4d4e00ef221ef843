"""Adam with decoupled weight decay, of kernels alone."""

import keras


@keras.saving.register_keras_serializable(package="keras_tune")
class AdamW(keras.optimizers.AdamW):
    """`keras.optimizers.AdamW` that leaves biases and batch normalization alone, saved or not.

    Keras forgets what `exclude_from_weight_decay` was told once an optimizer is saved; here a
    resumed run decays the same weights as before.

    Args:
        learning_rate: Float or `keras.optimizers.schedules.LearningRateSchedule`. Defaults to
            0.001.
        weight_decay: Float; in each step weights lose this share of themselves times the learning
            rate. Defaults to 0.004.
        **kwargs: The other arguments of `keras.optimizers.AdamW`.

    Source: Loshchilov & Hutter, "Decoupled Weight Decay Regularization" (ICLR 2019).

    Example:

    ```python
    model.compile(keras_tune.training.AdamW(1e-3, weight_decay=0.05))
    ```
    """

    def __init__(self, learning_rate=0.001, weight_decay=0.004, **kwargs):
        super().__init__(learning_rate=learning_rate, weight_decay=weight_decay, **kwargs)
        self.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
