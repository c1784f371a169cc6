"""Bilinear weights between sizes that are known now, or only when an exported program runs.

Known sizes give NumPy arrays, constants of the program; symbols give the arithmetic for them.
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from segformer_jax.bilinear import bilinear_neighbours
from segformer_jax.models.forms import is_known


def neighbours(old: Any, new: Any, dtype) -> Sequence[Any]:
    """`bilinear_neighbours`: for each of `new` cells two of `old`, and the weight of the second."""
    if is_known(old, new):
        return bilinear_neighbours(old, new, dtype)
    position = _positions(old, new, dtype)
    low = position.astype(jnp.int32)
    return low, low + 1, position - low.astype(position.dtype)  # the reader clips at the last


def resize_matrix(old: Any, new: Any, dtype) -> Float[Array | np.ndarray, "new old"]:
    """What a column of `old` values is multiplied by to resize it."""
    if is_known(old, new):
        low, high, weight = bilinear_neighbours(old, new, dtype)
        matrix = np.zeros((new, old), weight.dtype)
        np.add.at(matrix, (np.arange(new), low), 1 - weight)
        np.add.at(matrix, (np.arange(new), high), weight)
        return matrix.astype(dtype)
    position = _positions(old, new, dtype)
    distance = jnp.abs(position[:, None] - jnp.arange(old, dtype=position.dtype)[None])
    return jnp.maximum(1 - distance, 0).astype(dtype)


def _positions(old: Any, new: Any, dtype) -> Float[Array, " new"]:
    """Where the new cells' centres lie among the old ones, in torch's order of operations."""
    wide = np.promote_types(dtype, np.float32)
    half = np.asarray(0.5, wide)
    ratio = jnp.asarray(old, wide) / jnp.asarray(new, wide)
    position = (jnp.arange(new, dtype=wide) + half) * ratio - half
    return position.clip(0, jnp.asarray(old - 1, wide))
