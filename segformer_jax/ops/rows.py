"""Reductions over the last axis (channels or keys): in plain jnp, and in a form for CPUs.

XLA's CPU backend reduces a row one number at a time, or in windows that it cuts out first.
`row_sum` and `row_max` cut each row into slices as wide as a few vector registers and combine these
elementwise until one is left.
"""

from collections.abc import Callable
from functools import partial, reduce

import jax.numpy as jnp
from jaxtyping import Array, Float

from segformer_jax.ops.dispatch import is_known

LANES = 32  # values per slice
SLICES = 32  # per row at most; longer rows get wider slices, whose combination is cut again


plain_sum = partial(jnp.sum, axis=-1, keepdims=True)
plain_max = partial(jnp.max, axis=-1, keepdims=True)


def row_sum(x: Float[Array, "*batch c"]) -> Float[Array, "*batch 1"]:
    """Returns the sum of every row."""
    return _reduced(x, jnp.add, plain_sum)


def row_max(x: Float[Array, "*batch c"]) -> Float[Array, "*batch 1"]:
    """Returns the largest value of every row."""
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
