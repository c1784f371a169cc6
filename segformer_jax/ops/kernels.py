"""What the Pallas kernels share: matmuls, LayerNorm, and interpretation on other machines.

On the lanes of a TPU's register (128) lies the last axis of a block, on its sublanes (8) the one
before.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from segformer_jax.ops.dispatch import on_one_device

LANES = 128
FAST_MEMORY = 48 << 20  # bytes of a v5e's 128 MiB that a kernel may take
ROWS, COLUMNS = ((1,), (0,)), ((1,), (1,))  # which axes `dot` sums over: a @ b, a @ b.T

# erfc(x) = e^(-x²)·(a₁t + a₂t² + …), t = 1 / (1 + p·x), for x ≥ 0 (Abramowitz and Stegun 7.1.25 and
# 7.1.26). The first has an error of 2.5e-5, a hundredth of bfloat16's, the second of 1.5e-7
ERFC_HALF = (0.47047, (0.3480242, -0.0958798, 0.7478556))
ERFC_FLOAT = (0.3275911, (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429))


def on(
    platform: str,
    kernel: Callable,
    reference: Callable,
    *operands: Any,
    fits: bool,
    **options: Any,
) -> Any:
    """Calls `kernel(*operands, interpret=…, **options)`: compiled on its platform, "tpu" or "cuda".

    Other machines interpret it. JAX 0.10 can't do that in a `shard_map` with `check_vma`, where
    they compute the reference, as AMD's GPUs always do. So does every machine if the operands don't
    fit, or are not on one device.
    """
    kernel, reference = (partial(function, **options) for function in (kernel, reference))
    if not fits or not on_one_device():
        return reference(*operands)
    split = jax.typeof(operands[0]).manual_axis_type.varying
    forms = {platform: partial(kernel, interpret=False)}
    if platform == "cuda":
        forms["rocm"] = reference
    default = reference if split else partial(kernel, interpret=True)
    return lax.platform_dependent(*operands, default=default, **forms)


def like(x: Array, *shape: int) -> jax.ShapeDtypeStruct:
    """Returns the type of a result that is split over the axes of a `shard_map` as x is."""
    axes = jax.typeof(x).manual_axis_type
    return jax.ShapeDtypeStruct(shape or x.shape, x.dtype, manual_axis_type=axes)


def whole(x: Array) -> pl.BlockSpec:
    """Returns the block of an operand that every step of the grid needs as a whole."""
    return pl.BlockSpec(x.shape, lambda *_: (0,) * x.ndim)


def dot(a: Array, b: Array, over: tuple = ROWS, *, wide: DTypeLike) -> Array:
    """Multiplies matrices whose products are summed in `wide`."""
    return lax.dot_general(a, b, (over, ((), ())), preferred_element_type=wide)


def normalized(x: Float[Array, "m n"], *, axis: int, epsilon: float) -> Float[Array, "m n"]:
    """LayerNorm without scale and bias, which `affine_first` puts into the layer that follows."""
    y = x - jnp.mean(x, axis, keepdims=True)
    variance = jnp.mean(jnp.square(y), axis, keepdims=True)
    return y * lax.rsqrt(variance + np.asarray(epsilon, x.dtype))


def affine_first(
    norm: tuple[Array, Array], linear: tuple[Array, Array], *, wide: DTypeLike
) -> tuple[Float[Array, "c o"], Float[Array, " o"]]:
    """Returns the linear layer that does the scale and bias of a LayerNorm as well."""
    (scale, shift), (kernel, bias) = ((x.astype(wide) for x in pair) for pair in (norm, linear))
    shifted = jnp.matmul(shift, kernel, precision=lax.Precision.HIGHEST)
    return scale.reshape(-1, 1) * kernel, bias + shifted


def power(n: int, *, least: int = 1) -> int:
    """Returns the next power of two from n: Triton's arrays have no other sides."""
    return max(least, 1 << (n - 1).bit_length())


def gelu(x: Array, dtype: DTypeLike, reciprocal: Callable) -> Array:
    """Returns max(x, 0) - abs(x)·erfc(abs(x)/√2)/2, as exactly as `dtype` needs; no kernel has erf.

    `reciprocal(x, approx=…)` is 1 / x. On a TPU the exponential costs the vector unit nothing.
    """
    if x.dtype.itemsize > 4:  # interpreted
        return x * (0.5 + 0.5 * lax.erf(x * 0.5**0.5))
    half = jnp.dtype(dtype).itemsize < 4
    slope, (*others, factor) = ERFC_HALF if half else ERFC_FLOAT
    size = jnp.abs(x)
    t = reciprocal(1 + np.float32(slope * 0.5**0.5) * size, approx=half)
    tail = np.float32(factor / 2)
    for other in reversed(others):
        tail = tail * t + np.float32(other / 2)
    return jnp.maximum(x, 0) - size * t * tail * jnp.exp2(x * x * np.float32(-0.5 * np.log2(np.e)))
