"""Chooses the best class of each pixel, or with one label whether it is present."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, UInt


def index_type(labels: int) -> type[np.unsignedinteger]:
    """Returns the type of a class map with `labels` classes; 255 is left for ignored pixels."""
    return np.uint8 if labels <= 255 else np.uint16


def check_threshold(threshold: float, labels: int) -> None:
    """Raises a ValueError if `threshold` is not 0.5 for a model of several labels."""
    if labels > 1 and threshold != 0.5:
        raise ValueError(
            f"threshold must be 0.5 with {labels} labels, got {threshold}: each pixel has its best "
            "class; a threshold is for models of one label"
        )


def best_class(values: Float[Array, "*size labels"], *, above: float) -> UInt[Array, "*size"]:
    """Returns the first index of the largest value; with one label, 1 where it exceeds `above`."""
    labels = values.shape[-1]
    if labels == 1:
        return (values[..., 0] > above).astype(jnp.uint8)
    return lax.argmax(values, values.ndim - 1, jnp.int32).astype(index_type(labels))


def best_of_logits(
    logits: Float[Array, "*size labels"], *, threshold: float, scores: bool
) -> tuple[UInt[Array, "*size"], Float[Array, "..."]]:
    """Returns the best class and its probability by sigmoid or softmax; empty without `scores`.

    Args:
        logits: the logits, with the classes along the last axis.
        threshold: the probability above which a single label is present.
        scores: whether to compute probabilities.
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
    """Returns the same as `best_of_logits`, from probabilities."""
    best = best_class(probabilities, above=threshold)
    if not scores:
        return best, probabilities[:0, ..., 0]
    if probabilities.shape[-1] > 1:
        return best, probabilities.max(-1)
    own = probabilities[..., 0]
    return best, jnp.where(own > threshold, own, 1 - own)
