"""Linear layers: a matrix product over the channels."""

import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from segformer_jax.ops.cast import cast
from segformer_jax.ops.dispatch import Form, operation

NARROW = 64  # channels: below this, 16-bit products are not faster on a CPU


def _dot(
    x: Float[Array, "*batch i"], kernel: Float[Array, "i o"], *, dtype: DTypeLike
) -> Float[Array, "*batch o"]:
    """Multiplies the last axis of x by a matrix, in `dtype`; the result has the type of x."""
    return _product(x.astype(dtype), kernel.astype(dtype), x.dtype)


def _product(x, kernel, result):
    over = (((x.ndim - 1,), (0,)), ((), ()))
    return lax.dot_general(x, kernel, over, preferred_element_type=result)


def _on_cpu(x, kernel, *, dtype):
    dtype = _type_on_cpu(x, kernel, dtype)
    return _product(cast(x, dtype), kernel.astype(dtype), x.dtype)


def _type_on_cpu(x, kernel, dtype):
    """Returns the type of a product; narrow ones of float32 values stay in float32."""
    return x.dtype if x.dtype != dtype and min(kernel.shape) < NARROW else dtype


def _tangent_on_cpu(primals, tangents, *, dtype):
    (x, kernel), (dx, dkernel) = primals, tangents
    by_x = _dot(dx, kernel, dtype=_type_on_cpu(dx, kernel, dtype))
    return by_x + _by_kernel(x, dkernel, dtype)


def _by_kernel(x, dkernel, dtype):
    """Returns x @ dkernel; its transpose is a 2-D matmul xᵀ·dy that reorders the narrower operand.

    In both operands the summed rows are the outer axis, so one must be transposed in memory. XLA
    transposes the left one, and computes what was fused into it once more, in that slow order.
    """
    inputs, outputs = dkernel.shape
    rows, dkernel = x.reshape(-1, inputs).astype(dtype), dkernel.astype(dtype)
    over = (((1,), (0,)), ((), ()))
    if outputs < inputs:  # the barrier keeps XLA from swapping the operands back
        dkernel, over = lax.optimization_barrier(dkernel.T), (((1,), (1,)), ((), ()))
    y = lax.dot_general(rows, dkernel, over, preferred_element_type=x.dtype)
    return y.reshape(*x.shape[:-1], outputs)


dot = operation(_dot, cpu=Form(_on_cpu, _tangent_on_cpu))


def rounded(kernel: Float[Array, "*_ i o"], *, dtype: DTypeLike) -> Float[Array, "*_ i o"]:
    """Casts a kernel to `dtype`, as its products do; narrow ones stay, as some forms keep them."""
    *window, inputs, outputs = kernel.shape
    rows = inputs * (window[0] if window else 1)  # a convolution may multiply row by row
    return kernel if min(rows, outputs) < NARROW else kernel.astype(dtype)


def _linear(
    x: Float[Array, "*batch i"],
    kernel: Float[Array, "i o"],
    bias: Float[Array, " o"] | None,
    *,
    dtype: DTypeLike,
) -> Float[Array, "*batch o"]:
    """Applies an affine map to the last axis."""
    y = dot(x, kernel, dtype=jnp.dtype(dtype))
    return y if bias is None else y + along_channels(bias, x)


linear = operation(_linear)


def along_channels(values: Array, x: Array) -> Array:
    """Returns one value per channel, in the type and rank of x."""
    return values.astype(x.dtype).reshape((1,) * (x.ndim - 1) + (-1,))
