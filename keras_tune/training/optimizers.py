"""Optimizers for contrastive pretraining: LARS for large batches, and AdamW."""

from __future__ import annotations

from typing import Any, TypeAlias

import keras
from keras import ops

from keras_tune.types import Tensor

LearningRate: TypeAlias = "float | keras.optimizers.schedules.LearningRateSchedule"


@keras.saving.register_keras_serializable(package="keras_tune")
class LARS(keras.optimizers.Optimizer):
    """Layer-wise adaptive rate scaling, for batches of thousands of clips.

    With weights w, their gradient g, weight decay β and trust coefficient η, one step is

        g ← g + β·w,  m ← µ·m + λ·η·‖w‖/‖g‖·g,  w ← w − m.

    Biases and the weights of batch normalization, which are the weights with one dimension, have
    neither weight decay nor trust ratio. If one of the norms is zero, the ratio is 1.

    Args:
        learning_rate: Float or `keras.optimizers.schedules.LearningRateSchedule`, λ. Defaults to
            0.3, for 256 examples in a batch: scale it in proportion to the batch size.
        momentum: Float, µ. Defaults to 0.9.
        weight_decay: Float, β. It is added to the gradient, whereas Keras' own optimizers decouple
            it. Defaults to 1e-6.
        trust_coefficient: Float, η. Defaults to 0.001.
        name: String. Defaults to "lars".
        **kwargs: The other arguments of `keras.optimizers.Optimizer`.

    Raises:
        ValueError: The momentum is outside [0, 1), or the weight decay or the trust coefficient is
            negative.

    Source: You, Gitman & Ginsburg, "Large Batch Training of Convolutional Networks" (2017), with
    the momentum and the exceptions of Chen et al., SimCLR (ICML 2020), appendix B.

    Example:

    ```python
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0, decay_steps=9000, warmup_target=0.3 * 4096 / 256, warmup_steps=1000
    )
    keras_tune.training.LARS(schedule)
    ```
    """

    def __init__(
        self,
        learning_rate: LearningRate = 0.3,
        momentum: float = 0.9,
        weight_decay: float = 1e-6,
        trust_coefficient: float = 0.001,
        name: str = "lars",
        **kwargs: Any,
    ):
        # The base class would apply weight decay itself, separately from the gradient.
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

    def build(self, variables: list[keras.Variable]) -> None:
        if self.built:
            return
        super().build(variables)
        self._momenta = self.add_optimizer_variables(variables, "momentum")

    def update_step(
        self, gradient: Tensor, variable: keras.Variable, learning_rate: Tensor
    ) -> None:
        rate = ops.cast(learning_rate, variable.dtype)
        gradient = ops.cast(gradient, variable.dtype)
        momentum = self._momenta[self._get_variable_index(variable)]
        if len(variable.shape) > 1:
            gradient = gradient + self.coupled_weight_decay * variable
            size, slope = (ops.sqrt(ops.sum(ops.square(x))) for x in (variable, gradient))
            known = ops.logical_and(size > 0, slope > 0)
            # The division must be finite even where its result is not used.
            ratio = self.trust_coefficient * size / ops.where(known, slope, 1.0)
            rate = rate * ops.where(known, ratio, 1.0)
        step = self.momentum * momentum + rate * gradient
        self.assign(momentum, step)
        self.assign_sub(variable, step)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "momentum": self.momentum,
            "weight_decay": self.coupled_weight_decay,
            "trust_coefficient": self.trust_coefficient,
        }


@keras.saving.register_keras_serializable(package="keras_tune")
class AdamW(keras.optimizers.AdamW):
    """`keras.optimizers.AdamW` without weight decay of biases and batch normalization.

    Keras does not save what `exclude_from_weight_decay` was given; with this class a resumed run
    decays the same weights as before.

    Args:
        learning_rate: Float or `keras.optimizers.schedules.LearningRateSchedule`. Defaults to
            0.001.
        weight_decay: Float; in each step weights shrink by this fraction times the learning rate.
            Defaults to 0.004.
        **kwargs: The other arguments of `keras.optimizers.AdamW`.

    Source: Loshchilov & Hutter, "Decoupled Weight Decay Regularization" (ICLR 2019).

    Example:

    ```python
    model = keras.Sequential([keras.layers.Dense(1)])
    model.compile(keras_tune.training.AdamW(1e-3, weight_decay=0.05), loss="mse")
    model.fit(np.ones((4, 2)), np.ones((4, 1)), verbose=0)
    ```
    """

    def __init__(
        self, learning_rate: LearningRate = 0.001, weight_decay: float = 0.004, **kwargs: Any
    ):
        super().__init__(learning_rate=learning_rate, weight_decay=weight_decay, **kwargs)
        self.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
