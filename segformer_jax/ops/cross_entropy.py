"""Cross entropy at the labels' size, with a gradient that needs no full-size logits."""

from dataclasses import dataclass
from functools import partial, reduce
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from segformer_jax.ops.dispatch import Form, batch_is_local, operation
from segformer_jax.ops.resize import left_matmul, resize_bilinear, resize_matrices

Denominator = Literal["valid", "valid_pixels", "all"]
BLOCKS = 16  # of classes at most, whose largest values are taken elementwise in one step


@dataclass(frozen=True)
class Weighting:
    """How the losses of all labels become one number, as in `torch.nn.functional.cross_entropy`.

    Attributes:
        ignore: the label that is ignored.
        class_weights: one factor per class; None is 1 for each.
        smoothing: the share of a label that is spread over all classes.
        denominator: what the sum of the losses is divided by. "valid": the summed weights of the
            labels that are not ignored, as in torch, HF, and mmsegmentation 1.2 with
            `avg_non_ignore`. "valid_pixels": the number of these labels, as in mmsegmentation 0.23
            to 0.30 with `avg_non_ignore`. "all": the number of all labels, including ignored ones,
            as in the paper's code. Without class weights the first two are the same.
    """

    ignore: int
    class_weights: tuple[float, ...] | None = None
    smoothing: float = 0.0
    denominator: Denominator = "valid"

    @property
    def plain(self) -> bool:
        """Whether every label that is not ignored weighs 1."""
        return self.class_weights is None and not self.smoothing

    def of_classes(self, classes: int, dtype: DTypeLike) -> tuple[np.ndarray, np.ndarray]:
        """Returns each class's weight where it is the label, and what smoothing adds anywhere."""
        weights = np.asarray(self.class_weights or (1.0,) * classes, dtype)
        return weights * (1 - self.smoothing), weights * (self.smoothing / classes)


def cross_entropy(
    logits: Float[Array, "*batch labels"], labels: Int[Array, "*batch"], weighting: Weighting
) -> Float[Array, ""]:
    """Returns the mean loss over the labels that are not ignored; 0 if all are ignored.

    `weighting.denominator` says what "mean" divides by.
    """
    valid = labels != weighting.ignore
    labels = jnp.where(valid, labels, 0)
    chosen = jnp.take_along_axis(logits, labels[..., None], -1)[..., 0]
    total = jax.nn.logsumexp(logits, -1)
    losses = total - chosen
    if not weighting.plain:
        own, everywhere = weighting.of_classes(logits.shape[-1], logits.dtype)
        spread = total * everywhere.sum() - jnp.matmul(logits, everywhere, precision="highest")
        losses = losses * jnp.asarray(own)[labels] + spread
    return jnp.where(valid, losses, 0).sum() / divisor(labels, valid, weighting, logits.dtype)


def divisor(
    labels: Int[Array, "*batch"],
    valid: Bool[Array, "*batch"],
    weighting: Weighting,
    dtype: DTypeLike,
) -> Float[Array, ""]:
    """Returns the number that the sum of the losses is divided by; never 0."""
    if weighting.denominator == "all":
        return jnp.asarray(labels.size, dtype)
    if weighting.class_weights is None or weighting.denominator == "valid_pixels":
        return jnp.maximum(valid.sum(), 1).astype(dtype)
    weights = jnp.asarray(weighting.class_weights, dtype)[jnp.where(valid, labels, 0)]
    total = jnp.where(valid, weights, 0).sum()
    return jnp.where(total > 0, total, 1)


def _resized_cross_entropy(
    logits: Float[Array, "b h w labels"],
    labels: Int[Array, "b H W"],
    *,
    weighting: Weighting,
) -> Float[Array, ""]:
    """Returns the cross entropy of the logits resized to (H, W)."""
    return cross_entropy(resize_bilinear(logits, size=labels.shape[1:3]), labels, weighting)


def _jvp(primals, tangents, *, weighting):
    """Computes loss and gradient together: as the loss is a scalar, only the gradient is kept."""
    of_plain = jax.value_and_grad(partial(_resized_cross_entropy, weighting=weighting))
    loss, gradient = of_plain(*primals)
    return loss, jnp.sum(gradient * tangents[0])


def _jvp_on_cpu(primals, tangents, *, weighting):
    """Computes one picture at a time, with a plane per class: long rows that stay in the cache."""
    logits, labels = primals
    of_picture = partial(_of_picture, weighting=weighting)
    if batch_is_local(len(logits)):
        losses, gradient = lax.map(of_picture, (logits, labels))
    else:
        losses, gradient = jax.vmap(of_picture)((logits, labels))
    count = divisor(labels, labels != weighting.ignore, weighting, logits.dtype)
    return losses.sum() / count, jnp.sum(gradient / count * tangents[0])


def _of_picture(picture, weighting):
    """Returns the sum of a picture's losses, and its gradient."""
    logits, labels = picture
    rows, columns = resize_matrices(logits, labels.shape)
    valid, classes = labels != weighting.ignore, logits.shape[-1]
    planes = jnp.matmul(logits.transpose(2, 0, 1), columns.T, precision="highest")
    planes = left_matmul(rows, planes)
    largest = _largest(planes)
    exponentials = jnp.exp(planes - largest)
    total_exponential = _total(exponentials)
    true = labels[None] == np.arange(classes, dtype=labels.dtype)[:, None, None]
    target, mass = _targets(true, labels, weighting, planes.dtype)
    losses = mass * (jnp.log(total_exponential) + largest)
    losses = losses[0] - _total(target * planes)[0]
    slope = mass * (exponentials / total_exponential) - target
    slope = left_matmul(rows.T, jnp.where(valid[None], slope, 0))
    slope = jnp.matmul(slope, columns, precision="highest").transpose(1, 2, 0)
    return jnp.where(valid, losses, 0).sum(), slope


def _largest(planes):
    """Returns the largest value over all classes, (1, h, w), from elementwise steps.

    XLA's reduction over the outer axis takes several times as long. The last block may overlap the
    one before it.
    """
    while (classes := len(planes)) > 1:
        size = -(-classes // BLOCKS)
        starts = [*range(0, classes - size, size), classes - size]
        planes = reduce(jnp.maximum, [planes[start : start + size] for start in starts])
    return planes


def _total(planes):
    """Returns the sum over all classes, (1, h, w), as a product with ones, for the same reason."""
    classes, *size = planes.shape
    rows = planes.reshape(classes, -1)
    return jnp.matmul(np.ones((1, classes), planes.dtype), rows, precision="highest").reshape(
        1, *size
    )


def _targets(true, labels, weighting, dtype):
    """Returns each class's target, (classes, h, w), and the sum over classes: 1 if unweighted."""
    if weighting.plain:
        return true.astype(dtype), 1
    own, everywhere = weighting.of_classes(len(true), dtype)
    mass = jnp.take(own, labels, mode="clip") + everywhere.sum()  # clip: ignored labels
    own, everywhere = (x[:, None, None] for x in (own, everywhere))
    return jnp.where(true, own + everywhere, everywhere), mass[None]


_elsewhere = Form(_resized_cross_entropy, jvp=_jvp)
resized_cross_entropy = operation(
    _resized_cross_entropy,
    cpu=Form(_resized_cross_entropy, jvp=_jvp_on_cpu),
    gpu=_elsewhere,
    tpu=_elsewhere,
    replicated=True,
)
