"""OHEM, online hard example mining: cross entropy of the pixels with the largest loss."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from segformer_jax.ops.cross_entropy import Weighting, divisor

SHARE = 16  # by default, at least one of so many pixels is kept


def ohem(
    logits: Float[Array, "b H W labels"],
    labels: Int[Array, "b H W"],
    *,
    weighting: Weighting,
    threshold: float | None,
    min_kept: int | None,
) -> Float[Array, ""]:
    """Returns the cross entropy of the hard pixels, divided as the cross entropy of all pixels.

    As in mmsegmentation, pixels are selected from the whole batch (`OHEMPixelSampler`), and the
    divisor includes pixels that are not selected (`CrossEntropyLoss`).

    Args:
        logits: at the labels' size.
        labels: the true class of each pixel.
        weighting: class weights, label smoothing, ignored pixels and the divisor.
        threshold: keeps the pixels whose true class has a lower probability than this. None keeps
            the pixels with the largest loss, exactly as many as `min_kept` says.
        min_kept: smallest number of pixels to keep per picture, counted over the whole batch; None
            is a sixteenth of the pixels.
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
    """Selects the pixels below the threshold, which is raised until `count` pixels are below it."""
    p = jnp.where(valid, jnp.exp(log_p), jnp.inf)
    place = jnp.clip(valid.sum() - 1, 0, min(count, p.size - 1))
    return valid & (p < jnp.maximum(jnp.sort(p.reshape(-1))[place], threshold))


def _largest(
    losses: Float[Array, "b H W"], valid: Bool[Array, "b H W"], count: int
) -> Bool[Array, "b H W"]:
    """Selects the `count` valid pixels with the largest loss."""
    order = jnp.argsort(jnp.where(valid, losses, -jnp.inf).reshape(-1), descending=True)
    kept = jnp.zeros(losses.size, bool).at[order[:count]].set(True, unique_indices=True)
    return kept.reshape(losses.shape) & valid
