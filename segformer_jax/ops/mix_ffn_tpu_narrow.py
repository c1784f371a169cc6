"""The Mix-FFN of few channels as one Pallas kernel for TPUs, as stage 1 has it.

A map comes as (rows, channels, columns), as XLA stores it: 128 columns fill the lanes, its 32 or 64
channels would not. The depthwise convolution's shift by a row is a load at another address; that by
a column is a rotation of the lanes, of two sums of three taps each.
"""

from functools import partial

import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from segformer_jax.ops.dispatch import at_least_float32, is_known
from segformer_jax.ops.kernels import (
    FAST_MEMORY,
    LANES,
    affine_first,
    dot,
    gelu,
    like,
    normalized,
    whole,
)

PIXELS_AT_ONCE = 2048  # of a matmul, and of a round of the convolution
CHANNELS_AT_ONCE = 32  # of the convolution: their sums stay in the registers
TILE = 16  # rows at most


def fits(shape: tuple, hidden: int) -> bool:
    """Whether the kernel takes a map of this shape: known sizes, columns that fill the lanes."""
    if not is_known(*shape, hidden) or shape[3] >= LANES or shape[2] % LANES:
        return False
    return hidden % CHANNELS_AT_ONCE == 0 and _tile(shape[1], shape[2], hidden) > 0


def mix_ffn(
    x: Float[Array, "b h w c"],
    norm: tuple[Float[Array, " c"], Float[Array, " c"]],
    fc1: tuple[Float[Array, "c hidden"], Float[Array, " hidden"]],
    dwconv: tuple[Float[Array, "3 3 1 hidden"], Float[Array, " hidden"]],
    fc2: tuple[Float[Array, "hidden c"], Float[Array, " c"]],
    *,
    epsilon: float,
    dtype: DTypeLike,
    interpret: bool,
) -> Float[Array, "b h w c"]:
    """Returns x + fc2(GELU(dwconv(fc1(LayerNorm(x))))), with float32 between the products."""
    (b, h, w, c), wide, hidden = x.shape, at_least_float32(x.dtype), fc1[0].shape[1]
    up, up_bias = affine_first(norm, fc1, wide=wide)
    layers = [
        up.astype(dtype).T,
        up_bias.reshape(-1, 1),
        # on every lane, for the kernel would spread each number over the lanes again and again
        jnp.broadcast_to(dwconv[0].astype(wide).reshape(9, hidden, 1), (9, hidden, w)),
        jnp.broadcast_to(dwconv[1].astype(wide).reshape(hidden, 1), (hidden, w)),
        fc2[0].astype(dtype).T,
        fc2[1].astype(wide).reshape(-1, 1),
    ]
    tile, at_once = _tile(h, w, hidden), max(1, PIXELS_AT_ONCE // w)
    block = pl.BlockSpec((1, tile, c, w), lambda n, i: (n, i, 0, 0))
    above = pl.BlockSpec((1, 1, c, w), lambda n, i: (n, jnp.maximum(i * tile - 1, 0), 0, 0))
    below = pl.BlockSpec((1, 1, c, w), lambda n, i: (n, jnp.minimum((i + 1) * tile, h - 1), 0, 0))
    x = x.swapaxes(2, 3)
    y = pl.pallas_call(
        partial(_kernel, rows=h, at_once=at_once, epsilon=epsilon),
        like(x),
        grid=(b, pl.cdiv(h, tile)),
        in_specs=[above, block, below, *map(whole, layers)],
        out_specs=block,
        scratch_shapes=[
            pltpu.VMEM((tile + 2, hidden, w), wide),
            pltpu.VMEM((tile, hidden, w), jnp.dtype(dtype)),
        ],
        compiler_params=pltpu.CompilerParams(vmem_limit_bytes=FAST_MEMORY),
        interpret=interpret,
        name="mix_ffn",
    )(x, x, x, *layers)
    return y.swapaxes(2, 3)


def _tile(h: int, w: int, hidden: int) -> int:
    """Returns the rows of a tile, a multiple of those multiplied at once; 0 if too many."""
    at_once = max(1, PIXELS_AT_ONCE // w)
    most = (FAST_MEMORY // 4) // (hidden * w * 6) - 2
    return min(TILE, most, h + -h % at_once) // at_once * at_once


def _kernel(
    above, block, below, up, up_bias, taps, bias, down, down_bias, y, hidden, active,
    *, rows, at_once, epsilon,
):  # fmt: skip
    """Computes a tile: `hidden` is its map before the depthwise convolution, `active` after it."""
    tile, _, w = block.shape[1:]
    wide, dtype = hidden.dtype, active.dtype
    first = pl.program_id(1) * tile - 1  # row of the picture that is row 0 of `hidden`

    def expand(given, place):
        """Writes rows of `hidden`, zeros outside of the picture."""
        normed = [normalized(row.astype(wide), axis=0, epsilon=epsilon) for row in given]
        z = dot(up[...], jnp.concatenate(normed, 1).astype(dtype), wide=wide) + up_bias[...]
        for n in range(len(given)):
            row = first + place + n
            inside = (row >= 0) & (row < rows)
            hidden[place + n] = jnp.where(inside, z[:, n * w : (n + 1) * w], 0)

    expand([above[0, 0]], 0)
    expand([below[0, 0]], tile + 1)

    @pl.loop(0, tile // at_once)
    def _expand_tile(i):
        expand([block[0, i * at_once + n] for n in range(at_once)], i * at_once + 1)

    column = lax.broadcasted_iota(jnp.int32, (CHANNELS_AT_ONCE, w), 1)

    @pl.loop(0, tile, unroll=at_once)
    def _convolve(row):
        for start in range(0, hidden.shape[1], CHANNELS_AT_ONCE):
            some = slice(start, start + CHANNELS_AT_ONCE)
            maps = [hidden[row + i, some] for i in range(3)]
            left, middle, right = (
                maps[0] * taps[j, some] + maps[1] * taps[3 + j, some] + maps[2] * taps[6 + j, some]
                for j in range(3)
            )
            left = jnp.where(column == 0, 0, pltpu.roll(left, 1, 1))
            right = jnp.where(column == w - 1, 0, pltpu.roll(right, w - 1, 1))
            z = bias[some] + left + middle + right
            active[row, some] = gelu(z, dtype, pl.reciprocal).astype(dtype)

    @pl.loop(0, tile // at_once)
    def _contract(i):
        several = jnp.concatenate([active[i * at_once + n] for n in range(at_once)], 1)
        z = dot(down[...], several, wide=wide) + down_bias[...]
        for n in range(at_once):
            given, own = block[0, i * at_once + n], z[:, n * w : (n + 1) * w]
            y[0, i * at_once + n] = (given.astype(wide) + own).astype(y.dtype)
