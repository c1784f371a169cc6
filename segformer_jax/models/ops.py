"""The few array operations of SegFormer: one meaning each, and a fast form for each platform.

Every operation casts its matrix operands to `dtype` and gives back the type of `x`, so that
bfloat16 on a CPU means bfloat16 products in a float32 stream, which is what CPUs are fast at.
Each is jitted, so that layers of equal shape are traced and lowered once, and eager calls are
fused. `forms.py` chooses among the forms.
"""

from collections.abc import Callable, Sequence
from functools import partial, reduce

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from segformer_jax.bilinear import bilinear_neighbours
from segformer_jax.models import gradients
from segformer_jax.models.forms import at_least_float32, choose, current_form

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": gradients.gelu,
    "gelu_new": partial(jax.nn.gelu, approximate=True),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
}

NARROW = 64  # channels: below this a CPU gains nothing by multiplying halves

# --- dense layers


def linear(
    x: Float[Array, "*batch i"],
    kernel: Float[Array, "i o"],
    bias: Float[Array, " o"] | None,
    *,
    dtype: DTypeLike,
) -> Float[Array, "*batch o"]:
    """The affine map of the last axis."""
    return _linear(x, kernel, bias, jnp.dtype(dtype), current_form())


@partial(jax.jit, static_argnums=(3, 4))
def _linear(x, kernel, bias, dtype, form):  # the form is what the derivative is chosen by
    y = _dot(x, kernel, dtype, form)
    return y if bias is None else y + along_channels(bias, x)


def along_channels(values: Array, x: Array) -> Array:
    """One value per channel, in the type and rank of x."""
    return values.astype(x.dtype).reshape((1,) * (x.ndim - 1) + (-1,))


@partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def _dot(x: Array, kernel: Array, dtype: DTypeLike, form: str | None) -> Array:
    if x.dtype != dtype and min(kernel.shape) < NARROW:  # halves in a float32 stream, on CPU
        dtype = x.dtype
    return lax.dot_general(
        x.astype(dtype),
        kernel.astype(dtype),
        (((x.ndim - 1,), (0,)), ((), ())),
        preferred_element_type=x.dtype,
    )


@_dot.defjvp
def _dot_jvp(dtype, form, primals, tangents):
    (x, kernel), (dx, dkernel) = primals, tangents
    on_cpu = partial(gradients.dot_by_kernel, dtype=dtype)
    by_kernel = choose(form, on_cpu, lambda *o: _dot(*o, dtype, form), x, dkernel)
    return _dot(x, kernel, dtype, form), _dot(dx, kernel, dtype, form) + by_kernel


def layer_norm(
    x: Float[Array, "*batch c"],
    scale: Float[Array, " c"],
    bias: Float[Array, " c"],
    *,
    epsilon: float,
) -> Float[Array, "*batch c"]:
    """Normalises the last axis, in float32 or wider, with the exact two-pass variance."""
    return _layer_norm(x, scale, bias, epsilon, current_form())


@partial(jax.jit, static_argnums=(3, 4))
def _layer_norm(x, scale, bias, epsilon, form):
    y = choose(
        form,
        lambda y: gradients.normalize(y, (x.ndim - 1,), epsilon, True),
        lambda y: gradients.normalize(y, (x.ndim - 1,), epsilon, False),
        x.astype(at_least_float32(x.dtype)),
    )
    return (y * along_channels(scale, y) + along_channels(bias, y)).astype(x.dtype)


# --- convolutions


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
    return reduce(jnp.add, (_dot(x[:, :, i], kernels[i], dtype, form) for i in range(k)))


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
    return _dot(jnp.concatenate(taps, -1), kernel.reshape(k * k * c, out), dtype, form)


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
    return _dot(jnp.concatenate(cells, -1), kernel, dtype, form)


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


# --- resizing


def resize_bilinear(x: Float[Array, "b h w c"], size: tuple[int, ...]) -> Float[Array, "b h2 w2 c"]:
    """Torch's `interpolate(mode="bilinear", align_corners=False)`: never antialiased."""
    if x.shape[1:3] == tuple(size):
        return x
    return _resize_bilinear(x, tuple(size), current_form())


@partial(jax.custom_jvp, nondiff_argnums=(1, 2))
@partial(jax.jit, static_argnums=(1, 2))
def _resize_bilinear(x, size, form):
    by_gathers, by_matmuls = (
        partial(resize, size=size) for resize in (_resize_by_gathers, _resize_by_matmuls)
    )
    return choose(form, by_gathers, by_matmuls, x)


@_resize_bilinear.defjvp
def _resize_bilinear_jvp(size, form, primals, tangents):
    """The map is linear; as matmuls its transpose is two matmuls, as gathers a slow scatter."""
    (x,), (dx,) = primals, tangents
    by_matmuls = partial(_resize_by_matmuls, size=size)
    on_cpu = partial(_resize_on_cpu, size=size)
    return _resize_bilinear(x, size, form), choose(form, on_cpu, by_matmuls, dx)


def add_resized(
    first: Float[Array, "b h w c"], others: Sequence[Float[Array, "b _ _ c"]]
) -> Float[Array, "b h w c"]:
    """The first and all others at its size, added up."""
    return _add_resized(first, tuple(others), current_form())


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def _add_resized(first, others, form):
    return _add_each_resized(first, *others)


@_add_resized.defjvp
def _add_resized_jvp(form, primals, tangents):
    """In a training step all are one matmul on a CPU, and so is the way back."""
    (x, others), (dx, dothers) = primals, tangents
    add = partial(choose, form, _add_resized_at_once, _add_each_resized)
    return add(x, *others), add(dx, *dothers)


def _add_each_resized(first, *others):
    size = first.shape[1:3]
    return reduce(jnp.add, (first, *(resize_bilinear(x, size) for x in others)))


def _add_resized_at_once(first, *others):
    if not others:
        return first
    matrices = [resize_matrices(x, first.shape[1:3]) for x in others]
    return first + gradients.sum_of_resized(others, matrices)


def _resize_by_gathers(x, *, size):
    for axis, new in zip((1, 2), size, strict=True):
        x = lerp(x, bilinear_neighbours(x.shape[axis], new, x.dtype), axis)
    return x


def lerp(x: Float[Array, "b _ _ c"], neighbours: Sequence, axis: int) -> Float[Array, "b _ _ c"]:
    """Rows or columns between those of x: `bilinear_neighbours` says which, and how far."""
    low, high, weight = neighbours
    weight = weight.astype(x.dtype).reshape([-1 if i == axis else 1 for i in range(4)])
    below, above = (jnp.take(x, i, axis, mode="clip") for i in (low, high))
    return below + (above - below) * weight


def _resize_by_matmuls(x, *, size):
    rows, columns = resize_matrices(x, size)
    precision = None if x.dtype.itemsize < 4 else lax.Precision.HIGHEST
    x = jnp.einsum("Hh,bhwc->bHwc", rows, x, precision=precision)
    return jnp.einsum("Ww,bhwc->bhWc", columns, x, precision=precision)


def _resize_on_cpu(x, *, size):
    return gradients.sum_of_resized([x], [resize_matrices(x, size)])


def resize_matrices(
    x: Float[Array, "b h w c"], size: tuple[int, ...]
) -> tuple[Float[np.ndarray, "h2 h"], Float[np.ndarray, "w2 w"]]:
    """What rows and columns are multiplied by to resize x."""
    rows, columns = (
        _resize_matrix(*sides, x.dtype) for sides in zip(x.shape[1:3], size, strict=True)
    )
    return rows, columns


def _resize_matrix(old: int, new: int, dtype) -> np.ndarray:
    low, high, weight = bilinear_neighbours(old, new, dtype)
    matrix = np.zeros((new, old), weight.dtype)
    np.add.at(matrix, (np.arange(new), low), 1 - weight)
    np.add.at(matrix, (np.arange(new), high), weight)
    return matrix.astype(dtype)
