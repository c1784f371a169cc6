"""Losses of the overlap of probabilities and labels: dice, Tversky, Jaccard, MCC.

All sums run over the pixels of the whole batch.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

LEAST_TVERSKY = 1e-7  # smallest denominator
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
    """Returns the mean over classes of 1 − (2·Σpt + smooth) / (Σp + Σt + smooth).

    This is soft dice (Milletari et al. 2016) with plain, not squared, terms in the denominator
    (Sudre et al. 2017). p is a class's probability; t is 1 where it is the true class, else 0. The
    mean is over the classes from `first` on.
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
    """Returns mean(1 − (TP + smooth) / (TP + alpha·FP + beta·FN + smooth)) to the power gamma.

    As `TverskyLoss` of segmentation_models_pytorch (Salehi et al. 2017): TP = Σpt, FP = Σp(1 − t),
    FN = Σ(1 − p)t. The mean is over the classes from `first` on; a class without a labelled pixel
    counts in it with the loss 0. With alpha = beta = 1 this is the Jaccard loss, 1 − IoU.
    """
    p, true = _probabilities_and_truth(logits, labels, ignore, first)
    hits, invented, missed = (x.sum((0, 1, 2)) for x in (p * true, p * (1 - true), (1 - p) * true))
    lower = hits + alpha * invented + beta * missed + smooth
    losses = 1 - (hits + smooth) / jnp.maximum(lower, LEAST_TVERSKY)
    losses = jnp.where(true.any((0, 1, 2)), losses, 0)
    mean = _mean(losses, weights, first)
    if gamma == 1:
        return mean
    # the gradient of a power below 1 is not finite at 0
    return jnp.where(mean > 0, jnp.where(mean > 0, mean, 1) ** gamma, 0)


def mcc(
    logits: Float[Array, "b H W 2"], labels: Int[Array, "b H W"], *, ignore: int
) -> Float[Array, ""]:
    """Returns 1 − Matthews' correlation coefficient of class 1's probabilities and labels.

    As `MCCLoss` of segmentation_models_pytorch (Abhishek and Hamarneh 2021) when it is given
    probabilities.
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
    # two roots, because the product of four counts nears the limits of float32
    lower = jnp.sqrt((hits + invented) * (hits + missed))
    lower *= jnp.sqrt((rejected + invented) * (rejected + missed))
    return jnp.where(valid.any(), 1 - upper / lower, 0)


def _probabilities_and_truth(logits, labels, ignore, first):
    """Returns p and t of the classes from `first` on; both are 0 at ignored pixels."""
    valid = (labels != ignore)[..., None]
    p = jnp.where(valid, jax.nn.softmax(logits), 0)[..., first:]
    true = labels[..., None] == np.arange(first, logits.shape[-1], dtype=labels.dtype)
    return p, (valid & true).astype(p.dtype)


def _mean(losses, weights, first):
    """Returns the mean over the classes of loss × class weight."""
    if weights is not None:
        losses *= jnp.asarray(weights[first:], losses.dtype)
    return losses.mean()
