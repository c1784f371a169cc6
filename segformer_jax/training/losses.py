"""The losses of training, computed at the labels' size, and weighted sums of them.

All losses ignore pixels with the ignored label and compute in float32 (or float64). If every pixel
is ignored, the loss and its gradients are 0.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Integer

from segformer_jax import ops
from segformer_jax.models.loss import check_label_map, check_labels
from segformer_jax.ops.cross_entropy import Denominator, Weighting, divisor
from segformer_jax.training import settings
from segformer_jax.training.hard_examples import ohem
from segformer_jax.training.lovasz import lovasz_hinge, lovasz_softmax, per_image
from segformer_jax.training.overlap import dice, mcc, tversky

LOSSES: tuple[str, ...] = get_args(settings.Loss)

DENOMINATORS = ", ".join(get_args(Denominator))

Labels = Integer[Array | np.ndarray, "b H W"]
Loss = Callable[[Float[Array, "b h w labels"], Labels], Float[Array, ""]]


def make_loss(
    terms: Mapping[str, float] | Sequence[tuple[str, float]],
    *,
    num_labels: int,
    ignore_index: int = 255,
    class_weights: Sequence[float] | None = None,
    label_smoothing: float = 0.0,
    denominator: Denominator = "valid",
    ohem_threshold: float | None = 0.7,
    ohem_min_kept: int | None = None,
    focal_gamma: float = 2.0,
    dice_smooth: float = 1.0,
    tversky_alpha: float = 0.5,
    tversky_beta: float = 0.5,
    tversky_gamma: float = 1.0,
    tversky_smooth: float = 0.0,
    jaccard_smooth: float = 0.0,
) -> Loss:
    """Returns a function of logits and labels, which can be jitted: a weighted sum of losses.

    The logits are first resized to the labels' size (torch's bilinear). With one label, classes 0
    and 1 have the logits 0 and z, whose softmax is the sigmoid of z. Cross entropy, OHEM and focal
    loss thus have their binary forms, with `class_weights` for 0 and 1; dice, Tversky and Jaccard
    are those of class 1, and Lovász's loss is the hinge.

    Args:
        terms: names of `LOSSES` and the factor of each: `{"cross_entropy": 1.0, "dice": 0.5}`.
        num_labels: number of classes of the logits.
        ignore_index: label of pixels to ignore.
        class_weights: one per class. Cross entropy, OHEM and focal loss weigh the pixels; dice,
            Tversky, Jaccard and Lovász's losses are means over classes and multiply each class's
            loss by its weight. MCC has no weights.
        label_smoothing: of cross entropy and OHEM, in [0, 1), as in
            `torch.nn.functional.cross_entropy`.
        denominator: of cross entropy, OHEM and focal loss; see `Weighting`.
        ohem_threshold: OHEM keeps pixels whose true class has a lower probability than this; with
            None, the `ohem_min_kept` pixels per picture with the largest loss.
        ohem_min_kept: smallest number of pixels per picture that OHEM keeps, counted over the whole
            batch; by default 1/16 of the pixels. mmsegmentation's default is 100,000.
        focal_gamma: exponent of the focal loss; 0 is cross entropy.
        dice_smooth: number added to numerator and denominator of the dice score.
        tversky_alpha: weight of false positive pixels.
        tversky_beta: weight of false negative pixels.
        tversky_gamma: exponent of the Tversky loss; above 1, poor overlap counts more.
        tversky_smooth: number added to numerator and denominator of the Tversky index.
        jaccard_smooth: number added to numerator and denominator of the IoU.

    Raises:
        ValueError: a name is unknown, an option is out of range, or MCC has class weights or more
            than two classes. The returned function raises it if logits or labels have the wrong
            shape, or labels have values that are not classes (checked only outside of a trace).
    """
    terms = tuple(dict(terms).items())
    _check_terms(terms, num_labels, class_weights)
    _check_range("label_smoothing", label_smoothing, 0 <= label_smoothing < 1, "in [0, 1)")
    _check_range("denominator", denominator, denominator in get_args(Denominator), DENOMINATORS)
    _check_range(
        "ohem_threshold",
        ohem_threshold,
        ohem_threshold is None or 0 <= ohem_threshold <= 1,
        "in [0, 1], or None",
    )
    _check_range(
        "ohem_min_kept",
        ohem_min_kept,
        ohem_min_kept is None or ohem_min_kept >= 1,
        "a number of pixels, at least 1, or None",
    )
    _check_range("focal_gamma", focal_gamma, focal_gamma >= 0, "0 or more, 2 as a rule")
    _check_range("dice_smooth", dice_smooth, dice_smooth > 0, "a number of pixels above 0")
    for name, value in (("tversky_alpha", tversky_alpha), ("tversky_beta", tversky_beta)):
        _check_range(name, value, value >= 0, "0 or more")
    _check_range("tversky_gamma", tversky_gamma, tversky_gamma > 0, "above 0")
    for name, value in (("tversky_smooth", tversky_smooth), ("jaccard_smooth", jaccard_smooth)):
        _check_range(name, value, value >= 0, "a number of pixels, 0 or more")
    weights = None if class_weights is None else tuple(float(weight) for weight in class_weights)
    weighting = Weighting(ignore_index, weights, label_smoothing, denominator)
    binary = num_labels == 1
    of_classes: dict[str, Any] = dict(ignore=ignore_index, weights=weights)
    from_first = dict(of_classes, first=int(binary))
    lovasz = partial(lovasz_hinge if binary else lovasz_softmax, **of_classes)
    large = {
        "ohem": partial(
            ohem, weighting=weighting, threshold=ohem_threshold, min_kept=ohem_min_kept
        ),
        "focal": partial(focal, weighting=weighting, gamma=focal_gamma),
        "dice": partial(dice, smooth=dice_smooth, **from_first),
        "tversky": partial(
            tversky,
            alpha=tversky_alpha,
            beta=tversky_beta,
            gamma=tversky_gamma,
            smooth=tversky_smooth,
            **from_first,
        ),
        "jaccard": partial(
            tversky, alpha=1.0, beta=1.0, gamma=1.0, smooth=jaccard_smooth, **from_first
        ),
        "mcc": partial(mcc, ignore=ignore_index),
        "lovasz": lovasz,
        "lovasz_per_image": partial(per_image, loss=lovasz),
    }

    def loss(logits: Float[Array, "b h w labels"], labels: Labels) -> Float[Array, ""]:
        if logits.shape[-1] != num_labels:
            raise ValueError(
                f"logits must have {num_labels} labels on the last axis, got {logits.shape}"
            )
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
    """Returns the mean of −w·(1 − p)^gamma·log p (Lin et al. 2017, eq. 4 and 5).

    p is the probability of the true class, w its class weight. The divisor is that of the cross
    entropy, to which the loss is equal at gamma 0.
    """
    valid = labels != weighting.ignore
    classes = jnp.where(valid, labels, 0)
    log_p = jnp.take_along_axis(jax.nn.log_softmax(logits), classes[..., None], -1)[..., 0]
    # the gradient of a power below 1 is not finite at 0, to which float32 can round 1 − p
    rest = jnp.maximum(-jnp.expm1(log_p), jnp.finfo(logits.dtype).tiny)
    losses = -log_p * rest**gamma
    if weighting.class_weights is not None:
        losses *= jnp.asarray(weighting.class_weights, logits.dtype)[classes]
    total = jnp.where(valid, losses, 0).sum()
    return total / divisor(labels, valid, weighting, logits.dtype)


def _check_terms(terms, num_labels, class_weights):
    if not terms or any(name not in LOSSES for name, _ in terms):
        raise ValueError(
            f"losses must be one or more of {', '.join(LOSSES)}, got {[name for name, _ in terms]}"
        )
    if any(not np.isfinite(factor) or factor <= 0 for _, factor in terms):
        raise ValueError(f"loss_weights must be positive numbers, got {dict(terms)}")
    classes = max(num_labels, 2)
    if class_weights is not None:
        weights = np.asarray(class_weights, np.float64)
        if weights.shape != (classes,) or not np.all((weights >= 0) & np.isfinite(weights)):
            raise ValueError(
                f"class_weights must be {classes} numbers of 0 or more, one for each "
                f"class, got {weights.tolist()}"
            )
    if "mcc" in dict(terms):
        if class_weights is not None:
            raise ValueError("class_weights must be none with the loss mcc: leave one of them out")
        if classes > 2:
            raise ValueError(
                f"the loss mcc must have 1 or 2 classes, got {classes}: take jaccard or tversky"
            )


def _check_range(name, value, holds, rule):
    if not holds:
        raise ValueError(f"{name} must be {rule}, got {value!r}")
