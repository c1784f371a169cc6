"""The attention half of a block as one Pallas kernel for GPUs, through Triton. Never run on a GPU.

A program computes some queries of one picture, one head after another, and some keys at a time; its
output projection adds up the heads, so that neither queries, scores nor the heads' results go
through memory. Triton's arrays have powers of two as sides: wider rows and columns are masked.
"""

from functools import partial

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from segformer_jax.ops.dispatch import at_least_float32, is_known
from segformer_jax.ops.kernels import affine_first, dot, like, power, whole

KEYS = 128  # at once: the scores of a program's queries are in its registers
QUERIES = 16_384  # channels × queries of a program


def fits(shape: tuple, reduced: tuple, heads: int) -> bool:
    """Whether the kernel takes a map and keys of these shapes."""
    width = shape[3] // heads
    return is_known(*shape, *reduced) and width >= 16 and power(width) == width


def attention_block(
    x: Float[Array, "b h w c"],
    k: Float[Array, "b h2 w2 c"],
    v: Float[Array, "b h2 w2 c"],
    norm: tuple[Float[Array, " c"], Float[Array, " c"]],
    q_proj: tuple[Float[Array, "c c"], Float[Array, " c"]],
    o_proj: tuple[Float[Array, "c c"], Float[Array, " c"]],
    *,
    heads: int,
    epsilon: float,
    dtype: DTypeLike,
    interpret: bool,
) -> Float[Array, "b h w c"]:
    """Returns x + o_proj(attention(q_proj(LayerNorm(x)), k, v)), float32 between the products."""
    (b, h, w, c), wide = x.shape, at_least_float32(x.dtype)
    d, n = c // heads, h * w
    query, query_bias = affine_first(norm, q_proj, wide=wide)
    scale = d**-0.5 * np.log2(np.e)  # the kernel takes powers of 2
    k, v = (
        y.astype(dtype).reshape(b, -1, c).reshape(b, -1, heads, d).swapaxes(1, 2) for y in (k, v)
    )
    layers = [
        jnp.moveaxis((query * scale).astype(dtype).reshape(c, heads, d), 1, 0),
        (query_bias * scale).reshape(heads, d),
        o_proj[0].astype(dtype).reshape(heads, d, c),
        o_proj[1].astype(wide),
    ]
    count = max(16, min(128, QUERIES // power(c)))
    block = pl.BlockSpec((None, count, c), lambda i, j: (i, j, 0))
    kept = pl.BlockSpec((None, *k.shape[1:]), lambda i, j: (i, 0, 0, 0))
    y = pl.pallas_call(
        partial(_kernel, epsilon=epsilon, count=n),
        like(x.reshape(b, n, c)),
        grid=(b, pl.cdiv(n, count)),
        in_specs=[block, kept, kept, *map(whole, layers)],
        out_specs=block,
        compiler_params=plgpu.CompilerParams(num_warps=4 if c <= 128 else 8, num_stages=2),
        interpret=interpret,
        name="attention_block",
    )(x.reshape(b, n, c), k, v, *layers)
    return y.reshape(b, h, w, c)


def _kernel(x, k, v, query, query_bias, out, out_bias, y, *, epsilon, count):
    (tokens, c), (heads, keys, width), dtype = x.shape, k.shape, k.dtype
    wide, some = at_least_float32(x.dtype), min(KEYS, power(keys, least=16))
    side = pl.ds(0, power(c))
    real = jnp.arange(power(c)) < c
    left = pl.program_id(1) * tokens + jnp.arange(tokens) < count
    own = left[:, None] & real[None]
    given = plgpu.load(x.at[:, side], mask=own, other=0).astype(wide)
    z = jnp.where(own, given - jnp.sum(given, 1, keepdims=True) / c, 0)
    variance = jnp.sum(z * z, 1, keepdims=True) / c
    z = (z * lax.rsqrt(variance + np.asarray(epsilon, wide))).astype(dtype)

    def one_head(head, total):
        weights = plgpu.load(query.at[head, side], mask=real[:, None], other=0)
        q = (dot(z, weights, wide=wide) + query_bias[head][None]).astype(dtype)

        def some_keys(i, state):
            """Adds some keys to the largest score, the sum of weights and the weighted values."""
            largest, weight, values = state
            block, there = pl.ds(i * some, some), i * some + jnp.arange(some) < keys
            key = plgpu.load(k.at[head, block], mask=there[:, None], other=0)
            value = plgpu.load(v.at[head, block], mask=there[:, None], other=0)
            scores = jnp.where(there[None], dot(q, key.T, wide=wide), -np.inf)
            larger = jnp.maximum(largest, jnp.max(scores, 1, keepdims=True))
            scores, before = jnp.exp2(scores - larger), jnp.exp2(largest - larger)
            weight = weight * before + jnp.sum(scores, 1, keepdims=True)
            values = values * before + dot(scores.astype(dtype), value, wide=wide)
            return larger, weight, values

        start = (
            jnp.full((tokens, 1), -np.inf, wide),
            jnp.zeros((tokens, 1), wide),
            jnp.zeros((tokens, width), wide),
        )
        _, weight, values = lax.fori_loop(0, pl.cdiv(keys, some), some_keys, start)
        weights = plgpu.load(out.at[head, :, side], mask=real[None], other=0)
        return total + dot((values / weight).astype(dtype), weights, wide=wide)

    bias = plgpu.load(out_bias.at[side], mask=real, other=0)
    result = lax.fori_loop(0, heads, one_head, given + bias[None])
    plgpu.store(y.at[:, side], result.astype(y.dtype), mask=own)
