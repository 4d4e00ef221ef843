"""Many small probes trained at once, their weights stacked in one array.

A probe is a linear layer, or one hidden layer with ReLU, on a frozen representation. If a framework
trains probes of this size one after another, most of the time goes into overhead. Here all probes
with the same inputs are trained together: their weights have one more axis, the probe, and each
probe has its own learning rate and L2 penalty. All start from the same weights, and each is trained
exactly as it would be alone. The arithmetic is done by NumPy, so scores do not depend on the
backend, nothing is compiled, and a finished probe can leave the stack at once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

# Adam updates this many numbers at a time, few enough to stay in the cache of a core.
BLOCK = 2**15
# Predictions are made for this many clips at a time, for the same reason.
ROWS = 1024


@dataclasses.dataclass(frozen=True)
class ProbeConfiguration:
    """What one probe is and how it is trained.

    Args:
        standardize: Whether features are standardized with the mean and standard deviation of
            train. Defaults to False.
        hidden_units: Integer, the width of a hidden layer with ReLU, or None for a linear probe.
            Defaults to None.
        batch_size: Integer, the number of clips in a batch. Defaults to 256.
        learning_rate: Float, the learning rate of Adam. Defaults to 1e-3.
        dropout: Float, the dropout rate of the features and of the hidden layer. Defaults to 0.
        l2: Float, the weight of the penalty l2 / 2 · |w|² over all weights. Defaults to 0.

    Example:

    ```python
    from keras_tune.evaluation import ProbeConfiguration

    ProbeConfiguration(hidden_units=512, dropout=0.25)
    ```
    """

    standardize: bool = False
    hidden_units: int | None = None
    batch_size: int = 256
    learning_rate: float = 1e-3
    dropout: float = 0.0
    l2: float = 0.0


class ProbeStack:
    """Probes on the same features, trained side by side with Adam.

    Args:
        configurations: List of `ProbeConfiguration` with the same `hidden_units` and `dropout`.
        width: Integer, the number of features.
        num_outputs: Integer, the number of outputs of each probe.
        loss: "softmax" (targets are integers), "sigmoid" (targets are 0 or 1) or "mse".
        seed: Integer, the seed of the initial weights, which are the same for all probes: uniform
            within ±1/√(fan-in). Defaults to 0.

    Raises:
        ValueError: The configurations have different `hidden_units` or `dropout`.

    Source: Kingma & Ba, "Adam: A Method for Stochastic Optimization" (ICLR 2015).

    Example:

    ```python
    from keras_tune.evaluation import ProbeConfiguration, ProbeStack

    configurations = [ProbeConfiguration(learning_rate=rate) for rate in (1e-4, 1e-3)]
    stack = ProbeStack(configurations, width=8, num_outputs=3, loss="softmax")
    features, classes = np.eye(8, dtype="float32"), np.arange(8) % 3
    stack.train(features, classes)
    stack.predict(features).shape  # (2, 8, 3)
    ```
    """

    def __init__(
        self,
        configurations: Sequence[ProbeConfiguration],
        width: int,
        num_outputs: int,
        loss: str,
        seed: int = 0,
    ):
        kinds = {(c.hidden_units, c.dropout) for c in configurations}
        if len(kinds) != 1:
            raise ValueError(
                "`configurations` must have the same hidden_units and dropout. "
                f"Received: configurations={configurations}"
            )
        [(self.hidden_units, self.dropout)] = kinds
        self.loss = loss
        hidden = [self.hidden_units] if self.hidden_units else []
        layers = [width, *hidden, num_outputs]
        self.shapes = []
        generator = np.random.default_rng(seed)
        values = []
        for fan_in, fan_out in zip(layers[:-1], layers[1:], strict=True):
            for rows in (fan_in, 1):
                self.shapes.append((rows, fan_out))
                drawn = generator.uniform(-1, 1, (rows, fan_out)) / np.sqrt(fan_in)
                values.append(drawn.ravel())
        # All weights of a probe are one row, which Adam updates at once.
        row = np.concatenate(values).astype("float32")
        self.values = np.tile(row, (len(configurations), 1))
        self.momentums = np.zeros_like(self.values)
        self.velocities = np.zeros_like(self.values)
        # Kept from step to step: allocating it anew would take as long as the arithmetic.
        self.gradients = np.empty_like(self.values)
        self.rates = np.array([[c.learning_rate] for c in configurations], "float32")
        self.l2 = np.array([[c.l2] for c in configurations], "float32")
        self.steps = 0

    def __len__(self) -> int:
        return len(self.values)

    def weights(self, values: np.ndarray | None = None) -> list[np.ndarray]:
        """Kernel and bias of each layer, (probes, rows, units), as views of the stacked weights."""
        values = self.values if values is None else values
        views, start = [], 0
        for rows, units in self.shapes:
            part = values[:, start : start + rows * units]
            views.append(part.reshape(len(values), rows, units))
            start += rows * units
        return views

    def keep(self, rows: np.ndarray) -> None:
        """Keep only some of the probes in the stack."""
        for name in ("values", "momentums", "velocities", "gradients", "rates", "l2"):
            setattr(self, name, getattr(self, name)[rows])

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Logits or values: features (clips, d) to a float32 array (probes, clips, outputs)."""
        *hidden, kernel, bias = self.weights()
        parts = []
        for start in range(0, len(features), ROWS):
            x = features[start : start + ROWS]
            if hidden:
                x = np.maximum(x @ hidden[0] + hidden[1], 0)
            parts.append(x @ kernel + bias)
        return np.concatenate(parts, axis=1)

    def train(
        self,
        features: np.ndarray,
        targets: np.ndarray,
        feature_draws: np.ndarray | None = None,
        hidden_draws: np.ndarray | None = None,
    ) -> None:
        """Take one step of Adam.

        Args:
            features: Float32 array (batch, d).
            targets: Array (batch,) of integers for "softmax", else (batch, outputs).
            feature_draws: Array (batch, d), uniform in [0, 1), which decides which features are
                dropped. Defaults to None: no dropout.
            hidden_draws: The same for the hidden layer, (batch, hidden units). Defaults to None.
        """
        *hidden, kernel, bias = self.weights()
        *hidden_gradients, kernel_gradient, bias_gradient = self.weights(self.gradients)
        kept = self._kept(feature_draws)
        x = features if kept is None else features * kept
        seen = x
        if hidden:
            seen = x @ hidden[0]
            seen += hidden[1]
            np.maximum(seen, 0, out=seen)
            passed = seen > 0
            kept = self._kept(hidden_draws)
            if kept is not None:
                passed = passed * kept
                seen *= kept
        wrong = loss_gradients(targets, seen @ kernel + bias, self.loss)
        np.matmul(np.swapaxes(seen, -1, -2), wrong, out=kernel_gradient)
        np.sum(wrong, axis=1, keepdims=True, out=bias_gradient)
        if hidden:
            wrong = wrong @ np.swapaxes(kernel, -1, -2)
            wrong *= passed
            np.matmul(x.T, wrong, out=hidden_gradients[0])
            np.sum(wrong, axis=1, keepdims=True, out=hidden_gradients[1])
        self._descend()

    def _kept(self, draws):
        """The factors of dropout, or None without dropout."""
        if draws is None or not self.dropout:
            return None
        return (draws >= self.dropout) * np.float32(1 / (1 - self.dropout))

    def _descend(self):
        self.steps += 1
        scale = np.sqrt(1 - 0.999**self.steps) / (1 - 0.9**self.steps)
        rates = self.rates * np.float32(scale)
        for start in range(0, self.values.shape[1], BLOCK):
            block = np.s_[:, start : start + BLOCK]
            values, gradient = self.values[block], self.gradients[block]
            momentum, velocity = self.momentums[block], self.velocities[block]
            spare = values * self.l2
            gradient += spare
            momentum *= np.float32(0.9)
            momentum += np.multiply(gradient, np.float32(0.1), out=spare)
            velocity *= np.float32(0.999)
            np.multiply(gradient, gradient, out=spare)
            spare *= np.float32(0.001)
            velocity += spare
            np.sqrt(velocity, out=spare)
            spare += np.float32(1e-8)
            np.divide(momentum, spare, out=spare)
            spare *= rates
            values -= spare


def loss_gradients(targets: np.ndarray, outputs: np.ndarray, loss: str) -> np.ndarray:
    """The gradient of each probe's mean loss with respect to its outputs.

    Targets are (batch,) integers for "softmax", else (batch, outputs). Outputs, which are logits or
    values, and gradients are float32 arrays (probes, batch, outputs).
    """
    if loss == "softmax":
        gradients = activate(outputs, loss)
        gradients[:, np.arange(len(targets)), targets] -= 1
        return gradients / np.float32(len(targets))
    scale = np.float32((1 if loss == "sigmoid" else 2) / targets.size)
    return (activate(outputs, loss) - np.asarray(targets, "float32")) * scale


def mean_losses(targets: np.ndarray, outputs: np.ndarray, loss: str) -> np.ndarray:
    """The mean loss of each probe: outputs (probes, clips, outputs) to an array (probes,)."""
    from scipy.special import log_softmax

    if loss == "softmax":
        return -log_softmax(outputs, axis=-1)[:, np.arange(len(targets)), targets].mean(axis=1)
    if loss == "sigmoid":
        return np.mean(np.logaddexp(0, outputs) - targets * outputs, axis=(1, 2))
    return np.mean(np.square(outputs - targets), axis=(1, 2))


def activate(outputs: np.ndarray, loss: str) -> np.ndarray:
    """Turn logits into probabilities along the last axis; values ("mse") stay as they are."""
    from scipy.special import expit, softmax

    if loss == "softmax":
        return softmax(outputs, axis=-1)
    return expit(outputs) if loss == "sigmoid" else outputs
