"""Many small probes trained at once, their weights stacked in one array.

A probe is a linear map, or one hidden layer with ReLU, on a frozen representation. Trained one
after another by a framework, probes of this size spend their time on everything but arithmetic.
Here the probes that see the same inputs share them: one more axis in front of the weights, the
probe, and for each its own learning rate and L2 penalty. Every probe begins with the same weights
and is trained exactly as it would be on its own. The arithmetic is NumPy's, so that scores do not
depend on the backend, nothing is compiled, and a probe that is done leaves the stack at once.
"""

import dataclasses

import numpy as np

# Numbers that Adam changes at a time: few enough to stay in a core's cache.
BLOCK = 2**15


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


class ProbeStack:
    """Probes that see the same features, trained side by side by Adam.

    Args:
        configurations: List of `ProbeConfiguration`, alike in `hidden_units` and `dropout`.
        width: Integer, the number of features.
        num_outputs: Integer, the outputs of each probe.
        loss: "softmax" (targets are integers), "sigmoid" (targets are 0 or 1) or "mse".
        seed: Integer from which the initial weights are drawn, the same for each probe: uniform
            within ±1/√(fan-in). Defaults to 0.

    Raises:
        ValueError: The configurations differ in what they have to be alike in.

    Source: Kingma & Ba, "Adam: A Method for Stochastic Optimization" (ICLR 2015).

    Example:

    ```python
    rates = [ProbeConfiguration(learning_rate=rate) for rate in (1e-4, 1e-3)]
    stack = ProbeStack(rates, width=512, num_outputs=10, loss="softmax")
    stack.train(features, classes)
    stack.predict(features).shape  # (2, clips, 10)
    ```
    """

    def __init__(self, configurations, width, num_outputs, loss, seed=0):
        kinds = {(c.hidden_units, c.dropout) for c in configurations}
        if len(kinds) != 1:
            raise ValueError(
                "`configurations` must be alike in hidden_units and dropout. "
                f"Received: configurations={configurations}"
            )
        [(self.hidden_units, self.dropout)] = kinds
        self.loss = loss
        layers = [width, self.hidden_units, num_outputs] if self.hidden_units else None
        layers = layers or [width, num_outputs]
        self.shapes = []
        generator = np.random.default_rng(seed)
        values = []
        for fan_in, fan_out in zip(layers[:-1], layers[1:], strict=True):
            for rows in (fan_in, 1):
                self.shapes.append((rows, fan_out))
                drawn = generator.uniform(-1, 1, (rows, fan_out)) / np.sqrt(fan_in)
                values.append(drawn.ravel())
        # All weights of a probe are one row, which Adam changes in one go.
        row = np.concatenate(values).astype("float32")
        self.values = np.tile(row, (len(configurations), 1))
        self.momentums = np.zeros_like(self.values)
        self.velocities = np.zeros_like(self.values)
        # Kept from step to step: fresh memory of this size costs as much as the arithmetic in it.
        self.gradients = np.empty_like(self.values)
        self.rates = np.array([[c.learning_rate] for c in configurations], "float32")
        self.l2 = np.array([[c.l2] for c in configurations], "float32")
        self.steps = 0

    def __len__(self):
        return len(self.values)

    def weights(self, values=None):
        """Kernel and bias of each layer, (probes, rows, units), as views of rows of numbers."""
        values = self.values if values is None else values
        views, start = [], 0
        for rows, units in self.shapes:
            part = values[:, start : start + rows * units]
            views.append(part.reshape(len(values), rows, units))
            start += rows * units
        return views

    def keep(self, rows):
        """Go on with some of the probes only."""
        for name in ("values", "momentums", "velocities", "gradients", "rates", "l2"):
            setattr(self, name, getattr(self, name)[rows])

    def predict(self, features, rows_at_once=1024):
        """Logits or values: features (clips, d) to a float32 array (probes, clips, outputs)."""
        *hidden, kernel, bias = self.weights()
        parts = []
        for start in range(0, len(features), rows_at_once):
            x = features[start : start + rows_at_once]
            if hidden:
                x = np.maximum(x @ hidden[0] + hidden[1], 0)
            parts.append(x @ kernel + bias)
        return np.concatenate(parts, axis=1)

    def train(self, features, targets, feature_draws=None, hidden_draws=None):
        """Take one step of Adam.

        Args:
            features: Float32 array (batch, d).
            targets: Array (batch,) of integers for "softmax", else (batch, outputs).
            feature_draws: Array (batch, d), uniform in [0, 1), which decides what is dropped.
                Defaults to None: no dropout.
            hidden_draws: Likewise (batch, hidden units).
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
        """What dropout multiplies by, or None without dropout."""
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


def loss_gradients(targets, outputs, loss):
    """The gradient of each probe's mean loss by its outputs.

    Args:
        targets: (batch,) integers for "softmax", else (batch, outputs).
        outputs: Float32 array (probes, batch, outputs), logits or values.
        loss: "softmax", "sigmoid" or "mse".

    Returns:
        Float32 array (probes, batch, outputs).
    """
    if loss == "softmax":
        gradients = activate(outputs, loss)
        gradients[:, np.arange(len(targets)), targets] -= 1
        return gradients / np.float32(len(targets))
    scale = np.float32((1 if loss == "sigmoid" else 2) / targets.size)
    return (activate(outputs, loss) - np.asarray(targets, "float32")) * scale


def mean_losses(targets, outputs, loss):
    """The mean loss of each probe: outputs (probes, clips, outputs) to an array (probes,)."""
    from scipy.special import log_softmax

    if loss == "softmax":
        return -log_softmax(outputs, axis=-1)[:, np.arange(len(targets)), targets].mean(axis=1)
    if loss == "sigmoid":
        return np.mean(np.logaddexp(0, outputs) - targets * outputs, axis=(1, 2))
    return np.mean(np.square(outputs - targets), axis=(1, 2))


def activate(outputs, loss):
    """Turn logits into probabilities, along the last axis; values stay as they are."""
    from scipy.special import expit, softmax

    if loss == "softmax":
        return softmax(outputs, axis=-1)
    return expit(outputs) if loss == "sigmoid" else outputs
