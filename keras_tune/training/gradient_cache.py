"""Gradient caching: the loss of a whole batch with the memory for a part of it.

Accumulating the gradients of small batches is not enough for contrastive learning, since each would
have only its own few negatives. Here every clip of the batch is encoded first, in chunks, and only
the projections are kept. Then the loss over all of them is computed, and its gradient with respect
to each projection. Finally every chunk is encoded again, and its part of that gradient is
propagated to the weights. The sum over chunks is the gradient of the whole batch. It costs one more
forward pass.

Batch normalization is the exception: it uses one chunk at a time, and its moving averages are
updated once for each chunk.

Source: Gao et al., "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup"
(RepL4NLP 2021).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import keras
from keras import ops

if TYPE_CHECKING:
    from keras_tune.training.contrastive_model import ContrastiveModel


def train_step(model: ContrastiveModel, *arguments: Any) -> Any:
    """One step of training in chunks of `model.micro_batch` clips.

    Args:
        model: A compiled `ContrastiveModel`.
        *arguments: The arguments of Keras' own `train_step` on the backend, with the clips as data;
            on JAX the state comes first.

    Returns:
        The same as Keras' own `train_step`.

    Raises:
        ValueError: The batch is not a multiple of `micro_batch`, or the encoder adds losses of its
            own.
    """
    if model.losses:
        raise ValueError(
            "`micro_batch` cannot be used with regularization losses. "
            f"Received: {len(model.losses)} losses"
        )
    return _STEPS[keras.backend.backend()](model, *arguments)


def _split(model, pairs):
    """(batch, 2, ...) to (chunks, micro_batch, 2, ...).

    A chunk takes pairs at equal distances, so that each of several devices has a part of every
    chunk.
    """
    if pairs.shape[0] is not None and pairs.shape[0] % model.micro_batch:
        raise ValueError(
            "A batch must be a multiple of `micro_batch`. "
            f"Received: micro_batch={model.micro_batch}, a batch of {pairs.shape[0]}"
        )
    chunks = ops.reshape(pairs, (model.micro_batch, -1, *pairs.shape[1:]))
    return ops.moveaxis(chunks, 1, 0)


def _merge(chunks):
    """The inverse of `_split`."""
    return ops.reshape(ops.moveaxis(chunks, 0, 1), (-1, *chunks.shape[2:]))


def _views(model, clips):
    views = model.make_views(clips, training=True)
    return _split(model, ops.reshape(views, (-1, 2, model.crop_samples)))


def _project(model, chunk):
    return model.project_pairs(ops.reshape(chunk, (-1, model.crop_samples)), training=True)


def _tensorflow_step(model, clips):
    import tensorflow as tf

    chunks = _views(model, clips)
    # The first pass must not change the moving averages.
    before = [tf.identity(weight.value) for weight in model.non_trainable_weights]
    projections = tf.map_fn(
        lambda chunk: _project(model, chunk),
        chunks,
        parallel_iterations=1,
        fn_output_signature=tf.TensorSpec((model.micro_batch, 2, model.projection_dim)),
    )
    for weight, value in zip(model.non_trainable_weights, before, strict=True):
        weight.assign(value)
    with tf.GradientTape() as tape:
        tape.watch(projections)
        merged = _merge(projections)
        loss = model.compute_loss(x=clips, y_pred=merged)
        scaled = model.optimizer.scale_loss(loss)
    upstream = tape.gradient(scaled, projections)
    model.track_loss(loss, clips)
    weights = model.trainable_weights

    def add_chunk(index, sums):
        with tf.GradientTape() as tape:
            product = tf.reduce_sum(_project(model, chunks[index]) * upstream[index])
        gradients = tape.gradient(product, [weight.value for weight in weights])
        return index + 1, [s + g for s, g in zip(sums, gradients, strict=True)]

    _, gradients = tf.while_loop(
        lambda index, _: index < tf.shape(chunks)[0],
        add_chunk,
        [0, [tf.zeros_like(weight.value) for weight in weights]],
        parallel_iterations=1,
    )
    model.optimizer.apply_gradients(zip(gradients, weights, strict=True))
    return model.compute_metrics(clips, None, merged)


def _jax_step(model, state, clips):
    import jax

    trainable, others, optimizer_variables, metrics_variables = state

    def scoped(function, trainable, others):
        """The value of a function of the model, and the non-trainable variables after it."""
        mapping = [
            *zip(model.trainable_variables, trainable, strict=True),
            *zip(model.non_trainable_variables, others, strict=True),
        ]
        with keras.StatelessScope(state_mapping=mapping) as scope:
            value = function()
        return value, [scope.get_current_value(v) for v in model.non_trainable_variables]

    def project(trainable, others, chunk):
        return scoped(lambda: _project(model, chunk), trainable, others)

    def loss_of(projections):
        with keras.StatelessScope(
            state_mapping=list(zip(model.optimizer.variables, optimizer_variables, strict=True))
        ):
            loss = model.compute_loss(x=clips, y_pred=_merge(projections))
            return model.optimizer.scale_loss(loss), loss

    chunks, others = scoped(lambda: _views(model, clips), trainable, others)
    _, projections = jax.lax.scan(
        lambda _, chunk: (None, project(trainable, others, chunk)[0]), None, chunks
    )
    upstream, loss = jax.grad(loss_of, has_aux=True)(projections)

    def add_chunk(carry, inputs):
        sums, others = carry
        chunk, upstream = inputs

        def product(trainable):
            projections, after = project(trainable, others, chunk)
            return ops.sum(projections * upstream), after

        gradients, others = jax.grad(product, has_aux=True)(trainable)
        return ([s + g for s, g in zip(sums, gradients, strict=True)], others), None

    zeros = [ops.zeros_like(value) for value in trainable]
    (gradients, others), _ = jax.lax.scan(add_chunk, (zeros, others), (chunks, upstream))
    trainable, optimizer_variables = model.optimizer.stateless_apply(
        optimizer_variables, gradients, trainable
    )
    mapping = list(zip(model.metrics_variables, metrics_variables, strict=True))
    with keras.StatelessScope(state_mapping=mapping) as scope:
        model.track_loss(loss, clips)
        logs = model.compute_metrics(clips, None, _merge(projections))
    metrics_variables = [scope.get_current_value(v) for v in model.metrics_variables]
    return logs, (trainable, others, optimizer_variables, metrics_variables)


def _torch_step(model, clips):
    import torch

    model.zero_grad()
    with torch.no_grad():
        chunks = _views(model, clips)
        # The first pass must not change the moving averages.
        before = [weight.value.clone() for weight in model.non_trainable_weights]
        projections = torch.stack([_project(model, chunk) for chunk in chunks])
        for weight, value in zip(model.non_trainable_weights, before, strict=True):
            weight.assign(value)
    projections.requires_grad_()
    merged = _merge(projections)
    loss = model.compute_loss(x=clips, y_pred=merged)
    model.optimizer.scale_loss(loss).backward()
    model.track_loss(loss, clips)
    for chunk, upstream in zip(chunks, projections.grad, strict=True):
        (_project(model, chunk) * upstream).sum().backward()
    weights = model.trainable_weights[:]
    with torch.no_grad():
        model.optimizer.apply([weight.value.grad for weight in weights], weights)
    return model.compute_metrics(clips, None, merged.detach())


_STEPS: dict[str, Callable[..., Any]] = {
    "tensorflow": _tensorflow_step,
    "jax": _jax_step,
    "torch": _torch_step,
}
