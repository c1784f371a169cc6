"""Bilinear resizing between sizes that are symbols, known when an exported program runs.

The arithmetic is that of `segformer_jax.bilinear`, done by the program itself.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int


def neighbours(
    old: Any, new: Any, dtype: DTypeLike
) -> tuple[Int[Array, " new"], Int[Array, " new"], Float[Array, " new"]]:
    """As `bilinear_neighbours`, but that the second cell may be one past the last, weighing 0."""
    position = _positions(old, new, dtype)
    low = position.astype(jnp.int32)
    return low, low + 1, position - low.astype(position.dtype)


def matrix(old: Any, new: Any, dtype: DTypeLike) -> Float[Array, "new old"]:
    """What `old` values are multiplied by to give `new` ones."""
    position = _positions(old, new, dtype)
    distance = jnp.abs(position[:, None] - jnp.arange(old, dtype=position.dtype)[None])
    return jnp.maximum(1 - distance, 0).astype(dtype)


def _positions(old: Any, new: Any, dtype: DTypeLike) -> Float[Array, " new"]:
    """Where the new cells' centres lie among the old ones, in torch's order of operations."""
    wide = np.promote_types(jnp.dtype(dtype), np.float32)
    half = np.asarray(0.5, wide)
    ratio = jnp.asarray(old, wide) / jnp.asarray(new, wide)
    position = (jnp.arange(new, dtype=wide) + half) * ratio - half
    return position.clip(0, jnp.asarray(old - 1, wide))
