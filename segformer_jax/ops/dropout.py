"""Dropout with random numbers that are ten times cheaper on a CPU than JAX's default."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Key, UInt32

from segformer_jax.ops.dispatch import operation


def _dropout(
    x: Float[Array, "..."],
    key: Key[Array, ""] | UInt32[Array, " _"],
    *,
    rate: float,
    broadcast_dims: tuple[int, ...] = (),
) -> Float[Array, "..."]:
    """Sets values to 0 with probability `rate`, in (0, 1), and multiplies others by 1 / (1 - rate).

    All values along `broadcast_dims` share one random number.
    """
    shape = tuple(1 if i in broadcast_dims else n for i, n in enumerate(x.shape))
    kept = jnp.broadcast_to(keep(key, rate, shape), x.shape)
    return lax.select(kept, x / np.asarray(1 - rate, x.dtype), jnp.zeros_like(x))


def keep(
    key: Key[Array, ""] | UInt32[Array, " _"], rate: float, shape: tuple[int, ...]
) -> Bool[Array, "..."]:
    """Returns a mask that is False with probability `rate`, independently at each place.

    The index of each place is hashed with the key's bits. This is a counter-based generator like
    JAX's own, but with two rounds instead of twenty: random enough for dropout, but for nothing
    else.
    """
    first, second = jax.random.bits(key, (2,), jnp.uint32)
    place = lax.iota(jnp.uint32, int(np.prod(shape)))
    bits = _mixed(_mixed(place ^ first) ^ second)
    return (bits >= np.uint32(min(round(rate * 2**32), 2**32 - 1))).reshape(shape)


def _mixed(x: UInt32[Array, " n"]) -> UInt32[Array, " n"]:
    """Hashes 32 bits one to one: each input bit flips each output bit half of the time."""
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D)  # C. Wellons' "lowbias32"
    x = (x ^ (x >> np.uint32(15))) * np.uint32(0x846CA68B)
    return x ^ (x >> np.uint32(16))


dropout = operation(_dropout)
