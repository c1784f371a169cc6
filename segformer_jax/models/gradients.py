"""How a training step differentiates: derivatives written for their transposes.

An operation's derivative is a linear map, and its gradient that map's transpose. JAX transposes
equation by equation, so how the map is written decides how the gradient is computed, and forward
differentiation works as ever. The maps here equal the plain ones of `ops.py`, where `defjvp` takes
them on CPUs alone; GELU and the norms are the same everywhere.
"""

import math
from collections.abc import Sequence
from functools import partial, reduce

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from segformer_jax.models.forms import at_least_float32
from segformer_jax.models.rows import row_sum

TAPS = [(i, j) for i in range(3) for j in range(3)]


def dot_by_kernel(
    x: Float[Array, "*batch i"], dkernel: Float[Array, "i o"], dtype: DTypeLike
) -> Float[Array, "*batch o"]:
    """X @ dkernel; the transpose is one 2-D matmul xᵀ·dy that reorders its narrower operand.

    Both operands lie with the summed rows outside, so one must be turned around in memory. XLA
    turns the left one, and computes what was fused into it once more, in that slow order.
    """
    inputs, outputs = dkernel.shape
    rows, dkernel = x.reshape(-1, inputs).astype(dtype), dkernel.astype(dtype)
    over = (((1,), (0,)), ((), ()))
    if outputs < inputs:  # the barrier keeps XLA from swapping the operands back
        dkernel, over = lax.optimization_barrier(dkernel.T), (((1,), (1,)), ((), ()))
    y = lax.dot_general(rows, dkernel, over, preferred_element_type=x.dtype)
    return y.reshape(*x.shape[:-1], outputs)


def depthwise_by_x(
    dx: Float[Array, "b h w c"], kernel: Float[Array, "3 3 1 c"]
) -> Float[Array, "b h w c"]:
    """The 3 × 3 depthwise convolution as nine products added up on a wider canvas.

    Transposed, it is nine shifted views of one padded picture, the fast way on a CPU.
    """
    _, h, w, _ = dx.shape
    zero = jnp.zeros((), dx.dtype)
    products = (
        lax.pad(
            dx * kernel[i, j].reshape(1, 1, 1, -1),
            zero,
            ((0, 0, 0), (2 - i, i, 0), (2 - j, j, 0), (0, 0, 0)),
        )
        for i, j in TAPS
    )
    canvas = reduce(jnp.add, products)
    return canvas[:, 1 : h + 1, 1 : w + 1]


def depthwise_by_kernel(
    x: Float[Array, "b h w c"], dkernel: Float[Array, "3 3 1 c"]
) -> Float[Array, "b h w c"]:
    """The same row by row; transposed, nine running sums that are made in one pass over x.

    `checkpoint` keeps x alone for the way back, not nine shifted copies of it.
    """
    b, h, w, c = x.shape
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))

    @jax.checkpoint
    def one_row(x, dkernel, row):
        start = (row // h, row % h, np.int32(0), np.int32(0))
        around = lax.dynamic_slice(x, start, (1, 3, w + 2, c))[0]
        return sum(around[i, j : j + w] * dkernel[i, j] for i, j in TAPS)

    rows = lax.map(lambda row: one_row(x, dkernel, row), np.arange(b * h, dtype=np.int32))
    return rows.reshape(b, h, w, c)


def sum_of_resized(
    maps: Sequence[Float[Array, "b _ _ c"]],
    matrices: Sequence[tuple[Float[np.ndarray, "h _"], Float[np.ndarray, "w _"]]],
) -> Float[Array, "b h w c"]:
    """Each map with its rows' and its columns' matrix applied, and all added up.

    The columns of every row are a matmul, then the rows of all maps a single one: the sum is
    written once, and its gradient read once. No transpose moves a large array in memory.
    """
    wide = []
    for x, (_, columns) in zip(maps, matrices, strict=True):
        b, h, w, c = x.shape
        wide.append(left_matmul(columns, x.reshape(b * h, w, c)).reshape(b, h, -1))
    rows = np.concatenate([rows for rows, _ in matrices], 1)
    y = left_matmul(rows, jnp.concatenate(wide, 1))
    return y.reshape(*y.shape[:2], -1, maps[0].shape[-1])


def left_matmul(
    matrix: Float[np.ndarray, "m k"], x: Float[Array, "batch k n"]
) -> Float[Array, "batch m n"]:
    """The matrix times each of a batch, as a batch of matmuls: one would move the batch inside."""
    matrices = jnp.broadcast_to(jnp.asarray(matrix, x.dtype), (x.shape[0], *matrix.shape))
    return lax.dot_general(
        matrices, x, (((2,), (1,)), ((0,), (0,))), precision=lax.Precision.HIGHEST
    )


def attention(
    q: Float[Array, "b n heads d"],
    k: Float[Array, "b k heads d"],
    v: Float[Array, "b k heads d"],
    *,
    dtype: DTypeLike,
) -> Float[Array, "b n heads d"]:
    """Softmax attention as two matmuls per head and picture, batched; the weights are kept."""
    b, _, heads, d = q.shape
    given, wide = v.dtype, at_least_float32(q.dtype)
    q = q * np.asarray(d**-0.5, q.dtype)
    q, k, v = (x.transpose(0, 2, 1, 3).reshape(b * heads, -1, d).astype(dtype) for x in (q, k, v))
    weights = jax.nn.softmax(jnp.einsum("gnd,gkd->gnk", q, k, preferred_element_type=wide))
    y = jnp.einsum("gnk,gkd->gnd", weights.astype(dtype), v, preferred_element_type=wide)
    return y.reshape(b, heads, -1, d).transpose(0, 2, 1, 3).astype(given)


@jax.custom_jvp
def gelu(x: Array) -> Array:
    """x·Φ(x), exact, by erf as in torch."""
    return x * _normal_cdf(x)


@gelu.defjvp
def _gelu_jvp(primals, tangents):
    (x,), (dx,) = primals, tangents
    cdf = _normal_cdf(x)
    density = jnp.exp(x * x * np.asarray(-0.5, x.dtype)) * np.asarray((2 * np.pi) ** -0.5, x.dtype)
    return x * cdf, dx * (cdf + x * density)


def _normal_cdf(x):
    half = np.asarray(0.5, x.dtype)
    return half + half * lax.erf(x * np.asarray(0.5**0.5, x.dtype))


@partial(jax.custom_jvp, nondiff_argnums=(1, 2, 3))
def normalize(x: Array, axes: tuple[int, ...], epsilon: float, by_slices: bool = False) -> Array:
    """X less its mean over the axes, by its standard deviation: the exact two-pass variance.

    `by_slices` sums the last axis in the way that is fast on a CPU.
    """
    y, scale = _centred_and_scale(x, axes, epsilon, by_slices)
    return y * scale


@normalize.defjvp
def _normalize_jvp(axes, epsilon, by_slices, primals, tangents):
    """Of a normalised y, dy = (dx - mean(dx) - y·mean(y·dx)) / deviation, its own transpose."""
    (x,), (dx,) = primals, tangents
    y, scale = _centred_and_scale(x, axes, epsilon, by_slices)
    y = y * scale
    dx = dx * scale
    return y, dx - dx.mean(axes, keepdims=True) - y * (y * dx).mean(axes, keepdims=True)


def _centred_and_scale(x, axes, epsilon, by_slices):
    total = row_sum if by_slices else partial(jnp.sum, axis=axes, keepdims=True)
    count = np.asarray(math.prod(x.shape[axis] for axis in axes), x.dtype)
    y = x - total(x) / count
    return y, lax.rsqrt(total(jnp.square(y)) / count + epsilon)
