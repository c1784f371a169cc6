"""Lovász losses: the Jaccard index (IoU) itself, made continuous (Berman et al. 2018)."""

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
    """The mean over the classes that are present, all pixels of the batch taken as one picture.

    Each class's loss is multiplied by its weight before.

    A class after the other is sorted, as few things are as large as all of them at once.
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
    """The binary form, of the margin of class 1 over class 0; it has no sigmoid in it.

    It is the loss of class 1, and multiplied by that one's weight.
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
    """The mean over the pictures of each one's own loss; it is 0 where all pixels are ignored.

    `per_image=True` of mmsegmentation's and segmentation_models_pytorch's `LovaszLoss`. A picture
    after the other is sorted.
    """
    return lax.map(lambda one: loss(one[0][None], one[1][None]), (logits, labels)).mean()


def _extension(
    errors: Float[Array, " n"], true: Bool[Array, " n"], valid: Bool[Array, " n"]
) -> Float[Array, ""]:
    """The Lovász extension of the Jaccard loss; linear in the errors while their order stays."""
    return (errors * _slopes(lax.stop_gradient(errors), true, valid)).sum()


def _slopes(errors, true, valid):
    """What each pixel adds to 1 − IoU when pixels go wrong one by one, the largest error first.

    Written out instead of subtracted: with millions of pixels float32 can't tell the IoUs apart.
    """
    order = jnp.argsort(errors, descending=True)
    missed, found = true[order], (valid & ~true)[order]
    right = true.sum() - jnp.cumsum(missed)
    union = true.sum() + jnp.cumsum(found)
    before, right, union = (x.astype(errors.dtype) for x in (union - found, right, union))
    union = jnp.maximum(union, 1)
    of_missed = 1 / union
    # with no true pixel at all, the first wrong one takes the IoU from 1 to 0
    of_found = jnp.where(before > 0, right / (union * jnp.maximum(before, 1)), 1)
    steps = jnp.where(missed, of_missed, jnp.where(found, of_found, 0))
    return jnp.zeros_like(errors).at[order].set(steps, unique_indices=True)
