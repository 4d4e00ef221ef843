"""Many small probes trained at once, as one model with stacked weights.

A probe is a linear map, or one hidden layer with ReLU, on a frozen representation. Trained one
after another, probes of this size spend their time on everything but arithmetic. Here every weight
has one more axis in front, the probe, and each keeps its own learning rate, dropout, L2 penalty and
standardization. Probes of one stack see the same batches and the same random numbers for dropout,
and begin with the same weights, so each is trained exactly as it would be on its own.
"""

import dataclasses

import keras
import numpy as np
from keras import ops


@dataclasses.dataclass(frozen=True)
class ProbeConfiguration:
    """What one probe is and how it is trained.

    Args:
        standardize: Whether features are standardized with the mean and deviation of train.
        hidden_units: Width of a hidden layer with ReLU, or None for a linear probe.
        batch_size: Clips a batch.
        learning_rate: Of Adam.
        dropout: Dropout rate of the features and of the hidden layer.
        l2: Weight of the penalty l2 / 2 · |w|², over all weights.
    """

    standardize: bool = False
    hidden_units: int | None = None
    batch_size: int = 256
    learning_rate: float = 1e-3
    dropout: float = 0.0
    l2: float = 0.0


class ProbeStack(keras.Model):
    """A stack of probes of one architecture.

    Args:
        configurations: List of `ProbeConfiguration`, alike in `hidden_units`.
        mean: Float array (d,), the mean of the features.
        deviation: Float array (d,), their deviation, not 0.
        num_outputs: Integer, the outputs of each probe.
        loss: "softmax" (targets are integers), "sigmoid" (targets are 0 or 1) or "squares".
        seed: Integer from which the initial weights are drawn, the same for each probe: uniform
            within ±1/√(fan-in). Defaults to 0.

    Inputs: a dict of `features` (batch, d) and, for training with dropout, `feature_draws` (batch,
    d) and `hidden_draws` (batch, hidden units), uniform in [0, 1).
    Output shape: (probes, batch, num_outputs), logits or values.

    Example:

    ```python
    stack = ProbeStack([ProbeConfiguration(learning_rate=r) for r in (1e-4, 1e-3)], 0, 1, 10,
                       "softmax")
    ```
    """

    def __init__(self, configurations, mean, deviation, num_outputs, loss, seed=0):
        super().__init__(name="probe_stack")
        self.configurations = list(configurations)
        self.mean = np.asarray(mean, "float32")
        self.deviation = np.asarray(deviation, "float32")
        self.num_outputs = num_outputs
        self.objective = loss
        self.hidden_units = self.configurations[0].hidden_units
        # Probes that see the same features share their computation.
        kinds = sorted({(c.standardize, c.dropout) for c in self.configurations})
        self.kinds = kinds
        self.kind_of = np.array(
            [kinds.index((c.standardize, c.dropout)) for c in self.configurations], "int32"
        )
        width = len(self.mean)
        shapes = [(width, num_outputs)]
        if self.hidden_units:
            shapes = [(width, self.hidden_units), (self.hidden_units, num_outputs)]
        generator = np.random.default_rng(seed)
        count = len(self.configurations)
        for place, (fan_in, fan_out) in enumerate(shapes):
            for name, rows in (("kernel", fan_in), ("bias", 1)):
                values = generator.uniform(-1, 1, (rows, fan_out)) / np.sqrt(fan_in)
                self.add_weight(
                    shape=(count, rows, fan_out),
                    initializer=_Given(np.broadcast_to(values, (count, rows, fan_out))),
                    name=f"{name}_{place + 1}",
                )
        self.compile(
            StackedAdam(
                [c.learning_rate for c in self.configurations], [c.l2 for c in self.configurations]
            ),
            # XLA fuses what Adam does to the weights, the larger part of a step.
            jit_compile=keras.backend.backend() != "torch",
        )
        self.built = True

    def build(self, input_shape=None):
        self.built = True

    def call(self, inputs, training=False):
        features = inputs["features"]
        draws = inputs.get("feature_draws")
        seen = []
        for standardize, rate in self.kinds:
            x = features
            if standardize:
                x = ops.divide(ops.subtract(x, self.mean), self.deviation)
            if training and draws is not None and rate:
                x = x * ops.cast(draws >= rate, "float32") / (1 - rate)
            seen.append(x)
        x = ops.stack(seen) if len(seen) > 1 else seen[0][None]
        x = ops.take(x, self.kind_of, axis=0)
        weights = self.weights_of_probes
        if self.hidden_units:
            x = ops.relu(ops.matmul(x, weights[0]) + weights[1])
            if training and draws is not None:
                rates = np.array([c.dropout for c in self.configurations], "float32")
                rates = ops.convert_to_tensor(rates[:, None, None])
                kept = ops.cast(inputs["hidden_draws"][None] >= rates, "float32")
                x = x * kept / (1 - rates)
        return ops.matmul(x, weights[-2]) + weights[-1]

    @property
    def weights_of_probes(self):
        """Kernel and bias of each layer, each with the probe as first axis."""
        return self.trainable_variables

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return ops.sum(probe_losses(y, y_pred, self.objective))

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        return {}

    def select(self, rows):
        """A stack of some of the probes, which goes on as they would have here."""
        chosen = ProbeStack(
            [self.configurations[row] for row in rows],
            self.mean,
            self.deviation,
            self.num_outputs,
            self.objective,
        )
        chosen.optimizer.build(chosen.trainable_variables)
        stacked = [
            (self.trainable_variables, chosen.trainable_variables),
            (self.optimizer.momentums, chosen.optimizer.momentums),
            (self.optimizer.velocities, chosen.optimizer.velocities),
            ([self.optimizer.rates], [chosen.optimizer.rates]),
        ]
        for old, new in stacked:
            for source, target in zip(old, new, strict=True):
                target.assign(ops.convert_to_numpy(source)[rows])
        chosen.optimizer.iterations.assign(self.optimizer.iterations)
        return chosen

    def predict_rows(self, features, rows_at_once=1024):
        """Outputs for any number of clips: (clips, d) to an array (probes, clips, outputs)."""
        parts = []
        for start in range(0, len(features), rows_at_once):
            part = np.asarray(features[start : start + rows_at_once], "float32")
            parts.append(np.asarray(self.predict_on_batch({"features": part})))
        return np.concatenate(parts, axis=1)


class StackedAdam(keras.optimizers.Optimizer):
    """Adam with a learning rate and an L2 penalty of its own for each row of the weights.

    Args:
        rates: Learning rates, one for each index of the variables' first axis.
        l2: Weights of the L2 penalty, likewise; its gradient is added to the loss's.

    Source: Kingma & Ba, "Adam: A Method for Stochastic Optimization" (ICLR 2015).
    """

    def __init__(self, rates, l2):
        super().__init__(learning_rate=1.0, name="stacked_adam")
        self.initial_rates = np.asarray(rates, "float32")
        self.l2 = np.asarray(l2, "float32")

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        self.momentums = [self.add_variable_from_reference(v, name="momentum") for v in variables]
        self.velocities = [self.add_variable_from_reference(v, name="velocity") for v in variables]
        self.rates = self.add_variable(
            self.initial_rates.shape, initializer=_Given(self.initial_rates), name="rates"
        )

    def update_step(self, gradient, variable, learning_rate):
        place = self._get_variable_index(variable)
        momentum, velocity = self.momentums[place], self.velocities[place]
        rates = ops.reshape(ops.convert_to_tensor(self.rates), (-1, 1, 1))
        step = ops.cast(self.iterations + 1, "float32")
        scale = ops.sqrt(1 - ops.power(0.999, step)) / (1 - ops.power(0.9, step))
        penalty = ops.multiply(self.l2[:, None, None], variable)
        gradient = gradient + penalty
        self.assign(momentum, 0.9 * momentum + 0.1 * gradient)
        self.assign(velocity, 0.999 * velocity + 0.001 * ops.square(gradient))
        self.assign_sub(variable, rates * scale * momentum / (ops.sqrt(velocity) + 1e-8))


def probe_losses(targets, outputs, loss):
    """The mean loss of each probe.

    Args:
        targets: (batch,) integers for "softmax", else (batch, outputs).
        outputs: (probes, batch, outputs).
        loss: "softmax", "sigmoid" or "squares".

    Returns:
        Tensor (probes,).
    """
    if loss == "softmax":
        hot = ops.one_hot(targets, outputs.shape[-1])
        losses = -ops.sum(hot[None] * ops.log_softmax(outputs, axis=-1), axis=-1)
        return ops.mean(losses, axis=1)
    targets = ops.cast(targets, "float32")[None]
    if loss == "sigmoid":
        losses = ops.softplus(outputs) - targets * outputs
    else:
        losses = ops.square(outputs - targets)
    return ops.mean(losses, axis=(1, 2))


class _Given(keras.initializers.Initializer):
    """Initializes with values that are there already."""

    def __init__(self, values):
        self.values = values

    def __call__(self, shape, dtype=None):
        return ops.convert_to_tensor(np.ascontiguousarray(self.values), dtype=dtype or "float32")
