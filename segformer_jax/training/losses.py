"""What training makes small: losses of the logits at the labels' size, and weighted sums of them.

All leave ignored pixels out, run in float32 at least (float64 stays), and are 0 with gradients of 0
where every pixel is ignored.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Integer

from segformer_jax import ops
from segformer_jax.models.loss import check_label_map, check_labels
from segformer_jax.ops.cross_entropy import Weighting, divisor
from segformer_jax.training.lovasz import lovasz_hinge, lovasz_softmax

LOSSES = ("cross_entropy", "focal", "dice", "lovasz")

Labels = Integer[Array | np.ndarray, "b H W"]
Loss = Callable[[Float[Array, "b h w labels"], Labels], Float[Array, ""]]


def make_loss(
    terms: Mapping[str, float] | Sequence[tuple[str, float]],
    *,
    num_labels: int,
    ignore_index: int = 255,
    class_weights: Sequence[float] | None = None,
    label_smoothing: float = 0.0,
    denominator: Literal["valid", "all"] = "valid",
    focal_gamma: float = 2.0,
    dice_smooth: float = 1.0,
) -> Loss:
    """The weighted sum of losses, as a function of logits and labels that may be jitted.

    The logits are resized to the labels' size first (torch's bilinear). With one label, classes 0
    and 1 have the logits 0 and z: the softmax of these is the sigmoid of z, and so cross entropy
    and focal loss take their binary forms, with `class_weights` for 0 and 1; dice is that of class
    1, and Lovász's loss the hinge.

    Args:
        terms: names of `LOSSES` and the factor of each: `{"cross_entropy": 1.0, "dice": 0.5}`.
        num_labels: the classes of the logits.
        ignore_index: the label of pixels to leave out.
        class_weights: one per class. Cross entropy and focal loss weigh pixels; dice and Lovász's
            loss are means over classes, of which each class's loss is multiplied by its weight.
        label_smoothing: of cross entropy, in [0, 1): as `torch.nn.functional.cross_entropy`.
        denominator: of cross entropy and focal loss. "valid" divides by the weights of the valid
            pixels, as HF and torch; "all" by the number of all pixels, ignored ones too, as the
            paper's code, and as HF's binary loss.
        focal_gamma: how strongly easy pixels count less; 0 is cross entropy.
        dice_smooth: pixels that are added to both sides of dice's fraction.

    Raises:
        ValueError: an unknown name; an option out of its range. From the function: labels of
            another shape or, where they are concrete, outside the classes.
    """
    terms = tuple(dict(terms).items())
    _check(terms, num_labels, class_weights, label_smoothing, denominator, focal_gamma, dice_smooth)
    weights = None if class_weights is None else tuple(float(weight) for weight in class_weights)
    weighting = Weighting(ignore_index, weights, label_smoothing, denominator)
    binary = num_labels == 1
    large = {
        "focal": partial(focal, weighting=weighting, gamma=focal_gamma),
        "dice": partial(
            dice, ignore=ignore_index, smooth=dice_smooth, first=int(binary), weights=weights
        ),
        "lovasz": partial(
            lovasz_hinge if binary else lovasz_softmax, ignore=ignore_index, weights=weights
        ),
    }

    def loss(logits: Float[Array, "b h w labels"], labels: Labels) -> Float[Array, ""]:
        if logits.shape[-1] != num_labels:
            raise ValueError(f"the logits {logits.shape} are not of {num_labels} labels, last")
        check_label_map(labels, len(logits))
        check_labels(labels, max(num_labels, 2), ignore_index)
        labels = jnp.asarray(labels).astype(jnp.int32)
        logits = logits.astype(ops.at_least_float32(logits.dtype))
        if binary:
            logits = jnp.pad(logits, ((0, 0), (0, 0), (0, 0), (1, 0)))
        total = jnp.zeros((), logits.dtype)
        for name, factor in terms:
            if name == "cross_entropy":
                value = ops.resized_cross_entropy(logits, labels, weighting=weighting)
            else:
                resized = ops.resize_bilinear(logits, size=labels.shape[1:3])
                value = large[name](resized, labels)
            total += factor * value
        return total

    return loss


def focal(
    logits: Float[Array, "b H W labels"],
    labels: Int[Array, "b H W"],
    *,
    weighting: Weighting,
    gamma: float,
) -> Float[Array, ""]:
    """−w·(1 − p)^gamma·log p of the true class's p, the mean (Lin et al. 2017, eq. 4 and 5).

    The mean is that of the cross entropy, which it equals at gamma 0.
    """
    valid = labels != weighting.ignore
    classes = jnp.where(valid, labels, 0)
    log_p = jnp.take_along_axis(jax.nn.log_softmax(logits), classes[..., None], -1)[..., 0]
    # a power below 1 has no slope at 0, where float32 ends up
    rest = jnp.maximum(-jnp.expm1(log_p), jnp.finfo(logits.dtype).tiny)
    losses = -log_p * rest**gamma
    if weighting.class_weights is not None:
        losses *= jnp.asarray(weighting.class_weights, logits.dtype)[classes]
    total = jnp.where(valid, losses, 0).sum()
    return total / divisor(labels, valid, weighting, logits.dtype)


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
    probabilities, t is 1 at the true class, and the sums run over the pixels of the whole batch.
    """
    valid = (labels != ignore)[..., None]
    p = jnp.where(valid, jax.nn.softmax(logits), 0)[..., first:]
    true = labels[..., None] == np.arange(first, logits.shape[-1], dtype=labels.dtype)
    true = (valid & true).astype(p.dtype)
    both, either = (x.sum((0, 1, 2)) for x in (p * true, p + true))
    losses = 1 - (2 * both + smooth) / (either + smooth)
    if weights is not None:
        losses *= jnp.asarray(weights[first:], losses.dtype)
    return losses.mean()


def _check(terms, num_labels, class_weights, smoothing, denominator, gamma, smooth):
    if not terms or any(name not in LOSSES for name, _ in terms):
        raise ValueError(
            f"the losses are {[name for name, _ in terms]}; take one or more of {', '.join(LOSSES)}"
        )
    if any(not np.isfinite(factor) or factor <= 0 for _, factor in terms):
        raise ValueError(f"the losses' factors are {dict(terms)}; each takes a positive number")
    classes = max(num_labels, 2)
    if class_weights is not None:
        weights = np.asarray(class_weights, np.float64)
        if weights.shape != (classes,) or not np.all((weights >= 0) & np.isfinite(weights)):
            raise ValueError(
                f"the class weights are {weights.tolist()}; there must be one for each of "
                f"{classes} classes, 0 or more"
            )
    if not 0 <= smoothing < 1:
        raise ValueError(f"label smoothing is {smoothing}; it takes a share from 0 up to, not, 1")
    if denominator not in ("valid", "all"):
        raise ValueError(f'the denominator is {denominator!r}; there are "valid" and "all"')
    if gamma < 0:
        raise ValueError(f"the focal loss's gamma is {gamma}; it takes 0 or more, 2 as a rule")
    if smooth <= 0:
        raise ValueError(f"dice's smooth term is {smooth}; it takes a positive number of pixels")
