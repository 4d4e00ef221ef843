"""LARS: a learning rate for every weight, in proportion to its own size."""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="keras_tune")
class LARS(keras.optimizers.Optimizer):
    """Layer-wise adaptive rate scaling, for batches of thousands of clips.

    With weights w, their gradient g, weight decay β and trust coefficient η, one step is

        g ← g + β·w,  m ← µ·m + λ·η·‖w‖/‖g‖·g,  w ← w − m.

    Biases and the weights of batch normalization, which is all that has one dimension only, have
    neither weight decay nor trust ratio; and where one of the norms is zero, the ratio is 1.

    Args:
        learning_rate: Float or `keras.optimizers.schedules.LearningRateSchedule`, λ. Defaults to
            0.3, which is meant for 256 examples a batch: take it in proportion to the batch.
        momentum: Float, µ. Defaults to 0.9.
        weight_decay: Float, β. It is part of the gradient, not decoupled from it as in Keras' own
            optimizers. Defaults to 1e-6.
        trust_coefficient: Float, η. Defaults to 0.001.
        name: String. Defaults to "lars".
        **kwargs: The other arguments of `keras.optimizers.Optimizer`.

    Raises:
        ValueError: A momentum outside [0, 1), or a negative weight decay or trust coefficient.

    Source: You, Gitman & Ginsburg, "Large Batch Training of Convolutional Networks" (2017), with
    the momentum and the exceptions of Chen et al., SimCLR (ICML 2020), appendix B.

    Example:

    ```python
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0, decay_steps=9000, warmup_target=0.3 * 4096 / 256, warmup_steps=1000
    )
    model.compile(keras_tune.training.LARS(schedule))
    ```
    """

    def __init__(
        self,
        learning_rate=0.3,
        momentum=0.9,
        weight_decay=1e-6,
        trust_coefficient=0.001,
        name="lars",
        **kwargs,
    ):
        # The base class would decay the weights by itself, apart from the gradient.
        super().__init__(learning_rate=learning_rate, weight_decay=None, name=name, **kwargs)
        if not 0 <= momentum < 1:
            raise ValueError(f"`momentum` must lie in [0, 1). Received: momentum={momentum}")
        if weight_decay < 0 or trust_coefficient < 0:
            raise ValueError(
                "`weight_decay` and `trust_coefficient` must not be negative. Received: "
                f"weight_decay={weight_decay}, trust_coefficient={trust_coefficient}"
            )
        self.momentum = momentum
        self.coupled_weight_decay = weight_decay
        self.trust_coefficient = trust_coefficient

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        self._momenta = self.add_optimizer_variables(variables, "momentum")

    def update_step(self, gradient, variable, learning_rate):
        rate = ops.cast(learning_rate, variable.dtype)
        gradient = ops.cast(gradient, variable.dtype)
        momentum = self._momenta[self._get_variable_index(variable)]
        if len(variable.shape) > 1:
            gradient = gradient + self.coupled_weight_decay * variable
            size, slope = (ops.sqrt(ops.sum(ops.square(x))) for x in (variable, gradient))
            known = ops.logical_and(size > 0, slope > 0)
            # The division must be fine where its result is not taken, too.
            ratio = self.trust_coefficient * size / ops.where(known, slope, 1.0)
            rate = rate * ops.where(known, ratio, 1.0)
        step = self.momentum * momentum + rate * gradient
        self.assign(momentum, step)
        self.assign_sub(variable, step)

    def get_config(self):
        return {
            **super().get_config(),
            "momentum": self.momentum,
            "weight_decay": self.coupled_weight_decay,
            "trust_coefficient": self.trust_coefficient,
        }
