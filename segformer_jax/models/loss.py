"""The losses that HF's SegFormer models compute from `labels=`."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Num

from segformer_jax import ops
from segformer_jax.config import SegformerConfig
from segformer_jax.ops.cross_entropy import Weighting


def segmentation_loss(
    logits: Float[Array, "b h w labels"],
    labels: Int[Array | np.ndarray, "b H W"],
    config: SegformerConfig,
) -> Float[Array, ""]:
    """Computes the cross entropy at the labels' size, as HF's `SegformerForSemanticSegmentation`.

    The mean is over the pixels that are not `semantic_loss_ignore_index`. If all are ignored, the
    loss is 0, where torch returns NaN. With one label it is the binary cross entropy of labels 0
    and 1; ignored pixels count as 0 in a mean over **all** pixels, as in HF.

    Raises:
        ValueError: labels have a wrong type or shape, or one is outside the classes; values are
            checked only if labels are concrete, not under a trace.
    """
    check_label_map(labels, len(logits))
    ignore = config.semantic_loss_ignore_index
    check_labels(labels, max(config.num_labels, 2), ignore)
    labels = jnp.asarray(labels)
    logits = logits.astype(ops.at_least_float32(logits.dtype))
    if config.num_labels > 1:
        return ops.resized_cross_entropy(logits, labels, weighting=Weighting(ignore))
    logits = ops.resize_bilinear(logits, size=labels.shape[1:3])
    valid = labels != ignore
    target = labels.astype(logits.dtype)
    losses = _binary_cross_entropy(logits[..., 0], jnp.where(valid, target, 0))
    return jnp.where(valid & (labels >= 0), losses, 0).mean()


def classification_loss(
    logits: Float[Array, "b labels"],
    labels: Num[Array | np.ndarray, "b *labels"],
    config: SegformerConfig,
) -> Float[Array, ""]:
    """Computes the loss of a regression, or of single-label or multi-label classification.

    `config.problem_type` selects it. None infers it as HF does: one label is a regression (mean
    squared error), integer labels are classes (cross entropy), others are independent probabilities
    (binary cross entropy).

    Raises:
        ValueError: a class is outside 0…num_labels-1 (checked only if labels are concrete), or the
            labels' shape does not suit the problem.
    """
    logits = logits.astype(ops.at_least_float32(logits.dtype))
    problem = config.problem_type or _problem_type(labels, config.num_labels)
    if problem == "single_label_classification":
        check_labels(labels, config.num_labels, -100)  # torch's default ignore_index
        labels = jnp.asarray(labels).reshape(-1)
        if len(labels) != len(logits):
            raise ValueError(f"labels must be one per picture, {len(logits)}, got {len(labels)}")
        return ops.cross_entropy(logits, labels, Weighting(ignore=-100))
    target = jnp.asarray(labels).astype(logits.dtype)
    if target.size != logits.size:
        raise ValueError(
            f"labels must have the shape of the logits, {logits.shape}, for "
            f"{problem}, got {labels.shape}"
        )
    target = target.reshape(logits.shape)
    if problem == "regression":
        return jnp.square(logits - target).mean()
    return _binary_cross_entropy(logits, target).mean()


def _problem_type(labels: Array | np.ndarray, num_labels: int) -> str:
    if num_labels == 1:
        return "regression"
    integers = jnp.issubdtype(labels.dtype, jnp.integer)
    return "single_label_classification" if integers else "multi_label_classification"


def _binary_cross_entropy(logits: Array, target: Array) -> Array:
    return jax.nn.softplus(logits) - logits * target


def check_label_map(labels: Array | np.ndarray, batch: int) -> None:
    """Raises a ValueError unless labels are integers, (b, H, W) for a batch of b pictures."""
    shape, kind = np.shape(labels), jnp.result_type(labels)
    if not jnp.issubdtype(kind, jnp.integer):
        raise ValueError(f"labels must be integers (class indices), got {kind}")
    if len(shape) != 3 or shape[0] != batch or 0 in shape:
        raise ValueError(f"labels must have the shape ({batch}, height, width), got {shape}")


def check_labels(labels: Array | np.ndarray, num_labels: int, ignore_index: int) -> None:
    """Raises a ValueError if a label is neither a class nor ignored; traced ones aren't checked."""
    if isinstance(labels, jax.core.Tracer):
        return
    values = np.unique(np.asarray(labels))
    wrong = values[((values < 0) | (values >= num_labels)) & (values != ignore_index)]
    if wrong.size:
        raise ValueError(
            f"labels must be in 0…{num_labels - 1}, or {ignore_index} for ignored "
            f"pixels, got {wrong[:5].tolist()}"
        )
