"""Softmax attention; the implementation depends on the platform and the picture's size."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from segformer_jax.ops.cast import cast
from segformer_jax.ops.dispatch import (
    Form,
    at_least_float32,
    batch_is_local,
    chosen_platform,
    derivative_of,
    is_known,
    operation,
)
from segformer_jax.ops.rows import plain_max, plain_sum, row_max, row_sum

SCORES_PER_CHUNK = 1 << 19  # attention scores computed at once per head on CPU: 2 MB of float32
KEYS_PER_BLOCK = 256  # on CPU; the products of more keys, for fewer queries, are slower
UNROLLED = 4  # blocks of keys; more are in a loop, because XLA holds the scores of all at once
SCORES_AT_ONCE = 1 << 28  # over all heads and pictures, on GPU, TPU and in training: 1 GB


def _attention(
    q: Float[Array, "b n heads d"],
    k: Float[Array, "b k heads d"],
    v: Float[Array, "b k heads d"],
    *,
    dtype: DTypeLike,
) -> Float[Array, "b n heads d"]:
    """Softmax attention, scaled by d^-0.5; the softmax is taken in float32 or wider."""
    weights, total = _exponentials(q, k, dtype)
    y = jnp.einsum(
        "bhnk,bkhd->bnhd",
        weights.astype(dtype),
        v.astype(dtype),
        preferred_element_type=weights.dtype,
    )
    return (y / total.transpose(0, 2, 1, 3)).astype(v.dtype)


def _on_cpu(q, k, v, *, dtype):
    # XLA multiplies float16 on a CPU no faster than float32
    dtype = dtype if dtype == jnp.bfloat16 else at_least_float32(dtype)
    return _by_chunks(q, k, v, dtype=dtype)


def _jvp_on_cpu(primals, tangents, *, dtype):
    """Computes all weights at once if they fit, which is faster; training keeps them anyway."""
    way = _by_chunks if _is_large(*primals[:2]) else _at_once
    return derivative_of(way)(primals, tangents, dtype=at_least_float32(dtype))


def _on_gpu(q, k, v, *, dtype):
    if chosen_platform() == "gpu" and _cudnn_fits(q, dtype):
        q, k, v = (x.astype(dtype) for x in (q, k, v))
        return jax.nn.dot_product_attention(q, k, v, implementation="cudnn")
    return _in_pieces(_attention, q, k, v, dtype)


def _on_tpu(q, k, v, *, dtype):
    return _in_pieces(_sum_as_channel, q, k, v, dtype)


def _in_pieces(whole, q, k, v, dtype):
    """Computes large attentions in pieces: by head, or by some queries of all pictures."""
    if not _is_large(q, k):
        return whole(q, k, v, dtype=dtype)
    if batch_is_local(q.shape[0]):
        return _by_chunks(q, k, v, dtype=dtype)
    b, n, heads, d = q.shape
    size = -(-n * SCORES_AT_ONCE // (b * n * heads * k.shape[1])) or 1
    chunks = -(-n // size)
    q = jnp.pad(q, ((0, 0), (0, chunks * size - n), (0, 0), (0, 0)))
    q = jnp.moveaxis(q.reshape(b, chunks, size, heads, d), 1, 0)
    y = lax.map(lambda queries: whole(queries, k, v, dtype=dtype), q)
    return jnp.moveaxis(y, 0, 1).reshape(b, chunks * size, heads, d)[:, :n]


def _is_large(q, k):
    b, n, heads, _ = q.shape
    return is_known(b, n, k.shape[1]) and b * n * heads * k.shape[1] > SCORES_AT_ONCE


def _sum_as_channel(q, k, v, *, dtype):
    """Computes the sum of the weights as one more channel of the values, the maximum separately.

    Otherwise XLA fuses maximum, exponential and sum. In that fusion every weight costs three times
    as much, and the weights go through the slow memory once more.
    """
    scores = _scores(q, k, dtype)
    largest = lax.optimization_barrier(lax.stop_gradient(scores.max(-1, keepdims=True)))
    values = jnp.pad(v.astype(dtype), ((0, 0), (0, 0), (0, 0), (0, 1)), constant_values=1)
    y = jnp.einsum(
        "bhnk,bkhd->bnhd",
        jnp.exp(scores - largest).astype(dtype),
        values,
        preferred_element_type=scores.dtype,
    )
    return (y[..., :-1] / y[..., -1:]).astype(v.dtype)


def _by_chunks(q, k, v, *, dtype):
    """Computes some queries and keys of one head at a time: plain 2-D matmuls, bounded memory.

    If the batch is local, its pictures are computed one after another, otherwise all in parallel.
    """
    if not batch_is_local(q.shape[0]):
        one = partial(_by_chunks_of_one, dtype=dtype)
        return jax.vmap(one)(*(x[:, None] for x in (q, k, v)))[:, 0]
    return _by_chunks_of_one(q, k, v, dtype=dtype)


def _by_chunks_of_one(q, k, v, *, dtype):
    b, n, heads, d = q.shape
    keys = k.shape[1]
    known = is_known(n, keys)
    blocks = max(1, round(keys / KEYS_PER_BLOCK)) if known else 1
    size = min(n, max(1, SCORES_PER_CHUNK * blocks // keys)) if known else n
    chunks = -(-n // size)
    size = -(-n // chunks)
    q = jnp.pad(q.transpose(0, 2, 1, 3), ((0, 0), (0, 0), (0, chunks * size - n), (0, 0)))
    q = q.reshape(b * heads * chunks, size, d)
    k, v = (x.transpose(0, 2, 1, 3).reshape(b * heads, keys, d) for x in (k, v))

    def attend(chunk):
        queries, head = chunk
        return _by_blocks(queries, k[head], v[head], blocks, dtype)

    y = lax.map(attend, (q, jnp.arange(b * heads * chunks) // chunks))
    return y.reshape(b, heads, chunks * size, d)[:, :, :n].transpose(0, 2, 1, 3)


def _by_blocks(
    q: Float[Array, "n d"], k: Float[Array, "k d"], v: Float[Array, "k d"], blocks: int, dtype: Any
) -> Float[Array, "n d"]:
    """Computes one head by blocks of keys, with the largest score so far subtracted from each."""

    def of_block(k, v, largest=None):
        scores = _scores(q[None, :, None], k[None, :, None], dtype)[0, 0]
        own = lax.stop_gradient(row_max(scores))
        largest = own if largest is None else jnp.maximum(largest, own)
        weights = jnp.exp(scores - largest)
        if dtype != scores.dtype:  # rounded ones are written once, and read by product and sum
            weights = lax.optimization_barrier(cast(weights, dtype))
        y = lax.dot(weights, cast(v, dtype), preferred_element_type=scores.dtype)
        return y, row_sum(weights.astype(scores.dtype)), largest

    def add(so_far, block):
        (y, total, largest), (k, v) = so_far, block
        own_y, own_total, larger = of_block(k, v, largest)
        scale = jnp.exp(largest - larger)
        return (y * scale + own_y, total * scale + own_total, larger), None

    size = k.shape[0] // blocks
    first = k.shape[0] - (blocks - 1) * size  # takes what is left over
    so_far = of_block(k[:first], v[:first])
    if blocks > 1:
        others = tuple(x[first:].reshape(blocks - 1, size, -1) for x in (k, v))
        so_far, _ = lax.scan(add, so_far, others, unroll=blocks <= UNROLLED)
    y, total, _ = so_far
    return (y / total).astype(v.dtype)


def _at_once(q, k, v, *, dtype):
    """Computes two batched matmuls for all heads and pictures; the weights are kept."""
    b, _, heads, d = q.shape
    given, wide = v.dtype, at_least_float32(q.dtype)
    q = q * np.asarray(d**-0.5, q.dtype)
    q, k, v = (x.transpose(0, 2, 1, 3).reshape(b * heads, -1, d).astype(dtype) for x in (q, k, v))
    scores = jnp.einsum("gnd,gkd->gnk", q, k, preferred_element_type=wide)
    weights = jnp.exp(scores - lax.stop_gradient(plain_max(scores)))
    y = jnp.einsum("gnk,gkd->gnd", weights.astype(dtype), v, preferred_element_type=wide)
    y = y / plain_sum(weights)
    return y.reshape(b, heads, -1, d).transpose(0, 2, 1, 3).astype(given)


def _scores(q, k, dtype):
    q = q * np.asarray(q.shape[-1] ** -0.5, q.dtype)
    return jnp.einsum(
        "bnhd,bkhd->bhnk",
        cast(q, dtype),
        cast(k, dtype),
        preferred_element_type=at_least_float32(q.dtype),
    )


def _exponentials(q, k, dtype, row_max=plain_max, row_sum=plain_sum):
    """Returns exp(score - largest score), (b, heads, n, k), and its sum over k."""
    scores = _scores(q, k, dtype)
    weights = jnp.exp(scores - lax.stop_gradient(row_max(scores)))
    return weights, row_sum(weights)


def _cudnn_fits(q: Array, dtype: DTypeLike) -> bool:
    """Whether cuDNN's fused attention can be traced; without an NVIDIA GPU, tracing it raises."""
    try:
        device = jax.local_devices(backend="gpu")[0]
    except RuntimeError:
        return False
    capability = str(getattr(device, "compute_capability", "0"))
    recent = capability.replace(".", "").isdigit() and float(capability) >= 8
    halves = (jnp.dtype(jnp.bfloat16), jnp.dtype(jnp.float16))
    return recent and jnp.dtype(dtype) in halves and q.shape[-1] % 8 == 0 and q.shape[-1] <= 128


attention = operation(
    _attention,
    cpu=Form(_on_cpu, jvp=_jvp_on_cpu),
    gpu=Form(_on_gpu, jvp=derivative_of(_on_gpu)),
    tpu=Form(_on_tpu, jvp=derivative_of(_on_tpu)),
)


def _attention_weights(
    q: Float[Array, "b n heads d"], k: Float[Array, "b k heads d"], *, dtype: DTypeLike
) -> Float[Array, "b heads n k"]:
    """Returns the softmax weight of each key for each query; rows sum to 1."""
    weights, total = _exponentials(q, k, dtype)
    return (weights / total).astype(q.dtype)


attention_weights = operation(_attention_weights)
