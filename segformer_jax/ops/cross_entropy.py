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
from segformer_jax.ops.resize import resize_bilinear, resize_matrices

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
    """Returns the sum of a picture's losses, and its gradient.

    With the classes between rows and columns, each resize is one matmul.
    """
    logits, labels = picture
    rows, columns = resize_matrices(logits, labels.shape)
    labels = labels[:, None]
    valid, classes = labels != weighting.ignore, logits.shape[-1]
    planes = _resized(logits.transpose(0, 2, 1), rows, columns)
    largest = _largest(planes)
    exponentials = jnp.exp(planes - largest)
    total_exponential = _total(exponentials)
    true = valid & (labels == np.arange(classes, dtype=labels.dtype)[None, :, None])
    target, mass = _targets(true, valid, labels, weighting, planes.dtype)
    losses = mass * (jnp.log(total_exponential) + largest) - _total(target * planes)
    slope = exponentials * (mass / total_exponential) - target
    return losses.sum(), _resized(slope, rows.T, columns.T).transpose(0, 2, 1)


def _resized(planes, rows, columns):
    """Multiplies (h, classes, w) by the matrices of the rows and the columns."""
    h, classes, _ = planes.shape
    if len(rows) > h:  # first the resize that leaves less to the other
        planes = jnp.matmul(planes, columns.T, precision="highest")
    planes = jnp.matmul(rows, planes.reshape(h, -1), precision="highest")
    planes = planes.reshape(len(rows), classes, -1)
    return planes if len(rows) > h else jnp.matmul(planes, columns.T, precision="highest")


def _largest(planes):
    """Returns the largest value over all classes, (h, 1, w), from elementwise steps.

    XLA's reduction over the outer axis takes several times as long. The last block may overlap the
    one before it.
    """
    while (classes := planes.shape[1]) > 1:
        size = -(-classes // BLOCKS)
        starts = [*range(0, classes - size, size), classes - size]
        planes = reduce(jnp.maximum, [planes[:, start : start + size] for start in starts])
    return planes


def _total(planes):
    """Returns the sum over all classes, (h, 1, w), as a product with ones, for the same reason."""
    h, classes, _ = planes.shape
    return jnp.matmul(np.ones((h, 1, classes), planes.dtype), planes, precision="highest")


def _targets(true, valid, labels, weighting, dtype):
    """Returns each class's target, (h, classes, w), and their sum; both are 0 at ignored labels."""
    counted = valid.astype(dtype)
    if weighting.plain:
        return true.astype(dtype), counted
    own, everywhere = weighting.of_classes(true.shape[1], dtype)
    mass = jnp.take(own, labels, mode="clip") + everywhere.sum()  # clip: ignored labels
    own, everywhere = (x[None, :, None] for x in (own, everywhere))
    return true.astype(dtype) * own + counted * everywhere, counted * mass


_elsewhere = Form(_resized_cross_entropy, jvp=_jvp)
resized_cross_entropy = operation(
    _resized_cross_entropy,
    cpu=Form(_resized_cross_entropy, jvp=_jvp_on_cpu),
    gpu=_elsewhere,
    tpu=_elsewhere,
    replicated=True,
)
