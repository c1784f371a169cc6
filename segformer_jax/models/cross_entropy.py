"""Cross entropy at the labels' size, with a gradient that never holds the large logits."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from segformer_jax.models import forms, gradients, ops


def cross_entropy(
    logits: Float[Array, "*batch labels"], labels: Int[Array, "*batch"], ignore: int
) -> Float[Array, ""]:
    """The mean over all labels but `ignore`; 0 where there are no others."""
    valid = labels != ignore
    chosen = jnp.take_along_axis(logits, jnp.where(valid, labels, 0)[..., None], -1)[..., 0]
    losses = jax.nn.logsumexp(logits, -1) - chosen
    return jnp.where(valid, losses, 0).sum() / _count(valid, logits.dtype)


def resized_cross_entropy(
    logits: Float[Array, "b h w labels"], labels: Int[Array, "b H W"], ignore: int
) -> Float[Array, ""]:
    """The cross entropy of the logits resized to (H, W)."""
    return _resized(logits, labels, ignore, forms.current_form())


@partial(jax.custom_jvp, nondiff_argnums=(2, 3))
@partial(jax.jit, static_argnums=(2, 3))
def _resized(logits, labels, ignore, form):
    return _plain(logits, labels, ignore=ignore)


@_resized.defjvp
def _resized_jvp(ignore, form, primals, tangents):
    """The loss is a number: its gradient, made beside it, is all there is to keep."""
    loss, gradient = forms.choose(
        form,
        partial(_loss_and_gradient, ignore=ignore),
        jax.value_and_grad(partial(_plain, ignore=ignore)),
        *primals,
    )
    return loss, jnp.sum(gradient * tangents[0])


def _plain(logits, labels, *, ignore):
    return cross_entropy(ops.resize_bilinear(logits, labels.shape[1:3]), labels, ignore)


def _loss_and_gradient(logits, labels, *, ignore):
    """One picture at a time, a plane per class: long rows to compute on, that stay in the cache."""
    classes = logits.shape[-1]
    rows, columns = ops.resize_matrices(logits, labels.shape[1:3])
    valid = labels != ignore

    def add_picture(total, picture):
        logits, labels, valid = picture
        planes = jnp.matmul(logits.transpose(2, 0, 1), columns.T, precision="highest")
        planes = gradients.left_matmul(rows, planes)
        largest = planes.max(0, keepdims=True)
        exponentials = jnp.exp(planes - largest)
        total_exponential = exponentials.sum(0, keepdims=True)
        true = labels[None] == np.arange(classes, dtype=labels.dtype)[:, None, None]
        losses = jnp.log(total_exponential) + largest
        losses = losses[0] - jnp.where(true, planes, 0).sum(0)
        slope = exponentials / total_exponential - true.astype(planes.dtype)
        slope = gradients.left_matmul(rows.T, jnp.where(valid[None], slope, 0))
        slope = jnp.matmul(slope, columns, precision="highest").transpose(1, 2, 0)
        return total + jnp.where(valid, losses, 0).sum(), slope

    total, gradient = lax.scan(add_picture, jnp.zeros((), logits.dtype), (logits, labels, valid))
    count = _count(valid, logits.dtype)
    return total / count, gradient / count


def _count(valid, dtype):
    return jnp.maximum(valid.sum(), 1).astype(dtype)
