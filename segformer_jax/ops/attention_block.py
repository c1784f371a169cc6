"""The attention half of a block, from LayerNorm to the skip connection, as one operation."""

from jax.typing import DTypeLike
from jaxtyping import Array, Float

from segformer_jax.ops.attention import attention
from segformer_jax.ops.dense import linear
from segformer_jax.ops.dispatch import Form, operation
from segformer_jax.ops.norm import layer_norm


def _attention_block(
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
) -> Float[Array, "b h w c"]:
    """Adds o_proj(attention(q_proj(LayerNorm(x)), k, v)) to x (paper, section 3.1, equation 1).

    k and v are the keys and values of the reduced sequence, all heads side by side. `norm` is
    (scale, bias), the projections are (kernel, bias).
    """
    b, h, w, c = x.shape
    q = linear(layer_norm(x, *norm, epsilon=epsilon), *q_proj, dtype=dtype)
    q, k, v = (y.reshape(b, -1, c).reshape(b, -1, heads, c // heads) for y in (q, k, v))
    y = attention(q, k, v, dtype=dtype)
    return x + linear(y.reshape(b, h * w, c).reshape(b, h, w, c), *o_proj, dtype=dtype)


def _on_tpu(*operands, **options):
    """Runs the Pallas kernel, whose scores never leave the fast memory."""
    from segformer_jax.ops import attention_tpu, kernels  # importing Pallas takes a while

    x, k, *_ = operands
    fits = attention_tpu.fits(x.shape, k.shape, options["heads"], options["dtype"])
    kernel = attention_tpu.attention_block
    return kernels.on("tpu", kernel, _attention_block, *operands, fits=fits, **options)


def _on_gpu(*operands, **options):
    """Runs the Pallas kernel for NVIDIA's GPUs, lowered in tests but never run there."""
    from segformer_jax.ops import attention_gpu, kernels

    x, k, *_ = operands
    fits = attention_gpu.fits(x.shape, k.shape, options["heads"])
    kernel = attention_gpu.attention_block
    return kernels.on("cuda", kernel, _attention_block, *operands, fits=fits, **options)


attention_block = operation(_attention_block, gpu=Form(_on_gpu), tpu=Form(_on_tpu))
