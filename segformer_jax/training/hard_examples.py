"""OHEM, online hard example mining: cross entropy of the pixels with the largest loss."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from segformer_jax.ops.cross_entropy import Weighting, divisor

SHARE = 16  # of a picture's pixels, one in so many is kept at least, unless a number is given


def ohem(
    logits: Float[Array, "b H W labels"],
    labels: Int[Array, "b H W"],
    *,
    weighting: Weighting,
    threshold: float | None,
    min_kept: int | None,
) -> Float[Array, ""]:
    """The cross entropy of the hard pixels; the divisor is that of the cross entropy of all.

    mmsegmentation's `OHEMPixelSampler` selects the pixels of the whole batch in the same way, and
    its `CrossEntropyLoss` divides by pixels that are not selected, too.

    Args:
        logits: at the labels' size.
        labels: of each pixel.
        weighting: class weights, label smoothing, ignored pixels and the divisor.
        threshold: pixels are kept whose true class has a lower probability than this. With None,
            exactly the `min_kept` pixels per picture with the largest loss are.
        min_kept: the least number of pixels to keep, times the pictures of the batch; None is a
            sixteenth of the pixels.
    """
    valid = labels != weighting.ignore
    classes = jnp.where(valid, labels, 0)
    log_p = jax.nn.log_softmax(logits)
    own_log_p = jnp.take_along_axis(log_p, classes[..., None], -1)[..., 0]
    own, everywhere = weighting.of_classes(logits.shape[-1], logits.dtype)
    losses = -own_log_p * jnp.asarray(own)[classes]
    if weighting.smoothing:
        losses -= jnp.matmul(log_p, everywhere, precision="highest")
    count = max(labels.size // SHARE, 1) if min_kept is None else min_kept * len(labels)
    if threshold is None:
        kept = _largest(lax.stop_gradient(losses), valid, count)
    else:
        kept = _improbable(lax.stop_gradient(own_log_p), valid, count, threshold)
    total = jnp.where(kept, losses, 0).sum()
    return total / divisor(labels, valid, weighting, logits.dtype)


def _improbable(
    log_p: Float[Array, "b H W"], valid: Bool[Array, "b H W"], count: int, threshold: float
) -> Bool[Array, "b H W"]:
    """Pixels below the threshold, which is raised until `count` pixels are below it."""
    p = jnp.where(valid, jnp.exp(log_p), jnp.inf)
    place = jnp.clip(valid.sum() - 1, 0, min(count, p.size - 1))
    return valid & (p < jnp.maximum(jnp.sort(p.reshape(-1))[place], threshold))


def _largest(
    losses: Float[Array, "b H W"], valid: Bool[Array, "b H W"], count: int
) -> Bool[Array, "b H W"]:
    """The `count` pixels of the largest loss, of those that are valid."""
    order = jnp.argsort(jnp.where(valid, losses, -jnp.inf).reshape(-1), descending=True)
    kept = jnp.zeros(losses.size, bool).at[order[:count]].set(True, unique_indices=True)
    return kept.reshape(losses.shape) & valid
