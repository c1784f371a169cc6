"""Losses of the overlap of probabilities and labels: dice, Tversky, Jaccard, MCC.

Their sums run over the pixels of the whole batch.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

LEAST_TVERSKY = 1e-7  # of the fraction's lower side
MCC_PIXELS = 1e-5  # added to each of the four counts


def dice(
    logits: Float[Array, "b H W labels"],
    labels: Int[Array, "b H W"],
    *,
    ignore: int,
    smooth: float,
    first: int = 0,
    weights: tuple[float, ...] | None = None,
) -> Float[Array, ""]:
    """1 − (2·Σpt + smooth) / (Σp + Σt + smooth), the mean over the classes from `first` on.

    Soft dice (Milletari et al. 2016, with plain sums below as Sudre et al. 2017): p are the
    probabilities, t is 1 at the true class.
    """
    p, true = _probabilities_and_truth(logits, labels, ignore, first)
    both, either = (x.sum((0, 1, 2)) for x in (p * true, p + true))
    losses = 1 - (2 * both + smooth) / (either + smooth)
    return _mean(losses, weights, first)


def tversky(
    logits: Float[Array, "b H W labels"],
    labels: Int[Array, "b H W"],
    *,
    ignore: int,
    alpha: float,
    beta: float,
    gamma: float,
    smooth: float,
    first: int = 0,
    weights: tuple[float, ...] | None = None,
) -> Float[Array, ""]:
    """1 − (TP + smooth) / (TP + alpha·FP + beta·FN + smooth), the mean to the power of gamma.

    As `TverskyLoss` of segmentation_models_pytorch (Salehi et al. 2017): TP = Σpt, FP = Σp(1 − t),
    FN = Σ(1 − p)t; a class without a labelled pixel has the loss 0, and counts in the mean over
    the classes from `first` on. With alpha and beta of 1 it is the Jaccard loss, 1 − IoU.
    """
    p, true = _probabilities_and_truth(logits, labels, ignore, first)
    hits, invented, missed = (x.sum((0, 1, 2)) for x in (p * true, p * (1 - true), (1 - p) * true))
    lower = hits + alpha * invented + beta * missed + smooth
    losses = 1 - (hits + smooth) / jnp.maximum(lower, LEAST_TVERSKY)
    losses = jnp.where(true.any((0, 1, 2)), losses, 0)
    mean = _mean(losses, weights, first)
    if gamma == 1:
        return mean
    # a power below 1 has no slope at 0
    return jnp.where(mean > 0, jnp.where(mean > 0, mean, 1) ** gamma, 0)


def mcc(
    logits: Float[Array, "b H W 2"], labels: Int[Array, "b H W"], *, ignore: int
) -> Float[Array, ""]:
    """1 − Matthews' correlation coefficient of class 1's probabilities and labels.

    As `MCCLoss` of segmentation_models_pytorch (Abhishek and Hamarneh 2021), to which the
    probabilities are given.
    """
    valid = labels != ignore
    p = jnp.where(valid, jax.nn.softmax(logits)[..., 1], 0)
    true = (valid & (labels == 1)).astype(p.dtype)
    counted = valid.astype(p.dtype)
    hits, invented, missed, rejected = (
        x.sum() + MCC_PIXELS
        for x in (p * true, p * (1 - true), (counted - p) * true, (counted - p) * (1 - true))
    )
    upper = hits * rejected - invented * missed
    # two roots: the product of four counts is more than float32 holds well
    lower = jnp.sqrt((hits + invented) * (hits + missed))
    lower *= jnp.sqrt((rejected + invented) * (rejected + missed))
    return jnp.where(valid.any(), 1 - upper / lower, 0)


def _probabilities_and_truth(logits, labels, ignore, first):
    """The p and t of the classes from `first` on; both are 0 at ignored pixels."""
    valid = (labels != ignore)[..., None]
    p = jnp.where(valid, jax.nn.softmax(logits), 0)[..., first:]
    true = labels[..., None] == np.arange(first, logits.shape[-1], dtype=labels.dtype)
    return p, (valid & true).astype(p.dtype)


def _mean(losses, weights, first):
    """The mean over the classes of loss × class weight."""
    if weights is not None:
        losses *= jnp.asarray(weights[first:], losses.dtype)
    return losses.mean()
