"""Reductions of the last axis, over channels or over keys: plain, and in the form for a CPU.

XLA's CPU backend reduces a row one number after another, or in windows that it cuts out first.
`row_sum` and `row_max` combine slices as wide as a few vector registers with one another until one
is left, which is elementwise work.
"""

from collections.abc import Callable
from functools import partial, reduce

import jax.numpy as jnp
from jaxtyping import Array, Float

from segformer_jax.ops.dispatch import is_known

LANES = 32  # numbers in a slice
SLICES = 32  # of one row at most: longer rows are cut into wider slices, and these again


plain_sum = partial(jnp.sum, axis=-1, keepdims=True)
plain_max = partial(jnp.max, axis=-1, keepdims=True)


def row_sum(x: Float[Array, "*batch c"]) -> Float[Array, "*batch 1"]:
    """The sum of every row."""
    return _reduced(x, jnp.add, plain_sum)


def row_max(x: Float[Array, "*batch c"]) -> Float[Array, "*batch 1"]:
    """The largest number of every row."""
    return _reduced(x, jnp.maximum, plain_max)


def _reduced(x: Array, combine: Callable, whole: Callable) -> Array:
    width = x.shape[-1]
    if not is_known(width) or width <= LANES:
        return whole(x)
    size = LANES * -(-width // (LANES * SLICES))
    even = width - width % size
    slices = [x[..., i : i + size] for i in range(0, even, size)]
    result = _reduced(reduce(combine, slices), combine, whole)
    return result if even == width else combine(result, _reduced(x[..., even:], combine, whole))
