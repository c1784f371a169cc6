"""Mix-FFN as one Pallas kernel for TPUs, over tiles of rows with one row of halo on each side.

Channels lie on the lanes and columns on the sublanes, so that the depthwise convolution's shifts
are loads at another address: by a row along an outer axis, by a column along the sublanes.
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

PIXELS_PER_MATMUL = 512
PIXELS_PER_STEP = 256  # of the depthwise convolution: its loop needs this much to hide latencies
EDGE = 8  # zero columns beside the hidden map, so that the map itself begins at a whole register
TILE = 64  # rows at most
COLUMNS = 16  # the columns are padded to a multiple, which bfloat16 registers hold


def fits(shape: tuple, hidden: int) -> bool:
    """Whether the kernel takes a map of this shape: known sizes, a tile in fast memory, not narrow.

    XLA keeps the columns of a wide map of few channels on the lanes, as stage 1 has them. With its
    channels there, every operation around the kernel takes up to four times as long.
    """
    if not is_known(*shape) or (shape[3] < LANES and shape[2] >= LANES):
        return False
    return _tile(shape[1], shape[2], hidden) is not None


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
    wide, columns = at_least_float32(x.dtype), x.shape[2]
    missing = -fc1[0].shape[1] % LANES
    up, up_bias = affine_first(norm, fc1, wide=wide)
    layers = [
        jnp.pad(y.astype(kind), ((0, 0),) * (y.ndim - 1) + ((0, missing),))
        for y, kind in (
            (up, dtype),
            (up_bias.reshape(1, -1), wide),
            (dwconv[0].reshape(9, -1), wide),
            (dwconv[1].reshape(1, -1), wide),
        )
    ]
    layers += [jnp.pad(fc2[0].astype(dtype), ((0, missing), (0, 0)))]
    layers += [fc2[1].astype(wide).reshape(1, -1)]
    x = jnp.pad(x, ((0, 0), (0, 0), (0, -columns % COLUMNS), (0, 0)))
    return _call(x, *layers, columns=columns, epsilon=epsilon, dtype=dtype, interpret=interpret)[
        :, :, :columns
    ]


def _tile(h: int, w: int, hidden: int) -> tuple[int, int] | None:
    """Returns the rows of a tile, a multiple of those that are multiplied at once, and these.

    The last tile is as high as the others, so all are as low as their number allows.
    """
    w, hidden = w + -w % COLUMNS, hidden + -hidden % LANES
    at_once = 1 << (max(1, min(h, PIXELS_PER_MATMUL // w)).bit_length() - 1)
    for tile in range(min(TILE, h + -h % at_once) // at_once * at_once, 0, -at_once):
        if ((tile + 2) * (w + 2 * EDGE) * 4 + tile * w * 2) * hidden <= FAST_MEMORY // 4:
            least = -(-h // -(-h // tile))
            return least + -least % at_once, at_once
    return None


def _call(x, *layers, columns, epsilon, dtype, interpret):
    b, h, w, c = x.shape
    hidden, wide = layers[0].shape[1], at_least_float32(x.dtype)
    tile, at_once = _tile(h, columns, hidden) or (1, 1)
    rows = pl.BlockSpec((1, tile, w, c), lambda n, i: (n, i, 0, 0))
    above = pl.BlockSpec((1, 1, w, c), lambda n, i: (n, jnp.maximum(i * tile - 1, 0), 0, 0))
    below = pl.BlockSpec((1, 1, w, c), lambda n, i: (n, jnp.minimum((i + 1) * tile, h - 1), 0, 0))
    return pl.pallas_call(
        partial(_kernel, size=(h, columns), at_once=at_once, epsilon=epsilon),
        like(x),
        grid=(b, pl.cdiv(h, tile)),
        in_specs=[above, rows, below, *map(whole, layers)],
        out_specs=rows,
        scratch_shapes=[
            pltpu.VMEM((hidden // LANES, tile + 2, w + 2 * EDGE, LANES), wide),
            pltpu.VMEM((tile * w, hidden), dtype),
        ],
        compiler_params=pltpu.CompilerParams(vmem_limit_bytes=FAST_MEMORY),
        interpret=interpret,
        name="mix_ffn",
    )(x, x, x, *layers)


def _kernel(
    above, rows, below, up, up_bias, taps, bias, down, down_bias, y, hidden, active,
    *, size, at_once, epsilon,
):  # fmt: skip
    """Computes a tile: `hidden` is its map before the depthwise convolution, `active` after it."""
    tile, w, c = rows.shape[1:]
    wide, dtype, count = hidden.dtype, active.dtype, at_once * w
    first = pl.program_id(1) * tile - 1  # row of the picture that is row 0 of `hidden`

    def expand(x, place, some_outside):
        """Writes rows of `hidden`, zeros outside of the picture."""
        n = x.shape[0]
        x = normalized(x.reshape(n * w, c).astype(wide), axis=1, epsilon=epsilon)
        z = dot(x.astype(dtype), up[...], wide=wide) + up_bias[...]
        z = z.reshape(n, w, -1)
        if some_outside or w > size[1]:
            row = first + place + lax.broadcasted_iota(jnp.int32, (n, w, 1), 0)
            column = lax.broadcasted_iota(jnp.int32, (n, w, 1), 1)
            z = jnp.where((row >= 0) & (row < size[0]) & (column < size[1]), z, 0)
        for group in range(hidden.shape[0]):
            lanes = slice(group * LANES, (group + 1) * LANES)
            hidden[group, pl.ds(place, n), EDGE : EDGE + w, :] = z[:, :, lanes]

    @pl.when((pl.program_id(0) == 0) & (pl.program_id(1) == 0))
    def _clear():
        edge = jnp.zeros((*hidden.shape[:2], EDGE, LANES), wide)
        hidden[:, :, :EDGE, :] = edge
        hidden[:, :, EDGE + w :, :] = edge
        for row in (0, tile + 1):
            hidden[:, row] = jnp.zeros((hidden.shape[0], w + 2 * EDGE, LANES), wide)

    if tile < size[0]:  # otherwise the rows around the tile are always outside
        expand(above[0], 0, True)
        expand(below[0], tile + 1, True)

    @pl.loop(0, tile // at_once)
    def _expand_tile(i):
        expand(rows[0, pl.ds(i * at_once, at_once)], i * at_once + 1, size[0] % tile > 0)

    for group in range(hidden.shape[0]):
        lanes = slice(group * LANES, (group + 1) * LANES)

        @pl.loop(0, tile, unroll=max(1, min(at_once, PIXELS_PER_STEP // w)))
        def _convolve(row, group=group, lanes=lanes):
            z = bias[:, lanes]
            for tap in range(9):
                i, j = divmod(tap, 3)
                shifted = hidden[group, row + i, EDGE - 1 + j : EDGE - 1 + j + w, :]
                z = z + shifted * taps[tap : tap + 1, lanes]
            active[pl.ds(row * w, w), lanes] = gelu(z, dtype, pl.reciprocal).astype(dtype)

    @pl.loop(0, tile // at_once)
    def _contract(i):
        z = dot(active[pl.ds(i * count, count), :], down[...], wide=wide)
        x = rows[0, pl.ds(i * at_once, at_once)].reshape(count, c).astype(wide)
        z = (x + z + down_bias[...]).astype(y.dtype)
        y[0, pl.ds(i * at_once, at_once)] = z.reshape(at_once, w, c)
