"""The Mix-FFN half of a block, from LayerNorm to the skip connection, as one operation."""

from jax.typing import DTypeLike
from jaxtyping import Array, Float

from segformer_jax.ops.activation import gelu
from segformer_jax.ops.dense import linear
from segformer_jax.ops.depthwise import depthwise_conv
from segformer_jax.ops.dispatch import Form, operation
from segformer_jax.ops.norm import layer_norm


def _mix_ffn(
    x: Float[Array, "b h w c"],
    norm: tuple[Float[Array, " c"], Float[Array, " c"]],
    fc1: tuple[Float[Array, "c hidden"], Float[Array, " hidden"]],
    dwconv: tuple[Float[Array, "3 3 1 hidden"], Float[Array, " hidden"]],
    fc2: tuple[Float[Array, "hidden c"], Float[Array, " c"]],
    *,
    epsilon: float,
    dtype: DTypeLike,
) -> Float[Array, "b h w c"]:
    """Adds fc2(GELU(dwconv(fc1(LayerNorm(x))))) to x (paper, section 3.1, equation 3).

    `norm` is (scale, bias), the other operands are (kernel, bias).
    """
    y = linear(layer_norm(x, *norm, epsilon=epsilon), *fc1, dtype=dtype)
    return x + linear(gelu(depthwise_conv(y, *dwconv)), *fc2, dtype=dtype)


def _on_tpu(*operands, **options):
    """Runs a Pallas kernel, whose map of hidden channels never leaves the fast memory."""
    from segformer_jax.ops import kernels, mix_ffn_tpu, mix_ffn_tpu_narrow  # Pallas takes a while

    x, _, (fc1, _), *_ = operands
    narrow = mix_ffn_tpu_narrow.fits(x.shape, fc1.shape[1])
    way = mix_ffn_tpu_narrow if narrow else mix_ffn_tpu
    fits = narrow or mix_ffn_tpu.fits(x.shape, fc1.shape[1])
    return kernels.on("tpu", way.mix_ffn, _mix_ffn, *operands, fits=fits, **options)


def _on_gpu(*operands, **options):
    """Runs the Pallas kernel for NVIDIA's GPUs, lowered in tests but never run there."""
    from segformer_jax.ops import kernels, mix_ffn_gpu

    x, _, (fc1, _), *_ = operands
    fits = mix_ffn_gpu.fits(x.shape, fc1.shape[1])
    return kernels.on("cuda", mix_ffn_gpu.mix_ffn, _mix_ffn, *operands, fits=fits, **options)


mix_ffn = operation(_mix_ffn, gpu=Form(_on_gpu), tpu=Form(_on_tpu))
