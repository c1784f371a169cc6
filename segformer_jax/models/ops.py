"""The few array operations of SegFormer: one meaning each, and a fast form for each platform.

Every operation casts its matrix operands to `dtype` and gives back the type of `x`, so that
bfloat16 on a CPU means bfloat16 products in a float32 stream, which is what CPUs are fast at.
Each is jitted, so that layers of equal shape are traced and lowered once, and eager calls are
fused. The form is chosen when a program is lowered, by `jax.lax.platform_dependent`; inside
`single_form("cpu")` only the named platform's form is traced, for converters that read jaxprs.
"""

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from segformer_jax.bilinear import bilinear_neighbours

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": partial(jax.nn.gelu, approximate=False),
    "gelu_new": partial(jax.nn.gelu, approximate=True),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
}
SCORES_PER_CHUNK = 1 << 22  # attention scores computed at once per head on CPU: 16 MB of float32
SCORES_AT_ONCE = 1 << 28  # the same elsewhere, over all heads and pictures: 1 GB

_form: ContextVar[str | None] = ContextVar("form", default=None)


@contextlib.contextmanager
def single_form(platform: str) -> Iterator[None]:
    """Traces the form of one platform ("cpu", "cuda", "tpu") instead of a choice at lowering."""
    token = _form.set(platform)
    try:
        yield
    finally:
        _form.reset(token)


def _choose(form: str | None, cpu: Callable, default: Callable, *operands: Array) -> Array:
    if form is None:
        return lax.platform_dependent(*operands, cpu=cpu, default=default)
    return (cpu if form == "cpu" else default)(*operands)


def at_least_float32(dtype: DTypeLike) -> np.dtype:
    """The type to reduce in: halves become float32, float64 stays."""
    return np.promote_types(jnp.dtype(dtype), np.float32)


def activation_dtype(dtype: DTypeLike) -> np.dtype:
    """The type of what flows between the matmuls when these compute in `dtype`.

    A CPU multiplies bfloat16 fastest into float32, and does all else faster in float32.
    """
    platform = _form.get() or jax.default_backend()
    return at_least_float32(dtype) if platform == "cpu" else jnp.dtype(dtype)


# --- dense layers


@partial(jax.jit, static_argnames="dtype")
def linear(
    x: Float[Array, "*batch i"],
    kernel: Float[Array, "i o"],
    bias: Float[Array, " o"] | None,
    *,
    dtype: DTypeLike,
) -> Float[Array, "*batch o"]:
    """The affine map of the last axis."""
    y = _dot(x, kernel, dtype)
    return y if bias is None else y + along_channels(bias, x)


def along_channels(values: Array, x: Array) -> Array:
    """One value per channel, in the type and rank of x."""
    return values.astype(x.dtype).reshape((1,) * (x.ndim - 1) + (-1,))


def _dot(x: Array, kernel: Array, dtype: DTypeLike) -> Array:
    return lax.dot_general(
        x.astype(dtype),
        kernel.astype(dtype),
        (((x.ndim - 1,), (0,)), ((), ())),
        preferred_element_type=x.dtype,
    )


@partial(jax.jit, static_argnames="epsilon")
def layer_norm(
    x: Float[Array, "*batch c"],
    scale: Float[Array, " c"],
    bias: Float[Array, " c"],
    *,
    epsilon: float,
) -> Float[Array, "*batch c"]:
    """Normalises the last axis, in float32 or wider, with the exact two-pass variance."""
    wide = at_least_float32(x.dtype)
    y = x.astype(wide)
    y = y - y.mean(-1, keepdims=True)
    y = y * lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + epsilon)
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
    return _conv(x, kernel, bias, stride, padding, jnp.dtype(dtype), _form.get())


@partial(jax.jit, static_argnums=(3, 4, 5, 6))
def _conv(x, kernel, bias, stride, padding, dtype, form):
    size = kernel.shape[0]
    if size == stride and not padding:
        y = _conv_of_patches(x, kernel, dtype)
    else:
        fast = _cpu_conv(x.shape[-1], size, stride)
        y = _choose(
            form,
            partial(fast, stride=stride, padding=padding, dtype=dtype),
            partial(_lax_conv, stride=stride, padding=padding, dtype=dtype),
            x,
            kernel,
        )
    return y + along_channels(bias, y)


def _lax_conv(x, kernel, *, stride, padding, dtype):
    return lax.conv_general_dilated(
        x.astype(dtype),
        kernel.astype(dtype),
        (stride, stride),
        ((padding, padding), (padding, padding)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        preferred_element_type=x.dtype,
    )


def _conv_of_patches(x, kernel, dtype):
    """Kernel and stride agree: every patch is one row of a matmul; leftovers at the end drop."""
    b, h, w, c = x.shape
    k, _, _, out = kernel.shape
    h, w = h // k, w // k
    x = x[:, : h * k, : w * k].reshape(b, h, k, w, k, c)
    x = x.transpose(0, 1, 3, 2, 4, 5).reshape(b, h, w, k * k * c)
    return _dot(x, kernel.reshape(k * k * c, out), dtype)


def _cpu_conv(channels: int, size: int, stride: int) -> Callable:
    """The fastest form on CPU: few taps as one matmul, a wide kernel over few channels folded."""
    if size <= 3:
        return _conv_of_taps
    return _conv_of_cells if size <= 2 * stride and channels < 16 else _lax_conv


def _conv_of_taps(x, kernel, *, stride, padding, dtype):
    """The k·k strided views of the picture side by side, and one matmul."""
    b, h, w, c = x.shape
    k, _, _, out = kernel.shape
    h, w = ((side + 2 * padding - k) // stride + 1 for side in (h, w))
    x = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    taps = [
        x[:, i : i + (h - 1) * stride + 1 : stride, j : j + (w - 1) * stride + 1 : stride]
        for i in range(k)
        for j in range(k)
    ]
    return _dot(jnp.concatenate(taps, -1), kernel.reshape(k * k * c, out), dtype)


def _conv_of_cells(x, kernel, *, stride, padding, dtype):
    """Stride × stride pixels become the channels of a cell; then 2 × 2 cells, four matmuls."""
    b, h, w, c = x.shape
    k, _, _, out = kernel.shape
    h, w = ((side + 2 * padding - k) // stride + 1 for side in (h, w))
    after = [(side + 1) * stride - padding - old for side, old in zip((h, w), x.shape[1:3])]
    x = lax.pad(  # negative: rows and columns that no kernel reaches
        x,
        jnp.zeros((), x.dtype),
        ((0, 0, 0), (padding, after[0], 0), (padding, after[1], 0), (0, 0, 0)),
    )
    x = x.reshape(b, h + 1, stride, w + 1, stride, c).transpose(0, 1, 3, 2, 4, 5)
    x = x.reshape(b, h + 1, w + 1, stride * stride * c)
    kernel = jnp.pad(kernel, ((0, 2 * stride - k), (0, 2 * stride - k), (0, 0), (0, 0)))
    kernel = kernel.reshape(2, stride, 2, stride, c, out).transpose(0, 2, 1, 3, 4, 5)
    kernel = kernel.reshape(2, 2, stride * stride * c, out)
    return sum(
        _dot(x[:, i : i + h, j : j + w], kernel[i, j], dtype) for i in (0, 1) for j in (0, 1)
    )


def depthwise_conv(
    x: Float[Array, "b h w c"], kernel: Float[Array, "3 3 1 c"], bias: Float[Array, " c"]
) -> Float[Array, "b h w c"]:
    """A 3 × 3 convolution of each channel by itself, padded with one zero on every side."""
    return _depthwise_conv(x, kernel, bias, _form.get())


@partial(jax.jit, static_argnums=3)
def _depthwise_conv(x, kernel, bias, form):
    y = _depthwise(x, kernel.astype(x.dtype), form)
    return y + along_channels(bias, y)


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def _depthwise(x, kernel, form):
    return _choose(form, _depthwise_shifts, _depthwise_lax, x, kernel)


@_depthwise.defjvp
def _depthwise_jvp(form, primals, tangents):
    (x, kernel), (dx, dkernel) = primals, tangents
    by_kernel = _choose(form, _depthwise_rows, _depthwise_lax, x, dkernel)
    return _depthwise(x, kernel, form), _depthwise(dx, kernel, form) + by_kernel


def _depthwise_shifts(x, kernel):
    _, h, w, _ = x.shape
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return _shifted_sum(x, kernel, h, w)


def _depthwise_rows(x, kernel):
    """Row by row, so that the kernel's gradient is nine running sums made in one pass over x."""
    _, h, w, _ = x.shape
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))

    def one_row(_, row):
        return None, _shifted_sum(lax.dynamic_slice_in_dim(x, row, 3, 1), kernel, 1, w)[:, 0]

    _, rows = lax.scan(one_row, None, np.arange(h))
    return jnp.moveaxis(rows, 0, 1)


def _shifted_sum(x, kernel, h, w):
    return sum(
        x[:, i : i + h, j : j + w] * kernel[i, j].reshape(1, 1, 1, -1)
        for i in range(3)
        for j in range(3)
    )


def _depthwise_lax(x, kernel):
    return lax.conv_general_dilated(
        x,
        kernel,
        (1, 1),
        ((1, 1), (1, 1)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )


# --- attention


def attention(
    q: Float[Array, "b n heads d"],
    k: Float[Array, "b k heads d"],
    v: Float[Array, "b k heads d"],
    *,
    dtype: DTypeLike,
) -> Float[Array, "b n heads d"]:
    """Softmax attention, scaled by d^-0.5; the softmax is taken in float32 or wider."""
    return _attention(q, k, v, jnp.dtype(dtype), _form.get(), _cudnn_fits(q, dtype))


@partial(jax.jit, static_argnums=(3, 4, 5))
def _attention(q, k, v, dtype, form, cudnn):
    if cudnn:
        q, k, v = (x.astype(dtype) for x in (q, k, v))
        return jax.nn.dot_product_attention(q, k, v, implementation="cudnn")
    by_chunks = partial(_attention_by_chunks, dtype=dtype)
    b, n, heads, _ = q.shape
    whole = by_chunks if b * n * heads * k.shape[1] > SCORES_AT_ONCE else _whole(dtype)
    return _choose(form, by_chunks, whole, q, k, v)


def _whole(dtype):
    def attend(q, k, v):
        weights, total = _exponentials(q, k, dtype)
        y = jnp.einsum(
            "bhnk,bkhd->bnhd",
            weights.astype(dtype),
            v.astype(dtype),
            preferred_element_type=weights.dtype,
        )
        return (y / total.transpose(0, 2, 1, 3)).astype(v.dtype)

    return attend


def _attention_by_chunks(q, k, v, *, dtype):
    """One head and one run of queries after another: plain 2-D matmuls, bounded memory."""
    b, n, heads, d = q.shape
    size = min(n, max(1, SCORES_PER_CHUNK // k.shape[1]))
    chunks = -(-n // size)
    size = -(-n // chunks)
    q = jnp.pad(q.transpose(0, 2, 1, 3), ((0, 0), (0, 0), (0, chunks * size - n), (0, 0)))
    q = q.reshape(b * heads * chunks, 1, size, 1, d)
    k, v = (x.transpose(0, 2, 1, 3).reshape(b * heads, 1, -1, 1, d) for x in (k, v))

    def attend(chunk):
        queries, head = chunk
        weights, total = _exponentials(queries, k[head], dtype)
        y = lax.dot(
            weights[0, 0].astype(dtype),
            v[head][0, :, 0].astype(dtype),
            preferred_element_type=weights.dtype,
        )
        return (y / total[0, 0]).astype(v.dtype)

    y = lax.map(attend, (q, np.arange(b * heads * chunks) // chunks))
    return y.reshape(b, heads, chunks * size, d)[:, :, :n].transpose(0, 2, 1, 3)


def _exponentials(q, k, dtype):
    """exp(score - largest score) as (b, heads, n, k), and its sum over k."""
    wide = at_least_float32(q.dtype)
    q = q * np.asarray(q.shape[-1] ** -0.5, q.dtype)
    scores = jnp.einsum(
        "bnhd,bkhd->bhnk", q.astype(dtype), k.astype(dtype), preferred_element_type=wide
    )
    weights = jnp.exp(scores - lax.stop_gradient(scores.max(-1, keepdims=True)))
    return weights, weights.sum(-1, keepdims=True)


@partial(jax.jit, static_argnames="dtype")
def attention_weights(
    q: Float[Array, "b n heads d"], k: Float[Array, "b k heads d"], *, dtype: DTypeLike
) -> Float[Array, "b heads n k"]:
    """What each query takes of each key; rows sum to 1."""
    weights, total = _exponentials(q, k, dtype)
    return (weights / total).astype(q.dtype)


def _cudnn_fits(q: Array, dtype: DTypeLike) -> bool:
    """Whether cuDNN's fused attention can be traced: it raises anywhere but on its own GPUs."""
    if _form.get() is not None or jax.default_backend() != "gpu" or q.shape[-1] % 8:
        return False
    capability = getattr(jax.devices()[0], "compute_capability", "0")
    halves = (jnp.dtype(jnp.bfloat16), jnp.dtype(jnp.float16))
    return jnp.dtype(dtype) in halves and float(capability) >= 8 and q.shape[-1] <= 128


# --- resizing


def resize_bilinear(x: Float[Array, "b h w c"], size: tuple[int, int]) -> Float[Array, "b h2 w2 c"]:
    """torch's `interpolate(mode="bilinear", align_corners=False)`: never antialiased."""
    if x.shape[1:3] == tuple(size):
        return x
    return _resize_bilinear(x, tuple(size), _form.get())


@partial(jax.custom_jvp, nondiff_argnums=(1, 2))
@partial(jax.jit, static_argnums=(1, 2))
def _resize_bilinear(x, size, form):
    by_gathers, by_matmuls = (
        partial(resize, size=size) for resize in (_resize_by_gathers, _resize_by_matmuls)
    )
    return _choose(form, by_gathers, by_matmuls, x)


@_resize_bilinear.defjvp
def _resize_bilinear_jvp(size, form, primals, tangents):
    """The map is linear; as matmuls its transpose is two matmuls, as gathers a slow scatter."""
    (x,), (dx,) = primals, tangents
    return _resize_bilinear(x, size, form), _resize_by_matmuls(dx, size=size)


def _resize_by_gathers(x, *, size):
    for axis, new in zip((1, 2), size, strict=True):
        low, high, weight = bilinear_neighbours(x.shape[axis], new, x.dtype)
        weight = weight.astype(x.dtype).reshape([-1 if i == axis else 1 for i in range(4)])
        below, above = (jnp.take(x, i, axis, mode="clip") for i in (low, high))
        x = below + (above - below) * weight
    return x


def _resize_by_matmuls(x, *, size):
    rows, columns = (
        _resize_matrix(old, new, x.dtype) for old, new in zip(x.shape[1:3], size, strict=True)
    )
    precision = None if x.dtype.itemsize < 4 else lax.Precision.HIGHEST
    x = jnp.einsum("Hh,bhwc->bHwc", rows, x, precision=precision)
    return jnp.einsum("Ww,bhwc->bhWc", columns, x, precision=precision)


def _resize_matrix(old: int, new: int, dtype) -> np.ndarray:
    low, high, weight = bilinear_neighbours(old, new, dtype)
    matrix = np.zeros((new, old), weight.dtype)
    np.add.at(matrix, (np.arange(new), low), 1 - weight)
    np.add.at(matrix, (np.arange(new), high), weight)
    return matrix.astype(dtype)
