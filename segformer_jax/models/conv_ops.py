"""The convolutions: strided ones and the depthwise one of the Mix-FFN."""

from collections.abc import Callable
from functools import partial, reduce

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from segformer_jax.models import gradients
from segformer_jax.models.forms import at_least_float32, choose, current_form
from segformer_jax.models.ops import along_channels, dot


def conv(
    x: Float[Array, "b h w i"],
    kernel: Float[Array, "k k i o"],
    bias: Float[Array, " o"],
    *,
    stride: int,
    padding: int,
    dtype: DTypeLike,
) -> Float[Array, "b h2 w2 o"]:
    """A strided convolution with `padding` zeros on every side, and torch's rounding down."""
    return _conv(x, kernel, bias, stride, padding, jnp.dtype(dtype), current_form())


@partial(jax.jit, static_argnums=(3, 4, 5, 6))
def _conv(x, kernel, bias, stride, padding, dtype, form):
    y = _convolved(x, kernel, stride, padding, dtype, form)
    return y + along_channels(bias, y)


@partial(jax.custom_jvp, nondiff_argnums=(2, 3, 4, 5))
def _convolved(x, kernel, stride, padding, dtype, form):
    if kernel.shape[0] == stride and not padding:
        return _conv_of_patches(x, kernel, dtype, form)
    halves = jnp.dtype(dtype).itemsize < 4 and kernel.shape[0] <= 3
    on_cpu = _conv_of_taps if halves else _lax_conv  # XLA's convolution there knows float32 alone
    on_tpu = _matmul_conv(x.shape[-1], kernel.shape[0], stride)
    cpu, default, tpu = (
        partial(function, stride=stride, padding=padding, dtype=dtype, form=form)
        for function in (on_cpu, _lax_conv, on_tpu)
    )
    return choose(form, cpu, default, x, kernel, tpu=tpu)


@_convolved.defjvp
def _convolved_jvp(stride, padding, dtype, form, primals, tangents):
    """On CPU as matmuls: XLA's convolution is fast forwards there, and slow transposed."""
    (x, kernel), (dx, dkernel) = primals, tangents
    if kernel.shape[0] == stride and not padding:
        linear = partial(_conv_of_patches, dtype=dtype, form=form)
    else:
        options = dict(stride=stride, padding=padding, dtype=dtype, form=form)
        by_matmul = _matmul_conv(x.shape[-1], kernel.shape[0], stride)
        linear = partial(choose, form, partial(by_matmul, **options), partial(_lax_conv, **options))
    y = _convolved(x, kernel, stride, padding, dtype, form)
    return y, linear(dx, kernel) + linear(x, dkernel)


def _lax_conv(x, kernel, *, stride, padding, dtype, form):
    return lax.conv_general_dilated(
        x.astype(dtype),
        kernel.astype(dtype),
        (stride, stride),
        ((padding, padding), (padding, padding)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        preferred_element_type=x.dtype,
    )


def _conv_of_patches(x, kernel, dtype, form):
    """Kernel and stride agree: matmuls of the patches' rows, which lie whole in memory."""
    b, h, w, c = x.shape
    k, _, _, out = kernel.shape
    h, w = h // k, w // k  # leftovers at the end drop
    x = x[:, : h * k, : w * k].reshape(b, h, k, w, k * c)
    kernels = kernel.reshape(k, k * c, out)
    return reduce(jnp.add, (dot(x[:, :, i], kernels[i], dtype, form) for i in range(k)))


def _matmul_conv(channels: int, size: int, stride: int) -> Callable:
    """Few taps as one matmul, a wide kernel over few channels folded."""
    if size <= 3:
        return _conv_of_taps
    return _conv_of_cells if size <= 2 * stride and channels < 16 else _lax_conv


def _conv_of_taps(x, kernel, *, stride, padding, dtype, form):
    """The k·k strided views of the picture side by side, and one matmul."""
    _, h, w, c = x.shape
    k, _, _, out = kernel.shape
    h, w = ((side + 2 * padding - k) // stride + 1 for side in (h, w))
    x = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    taps = [
        x[:, i : i + (h - 1) * stride + 1 : stride, j : j + (w - 1) * stride + 1 : stride]
        for i in range(k)
        for j in range(k)
    ]
    return dot(jnp.concatenate(taps, -1), kernel.reshape(k * k * c, out), dtype, form)


def _conv_of_cells(x, kernel, *, stride, padding, dtype, form):
    """Stride × stride pixels become the channels of a cell; then 2 × 2 cells, one matmul."""
    b, h, w, c = x.shape
    k, _, _, out = kernel.shape
    h, w = ((side + 2 * padding - k) // stride + 1 for side in (h, w))
    after = [
        (side + 1) * stride - padding - old for side, old in zip((h, w), x.shape[1:3], strict=True)
    ]
    x = lax.pad(  # negative: rows and columns that no kernel reaches
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
    return dot(jnp.concatenate(cells, -1), kernel, dtype, form)


def depthwise_conv(
    x: Float[Array, "b h w c"], kernel: Float[Array, "3 3 1 c"], bias: Float[Array, " c"]
) -> Float[Array, "b h w c"]:
    """A 3 × 3 convolution of each channel by itself, padded with one zero on every side."""
    return _depthwise_conv(x, kernel, bias, current_form())


@partial(jax.jit, static_argnums=3)
def _depthwise_conv(x, kernel, bias, form):
    y = _depthwise(x, kernel.astype(x.dtype), form)
    return y + along_channels(bias, y)


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def _depthwise(x, kernel, form):
    return choose(form, _depthwise_shifts, _depthwise_lax, x, kernel, tpu=_depthwise_wide_shifts)


@_depthwise.defjvp
def _depthwise_jvp(form, primals, tangents):
    (x, kernel), (dx, dkernel) = primals, tangents
    by_x = choose(form, gradients.depthwise_by_x, _depthwise_lax, dx, kernel)
    by_kernel = choose(form, gradients.depthwise_by_kernel, _depthwise_lax, x, dkernel)
    return _depthwise(x, kernel, form), by_x + by_kernel


def _depthwise_shifts(x, kernel):
    _, h, w, _ = x.shape
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return _shifted_sum(x, kernel, h, w)


def _depthwise_wide_shifts(x, kernel):
    """In float32, which is all that a TPU's vector unit knows: halves would be cast at each tap."""
    wide = at_least_float32(x.dtype)
    return _depthwise_shifts(x.astype(wide), kernel.astype(wide)).astype(x.dtype)


def _shifted_sum(x, kernel, h, w):
    weights = (kernel[i, j].reshape(1, 1, 1, -1) for i, j in gradients.TAPS)
    shifted = (x[:, i : i + h, j : j + w] for i, j in gradients.TAPS)
    return reduce(jnp.add, map(jnp.multiply, shifted, weights))


def _depthwise_lax(x, kernel):
    return lax.conv_general_dilated(
        x,
        kernel,
        (1, 1),
        ((1, 1), (1, 1)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )
