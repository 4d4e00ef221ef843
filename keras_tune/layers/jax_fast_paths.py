"""Operations for which JAX has a faster form than the one that Keras uses."""

from __future__ import annotations

import functools

from keras_tune.types import Tensor


def max_of_steps(inputs: Tensor, size: int) -> Tensor:
    """The maximum of every `size` time steps of a tensor (batch, time, channels).

    The time must be a multiple of `size`. The gradient goes to the first of several equal maxima.
    """
    return _maximum()(inputs, size)


@functools.cache
def _maximum():
    """The function with its gradient; JAX is imported when it is first needed."""
    import jax
    import jax.numpy as jnp

    def windows(inputs, size):
        batch, steps, channels = inputs.shape
        return inputs.reshape(batch, steps // size, size, channels)

    @functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
    def maximum(inputs, size):
        return functools.reduce(jnp.maximum, jnp.unstack(windows(inputs, size), axis=2))

    def forward(inputs, size):
        outputs = maximum(inputs, size)
        return outputs, (inputs, outputs)

    def backward(size, kept, upstream):
        inputs, outputs = kept
        gradients, taken = [], jnp.zeros(outputs.shape, bool)
        zero = jnp.zeros((), upstream.dtype)
        for values in jnp.unstack(windows(inputs, size)[:, :, :-1], axis=2):
            found = (values == outputs) & ~taken
            gradients.append(jnp.where(found, upstream, zero))
            taken |= found
        gradients.append(jnp.where(taken, zero, upstream))
        return (jnp.stack(gradients, axis=2).reshape(inputs.shape),)

    maximum.defvjp(forward, backward)
    return maximum
