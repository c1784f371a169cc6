"""Lovász losses: continuous extensions of the Jaccard loss, 1 − IoU (Berman et al. 2018)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int


def lovasz_softmax(
    logits: Float[Array, "b H W labels"],
    labels: Int[Array, "b H W"],
    *,
    ignore: int,
    weights: tuple[float, ...] | None = None,
) -> Float[Array, ""]:
    """Returns the mean loss of the classes present; the batch's pixels count as one picture.

    Each class's loss is multiplied by its weight before the mean. Pixels are sorted for one class
    after the other, because sorting for all at once takes much memory.
    """
    classes = logits.shape[-1]
    labels = labels.reshape(-1)
    valid = labels != ignore

    def of_class(operands):
        index, p = operands
        true = valid & (labels == index)
        errors = jnp.where(valid, jnp.where(true, 1 - p, p), 0)
        return _extension(errors, true, valid), true.any()

    p = jax.nn.softmax(logits).reshape(-1, classes).T
    losses, present = lax.map(of_class, (np.arange(classes, dtype=labels.dtype), p))
    if weights is not None:
        losses *= jnp.asarray(weights, losses.dtype)
    return jnp.where(present, losses, 0).sum() / jnp.maximum(present.sum(), 1).astype(p.dtype)


def lovasz_hinge(
    logits: Float[Array, "b H W 2"],
    labels: Int[Array, "b H W"],
    *,
    ignore: int,
    weights: tuple[float, ...] | None = None,
) -> Float[Array, ""]:
    """Returns the binary form: the hinge loss of logit 1 − logit 0, without a sigmoid.

    It is the loss of class 1 and is multiplied by the weight of class 1.
    """
    margin = (logits[..., 1] - logits[..., 0]).reshape(-1)
    labels = labels.reshape(-1)
    valid = labels != ignore
    true = valid & (labels == 1)
    errors = jax.nn.relu(1 - jnp.where(true, margin, -margin))
    loss = _extension(jnp.where(valid, errors, 0), true, valid)
    return loss if weights is None else loss * weights[1]


def per_image(
    logits: Float[Array, "b H W labels"], labels: Int[Array, "b H W"], *, loss: Callable
) -> Float[Array, ""]:
    """Returns the mean of the pictures' own losses, 0 for a picture with all pixels ignored.

    As `per_image=True` of mmsegmentation's and segmentation_models_pytorch's `LovaszLoss`. The
    pictures are processed one after the other.
    """
    return lax.map(lambda one: loss(one[0][None], one[1][None]), (logits, labels)).mean()


def _extension(
    errors: Float[Array, " n"], true: Bool[Array, " n"], valid: Bool[Array, " n"]
) -> Float[Array, ""]:
    """Returns the Lovász extension of the Jaccard loss; linear in errors of a fixed order."""
    return (errors * _slopes(lax.stop_gradient(errors), true, valid)).sum()


def _slopes(errors, true, valid):
    """Returns what each pixel adds to 1 − IoU as they become wrong in turn, largest error first.

    The differences are written out instead of computed by subtraction: with millions of pixels,
    neighbouring IoUs are too close for float32.
    """
    order = jnp.argsort(errors, descending=True)
    missed, found = true[order], (valid & ~true)[order]
    right = true.sum() - jnp.cumsum(missed)
    union = true.sum() + jnp.cumsum(found)
    before, right, union = (x.astype(errors.dtype) for x in (union - found, right, union))
    union = jnp.maximum(union, 1)
    of_missed = 1 / union
    # without any true pixel, the first wrong one lowers the IoU from 1 to 0
    of_found = jnp.where(before > 0, right / (union * jnp.maximum(before, 1)), 1)
    steps = jnp.where(missed, of_missed, jnp.where(found, of_found, 0))
    return jnp.zeros_like(errors).at[order].set(steps, unique_indices=True)
