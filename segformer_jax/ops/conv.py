"""The strided convolutions: patch embeddings, and the reduction of keys and values."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from segformer_jax.ops.dense import along_channels, dot
from segformer_jax.ops.dispatch import Form, batch_is_local, operation


def _convolved(
    x: Float[Array, "b h w i"],
    kernel: Float[Array, "k k i o"],
    *,
    stride: int,
    padding: int,
    dtype: DTypeLike,
) -> Float[Array, "b h2 w2 o"]:
    """Calls XLA's convolution with operands in `dtype`; the result has the type of x."""
    return lax.conv_general_dilated(
        x.astype(dtype),
        kernel.astype(dtype),
        (stride, stride),
        ((padding, padding), (padding, padding)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        preferred_element_type=x.dtype,
    )


def _on_cpu(x, kernel, *, stride, padding, dtype):
    """Uses 16-bit matmuls for small kernels only: XLA's CPU convolution computes in float32."""
    way = _by_taps if jnp.dtype(dtype).itemsize < 4 and kernel.shape[0] <= 3 else _unrounded
    return _patches_or(way)(x, kernel, stride=stride, padding=padding, dtype=dtype)


def _unrounded(x, kernel, *, dtype, **options):
    return _convolved(x, kernel, dtype=np.promote_types(jnp.dtype(dtype), x.dtype), **options)


def _on_tpu(x, kernel, *, stride, padding, dtype):
    way = _by_matmuls(x.shape[-1], kernel.shape[0], stride)
    return _patches_or(way)(x, kernel, stride=stride, padding=padding, dtype=dtype)


def _tangent_on_cpu(primals, tangents, *, stride, **options):
    """Uses matmuls: on a CPU, XLA's convolution is fast, but its transpose is slow."""
    (x, kernel), (dx, dkernel) = primals, tangents
    way = _patches_or(_by_matmuls(x.shape[-1], kernel.shape[0], stride))
    way = partial(way, stride=stride, **options)
    return way(dx, kernel) + _by_kernel(way, x, dkernel)


def _by_kernel(way, x, dkernel):
    """Computes way(x, dkernel), if it may, picture by picture, whose patches stay in the cache.

    `checkpoint` keeps only x for the backward pass, not its patches.
    """
    if not batch_is_local(len(x)):
        return way(x, dkernel)
    of_picture = jax.checkpoint(lambda x, dkernel: way(x[None], dkernel)[0])
    return lax.map(lambda x: of_picture(x, dkernel), x)


def _tangent(way, primals, tangents, **options):
    (x, kernel), (dx, dkernel) = primals, tangents
    way = partial(_patches_or(way), **options)
    return way(dx, kernel) + way(x, dkernel)


def _patches_or(way: Callable) -> Callable:
    """Returns `way`, except that `_by_patches` is used if the kernel size equals the stride.

    Each row of such a patch is contiguous in memory.
    """

    def convolve(x, kernel, *, stride, padding, dtype):
        if kernel.shape[0] == stride and not padding:
            return _by_patches(x, kernel, dtype=dtype)
        return way(x, kernel, stride=stride, padding=padding, dtype=dtype)

    return convolve


def _by_patches(x, kernel, *, dtype):
    """Copies each patch together, and computes one matmul."""
    b, h, w, c = x.shape
    k, _, _, out = kernel.shape
    h, w = h // k, w // k  # incomplete patches at the end are dropped
    x = x[:, : h * k, : w * k].reshape(b, h, k, w, k * c).transpose(0, 1, 3, 2, 4)
    return dot(x.reshape(b, h, w, k * k * c), kernel.reshape(k * k * c, out), dtype=dtype)


def _by_matmuls(channels: int, size: int, stride: int) -> Callable:
    """Selects `_by_taps` for small kernels, `_by_cells` for wide ones of few channels, or XLA's."""
    if size <= 3:
        return _by_taps
    return _by_cells if size <= 2 * stride and channels < 16 else _convolved


def _by_taps(x, kernel, *, stride, padding, dtype):
    """Concatenates the k·k strided views of the picture, and computes one matmul."""
    _, h, w, c = x.shape
    k, _, _, out = kernel.shape
    h, w = ((side + 2 * padding - k) // stride + 1 for side in (h, w))
    x = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    taps = [
        x[:, i : i + (h - 1) * stride + 1 : stride, j : j + (w - 1) * stride + 1 : stride]
        for i in range(k)
        for j in range(k)
    ]
    return dot(jnp.concatenate(taps, -1), kernel.reshape(k * k * c, out), dtype=dtype)


def _by_cells(x, kernel, *, stride, padding, dtype):
    """Makes stride × stride pixels the channels of a cell; one matmul then takes 2 × 2 cells."""
    b, h, w, c = x.shape
    k, _, _, out = kernel.shape
    h, w = ((side + 2 * padding - k) // stride + 1 for side in (h, w))
    after = [
        (side + 1) * stride - padding - old for side, old in zip((h, w), x.shape[1:3], strict=True)
    ]
    x = lax.pad(  # negative padding removes rows and columns that no kernel reaches
        x,
        jnp.zeros((), x.dtype),
        ((0, 0, 0), (padding, after[0], 0), (padding, after[1], 0), (0, 0, 0)),
    )
    x = x.reshape(b, h + 1, stride, w + 1, stride, c).transpose(0, 1, 3, 2, 4, 5)
    x = x.reshape(b, h + 1, w + 1, stride * stride * c)
    kernel = jnp.pad(kernel, ((0, 2 * stride - k), (0, 2 * stride - k), (0, 0), (0, 0)))
    kernel = kernel.reshape(2, stride, 2, stride, c, out).transpose(0, 2, 1, 3, 4, 5)
    kernel = kernel.reshape(4 * stride * stride * c, out)
    cells = [x[:, i : i + h, j : j + w] for i in (0, 1) for j in (0, 1)]
    return dot(jnp.concatenate(cells, -1), kernel, dtype=dtype)


_tangent_elsewhere = partial(_tangent, _convolved)
convolved = operation(
    _convolved,
    cpu=Form(_on_cpu, _tangent_on_cpu),
    gpu=Form(_patches_or(_convolved), _tangent_elsewhere),
    tpu=Form(_on_tpu, _tangent_elsewhere),
)


def _conv(
    x: Float[Array, "b h w i"],
    kernel: Float[Array, "k k i o"],
    bias: Float[Array, " o"],
    *,
    stride: int,
    padding: int,
    dtype: DTypeLike,
) -> Float[Array, "b h2 w2 o"]:
    """Computes a strided convolution with `padding` zeros per side; sizes round down as torch's."""
    y = convolved(x, kernel, stride=stride, padding=padding, dtype=dtype)
    return y + along_channels(bias, y)


conv = operation(_conv)
