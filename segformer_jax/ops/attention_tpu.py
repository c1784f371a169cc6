"""The attention half of a block as one Pallas kernel for TPUs, over tiles of queries.

Queries lie on the lanes and keys on the sublanes: maxima and sums over the keys are then vector
operations, and a head is a slice of sublanes. A narrow map comes as (rows, channels, columns), as
XLA stores it (128 columns fill the lanes, its 32 or 64 channels would not), others as tokens.
"""

from functools import partial

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from segformer_jax.ops.dispatch import at_least_float32, is_known
from segformer_jax.ops.kernels import (
    COLUMNS,
    FAST_MEMORY,
    LANES,
    affine_first,
    dot,
    like,
    normalized,
    whole,
)

KEYS = 1024  # at once: the scores of some queries are in fast memory
QUERIES = 1024  # at once, of one head: fewer leave the core waiting for its own results
TILE = 2048  # queries of one step of the grid


def fits(shape: tuple, reduced: tuple, heads: int, dtype: DTypeLike) -> bool:
    """Whether the kernel takes a map and keys of these shapes: known sizes, keys in fast memory."""
    if not is_known(*shape, *reduced):
        return False
    width = -(-shape[3] // heads // LANES) * LANES  # of a head's keys, on the lanes
    values = reduced[1] * reduced[2] * (heads * width + shape[3])
    return 2 * values * jnp.dtype(dtype).itemsize <= FAST_MEMORY * 2 // 3  # two pictures at a time


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
    planes = w % LANES == 0 and c < LANES
    options = dict(count=k.shape[1] * k.shape[2], epsilon=epsilon, interpret=interpret)
    query, query_bias = affine_first(norm, q_proj, wide=wide)
    scale = (c // heads) ** -0.5 * np.log2(np.e)  # the kernel takes powers of 2
    missing = -options["count"] % KEYS if options["count"] > KEYS else 0
    k, v = (
        jnp.pad(y.astype(dtype).reshape(b, -1, c), ((0, 0), (0, missing), (0, 0))) for y in (k, v)
    )
    k, v = k.reshape(b, -1, heads, c // heads).swapaxes(1, 2), v.swapaxes(1, 2)
    layers = [
        (query * scale).astype(dtype).T,
        (query_bias * scale).reshape(-1, 1),
        o_proj[0].astype(dtype).T,
        o_proj[1].astype(wide).reshape((-1, 1) if planes else (1, -1)),
    ]
    if planes:
        return _call_by_rows(x.swapaxes(2, 3), k, v, *layers, **options).swapaxes(2, 3)
    x = jnp.pad(x.reshape(b, h * w, c), ((0, 0), (0, -(h * w) % LANES), (0, 0)))
    y = _call_by_tokens(x, k, v, *layers, **options)
    return y[:, : h * w].reshape(b, h, w, c)


def _call_by_rows(x, k, v, *layers, interpret, **options):
    _, h, c, w = x.shape
    at_once = max(1, QUERIES // w)
    tile = min(at_once * max(1, TILE // (at_once * w)), h + -h % at_once)
    block = pl.BlockSpec((1, tile, c, w), lambda n, i: (n, i, 0, 0))
    kernel = partial(_by_rows, at_once=at_once, **options)
    return _call(kernel, block, pl.cdiv(h, tile), x, k, v, *layers, interpret=interpret)


def _call_by_tokens(x, k, v, *layers, interpret, **options):
    _, n, c = x.shape
    at_once = next(size for size in (512, 256, 128) if n % size == 0)
    tile = min(at_once * (TILE // at_once), n)
    block = pl.BlockSpec((1, tile, c), lambda n, i: (n, i, 0))
    kernel = partial(_by_tokens, at_once=at_once, **options)
    return _call(kernel, block, pl.cdiv(n, tile), x, k, v, *layers, interpret=interpret)


def _call(kernel, block, tiles, x, k, v, *layers, interpret):
    keys = pl.BlockSpec((1, *k.shape[1:]), lambda n, i: (n, 0, 0, 0))
    values = pl.BlockSpec((1, *v.shape[1:]), lambda n, i: (n, 0, 0))
    return pl.pallas_call(
        kernel,
        like(x),
        grid=(x.shape[0], tiles),
        in_specs=[block, keys, values, *map(whole, layers)],
        out_specs=block,
        compiler_params=pltpu.CompilerParams(vmem_limit_bytes=FAST_MEMORY),
        interpret=interpret,
        name="attention_block",
    )(x, k, v, *layers)


def _by_rows(x, k, v, query, query_bias, out, out_bias, y, *, at_once, count, epsilon):
    """Computes a tile of rows, each (channels, columns)."""
    wide, dtype = at_least_float32(x.dtype), k.dtype

    @pl.loop(0, x.shape[1] // at_once)
    def _some_rows(i):
        rows = [x[0, i * at_once + row].astype(wide) for row in range(at_once)]
        normed = (normalized(row, axis=0, epsilon=epsilon).astype(dtype) for row in rows)
        queries = [(dot(query[...], z, wide=wide) + query_bias[...]).astype(dtype) for z in normed]
        for n, (row, z) in enumerate(zip(rows, _attend(queries, k, v, wide, count), strict=True)):
            z = row + dot(out[...], z, wide=wide) + out_bias[...]
            y[0, i * at_once + n] = z.astype(y.dtype)


def _by_tokens(x, k, v, query, query_bias, out, out_bias, y, *, at_once, count, epsilon):
    """Computes a tile of tokens, (tokens, channels); the second product turns them onto lanes."""
    wide, dtype = at_least_float32(x.dtype), k.dtype

    @pl.loop(0, x.shape[1] // at_once)
    def _some_tokens(i):
        tokens = x[0, pl.ds(i * at_once, at_once)].astype(wide)
        normed = normalized(tokens, axis=1, epsilon=epsilon).astype(dtype)
        q = (dot(query[...], normed, COLUMNS, wide=wide) + query_bias[...]).astype(dtype)
        queries = [q[:, n : n + LANES] for n in range(0, at_once, LANES)]
        z = jnp.concatenate(_attend(queries, k, v, wide, count), 1)
        z = tokens + dot(z, out[...], ((0,), (1,)), wide=wide) + out_bias[...]
        y[0, pl.ds(i * at_once, at_once)] = z.astype(y.dtype)


def _attend(
    queries: list[Float[Array, "c n"]], k, v, wide: DTypeLike, count: int
) -> list[Float[Array, "c n"]]:
    """Returns the attention of several groups of queries, whose steps alternate in the program.

    A TPU runs its instructions in the order of the program, and each step of one group would wait
    for the one before. `count` is the number of keys without those that fill the last part.
    """
    by_head = [_attend_by(head, queries, k, v, wide, count) for head in range(k.shape[1])]
    return [jnp.concatenate(z, 0) for z in zip(*by_head, strict=True)]


def _attend_by(head, queries, k, v, wide, count):
    keys, d, dtype = *k.shape[2:], k.dtype
    at_once = min(keys, KEYS)
    channels = slice(head * d, (head + 1) * d)
    own = [q[channels] for q in queries]

    def some_keys(i):
        """Returns each group's largest score, sum of weights, and sum of weighted values."""
        first = pl.multiple_of(i * at_once, LANES)
        some = pl.ds(first, at_once) if keys > KEYS else slice(None)
        scores = [dot(k[0, head, some], q, wide=wide) for q in own]
        if keys > count:
            there = i * at_once + lax.broadcasted_iota(jnp.int32, (at_once, 1), 0) < count
            scores = [jnp.where(there, s, -np.inf) for s in scores]
        largest = [jnp.max(s, 0, keepdims=True) for s in scores]
        weights = [jnp.exp2(s - m) for s, m in zip(scores, largest, strict=True)]
        totals = [jnp.sum(w, 0, keepdims=True) for w in weights]
        sums = [dot(v[0, channels, some], w.astype(dtype), wide=wide) for w in weights]
        return list(zip(largest, totals, sums, strict=True))

    def and_more(i, found):
        return list(map(_merged, found, some_keys(i)))

    found = lax.fori_loop(1, keys // at_once, and_more, some_keys(0))
    return [(sums / total).astype(dtype) for _, total, sums in found]


def _merged(one: tuple, other: tuple) -> tuple:
    """Adds up the sums over some keys and over others, each relative to its own largest score."""
    (m, *sums), (n, *more) = one, other
    largest = jnp.maximum(m, n)
    before, after = jnp.exp2(m - largest), jnp.exp2(n - largest)
    return largest, *(a * before + b * after for a, b in zip(sums, more, strict=True))
