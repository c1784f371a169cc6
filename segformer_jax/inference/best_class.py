"""The best class of each pixel, and its probability; of a single label, whether it is there."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, UInt


def index_type(labels: int) -> type[np.unsignedinteger]:
    """What a class map of so many classes is kept in; 255 is left to ignored pixels."""
    return np.uint8 if labels <= 255 else np.uint16


def check_threshold(threshold: float, labels: int) -> None:
    """Raises a ValueError where a model of so many labels has no use for a threshold."""
    if labels > 1 and threshold != 0.5:
        raise ValueError(
            f"threshold must be 0.5 with {labels} labels, got {threshold}: each pixel has its best "
            "class; a threshold is for models of one label"
        )


def best_class(values: Float[Array, "*size labels"], *, above: float) -> UInt[Array, "*size"]:
    """The first of the largest values' indices; of a single label, 1 where its value is `above`."""
    labels = values.shape[-1]
    if labels == 1:
        return (values[..., 0] > above).astype(jnp.uint8)
    return lax.argmax(values, values.ndim - 1, jnp.int32).astype(index_type(labels))


def best_of_logits(
    logits: Float[Array, "*size labels"], *, threshold: float, scores: bool
) -> tuple[UInt[Array, "*size"], Float[Array, "..."]]:
    """The best class, and its probability by sigmoid or softmax, empty where it isn't asked for.

    Args:
        logits: of a pixel's classes.
        threshold: the probability above which a single label is there.
        scores: whether probabilities are wanted.
    """
    above = math.log(threshold / (1 - threshold))
    best = best_class(logits, above=above)
    if not scores:
        return best, logits[:0, ..., 0]
    if logits.shape[-1] > 1:
        return best, jax.nn.softmax(logits, -1).max(-1)
    own = logits[..., 0]
    return best, jax.nn.sigmoid(jnp.where(own > above, own, -own))


def best_of_probabilities(
    probabilities: Float[Array, "*size labels"], *, threshold: float, scores: bool
) -> tuple[UInt[Array, "*size"], Float[Array, "..."]]:
    """As `best_of_logits`, of probabilities."""
    best = best_class(probabilities, above=threshold)
    if not scores:
        return best, probabilities[:0, ..., 0]
    if probabilities.shape[-1] > 1:
        return best, probabilities.max(-1)
    own = probabilities[..., 0]
    return best, jnp.where(own > threshold, own, 1 - own)
