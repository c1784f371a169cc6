"""Attention, in the form that suits the platform and the size of the picture."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from segformer_jax.models import gradients
from segformer_jax.models.forms import at_least_float32, choose, current_form, is_known
from segformer_jax.models.rows import plain_max, plain_sum, row_max, row_sum

SCORES_PER_CHUNK = 1 << 19  # attention scores computed at once per head on CPU: 2 MB of float32
SCORES_AT_ONCE = 1 << 28  # the same elsewhere, over all heads and pictures: 1 GB


def attention(
    q: Float[Array, "b n heads d"],
    k: Float[Array, "b k heads d"],
    v: Float[Array, "b k heads d"],
    *,
    dtype: DTypeLike,
) -> Float[Array, "b n heads d"]:
    """Softmax attention, scaled by d^-0.5; the softmax is taken in float32 or wider."""
    return _attention(q, k, v, jnp.dtype(dtype), current_form(), _cudnn_fits(q, dtype))


@partial(jax.jit, static_argnums=(3, 4, 5))
def _attention(q, k, v, dtype, form, cudnn):
    if cudnn:
        q, k, v = (x.astype(dtype) for x in (q, k, v))
        return jax.nn.dot_product_attention(q, k, v, implementation="cudnn")
    on_cpu = at_least_float32(dtype)  # heads are too narrow to gain by halves there
    b, n, heads, _ = q.shape
    if is_known(b, n, k.shape[1]) and b * n * heads * k.shape[1] > SCORES_AT_ONCE:
        cpu, default = (partial(_by_chunks, dtype=kind) for kind in (on_cpu, dtype))
        return choose(form, cpu, default, q, k, v)
    cpu, default, tpu = partial(_on_cpu, on_cpu), partial(_whole, dtype), partial(_on_tpu, dtype)
    return choose(form, cpu, default, q, k, v, tpu=tpu)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _on_cpu(dtype, q, k, v):
    return _by_chunks(q, k, v, dtype=dtype)


@_on_cpu.defjvp
def _on_cpu_jvp(dtype, primals, tangents):
    """Training keeps the weights of all queries anyway, and is faster with them in one piece."""
    return jax.jvp(partial(gradients.attention, dtype=dtype), primals, tangents)


def _whole(dtype, q, k, v):
    weights, total = _exponentials(q, k, dtype)
    y = jnp.einsum(
        "bhnk,bkhd->bnhd",
        weights.astype(dtype),
        v.astype(dtype),
        preferred_element_type=weights.dtype,
    )
    return (y / total.transpose(0, 2, 1, 3)).astype(v.dtype)


def _on_tpu(dtype, q, k, v):
    """The sum of the weights is one more channel of the values, and the maximum a step of its own.

    Otherwise XLA makes one fusion of maximum, exponential and sum, in which every weight costs
    three times as much, and the weights go through the slow memory once more.
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
    """One head and one run of queries after another: plain 2-D matmuls, bounded memory."""
    b, n, heads, d = q.shape
    known = is_known(n, k.shape[1])
    size = min(n, max(1, SCORES_PER_CHUNK // k.shape[1])) if known else n
    chunks = -(-n // size)
    size = -(-n // chunks)
    q = jnp.pad(q.transpose(0, 2, 1, 3), ((0, 0), (0, 0), (0, chunks * size - n), (0, 0)))
    q = q.reshape(b * heads * chunks, 1, size, 1, d)
    k, v = (x.transpose(0, 2, 1, 3).reshape(b * heads, 1, -1, 1, d) for x in (k, v))

    def attend(chunk):
        queries, head = chunk
        weights, total = _exponentials(queries, k[head], dtype, row_max, row_sum)
        y = lax.dot(
            weights[0, 0].astype(dtype),
            v[head][0, :, 0].astype(dtype),
            preferred_element_type=weights.dtype,
        )
        return (y / total[0, 0]).astype(v.dtype)

    y = lax.map(attend, (q, jnp.arange(b * heads * chunks) // chunks))
    return y.reshape(b, heads, chunks * size, d)[:, :, :n].transpose(0, 2, 1, 3)


def _scores(q, k, dtype):
    q = q * np.asarray(q.shape[-1] ** -0.5, q.dtype)
    return jnp.einsum(
        "bnhd,bkhd->bhnk",
        q.astype(dtype),
        k.astype(dtype),
        preferred_element_type=at_least_float32(q.dtype),
    )


def _exponentials(q, k, dtype, row_max=plain_max, row_sum=plain_sum):
    """exp(score - largest score) as (b, heads, n, k), and its sum over k."""
    scores = _scores(q, k, dtype)
    weights = jnp.exp(scores - lax.stop_gradient(row_max(scores)))
    return weights, row_sum(weights)


@partial(jax.jit, static_argnames="dtype")
def attention_weights(
    q: Float[Array, "b n heads d"], k: Float[Array, "b k heads d"], *, dtype: DTypeLike
) -> Float[Array, "b heads n k"]:
    """What each query takes of each key; rows sum to 1."""
    weights, total = _exponentials(q, k, dtype)
    return (weights / total).astype(q.dtype)


def _cudnn_fits(q: Array, dtype: DTypeLike) -> bool:
    """Whether cuDNN's fused attention can be traced: it raises anywhere but on NVIDIA's GPUs."""
    if current_form() not in (None, "gpu") or jax.default_backend() != "gpu":
        return False
    capability = str(getattr(jax.devices()[0], "compute_capability", "0"))
    recent = capability.replace(".", "").isdigit() and float(capability) >= 8
    halves = (jnp.dtype(jnp.bfloat16), jnp.dtype(jnp.float16))
    return recent and jnp.dtype(dtype) in halves and q.shape[-1] % 8 == 0 and q.shape[-1] <= 128
