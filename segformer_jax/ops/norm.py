"""Normalisation: LayerNorm over the channels, BatchNorm over the batch."""

import math
from functools import partial

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from segformer_jax.ops.dense import along_channels
from segformer_jax.ops.dispatch import Form, at_least_float32, operation
from segformer_jax.ops.rows import row_sum


def _normalize(
    x: Float[Array, "..."], *, axes: tuple[int, ...], epsilon: float
) -> Float[Array, "..."]:
    """Centres x over `axes` and divides by the standard deviation (exact two-pass variance)."""
    y, scale = _centred_and_scale(x, axes, epsilon)
    return y * scale


def _jvp(primals, tangents, *, axes, epsilon):
    (x,), (dx,) = primals, tangents
    y, scale = _centred_and_scale(x, axes, epsilon)
    y = y * scale
    return y, _tangent(y, scale, dx, axes)


def _tangent(y, scale, dx, axes):
    """Returns (dx - mean(dx) - y·mean(y·dx)) / deviation, which is its own transpose."""
    dx = dx * scale
    return dx - dx.mean(axes, keepdims=True) - y * (y * dx).mean(axes, keepdims=True)


def _on_cpu(x, *, axes, epsilon):
    """Sums the last axis by slices."""
    y, scale = _centred_and_scale(x, axes, epsilon, _sum_on_cpu(x, axes))
    return y * scale


def _jvp_on_cpu(primals, tangents, *, axes, epsilon):
    """Derives LayerNorm as of a matrix of rows: XLA then keeps less for the backward pass."""
    (x,), (dx,) = primals, tangents
    y, scale = _centred_and_scale(x, axes, epsilon, _sum_on_cpu(x, axes))
    y = y * scale
    if axes != (x.ndim - 1,):
        return y, _tangent(y, scale, dx, axes)
    rows = (z.reshape(-1, z.shape[-1]) for z in (y, scale, dx))
    return y, _tangent(*rows, axes=(1,)).reshape(x.shape)


def _sum_on_cpu(x, axes):
    return row_sum if axes == (x.ndim - 1,) else None


def _centred_and_scale(x, axes, epsilon, total=None):
    total = total or partial(jnp.sum, axis=axes, keepdims=True)
    count = np.asarray(math.prod(x.shape[axis] for axis in axes), x.dtype)
    y = x - total(x) / count
    return y, lax.rsqrt(total(jnp.square(y)) / count + epsilon)


_elsewhere = Form(_normalize, jvp=_jvp)
normalize = operation(
    _normalize, cpu=Form(_on_cpu, jvp=_jvp_on_cpu), gpu=_elsewhere, tpu=_elsewhere
)


def _layer_norm(
    x: Float[Array, "*batch c"],
    scale: Float[Array, " c"],
    bias: Float[Array, " c"],
    *,
    epsilon: float,
) -> Float[Array, "*batch c"]:
    """Normalises the last axis, in float32 or wider, with the exact two-pass variance."""
    y = normalize(x.astype(at_least_float32(x.dtype)), axes=(x.ndim - 1,), epsilon=epsilon)
    return (y * along_channels(scale, y) + along_channels(bias, y)).astype(x.dtype)


layer_norm = operation(_layer_norm)


def inverse_deviation(var: Float[Array, "*shape"], *, epsilon: float) -> Float[Array, "*shape"]:
    """Returns the factor that gives centred values with variance `var` a variance of 1."""
    return lax.rsqrt(var + epsilon)


def moved_average(
    average: Float[Array, "*shape"], new: Float[Array, "*shape"], *, momentum: float
) -> Float[Array, "*shape"]:
    """Returns a running average moved by `momentum` towards a new value; no gradient flows."""
    new = lax.stop_gradient(new).astype(average.dtype)
    return (1 - momentum) * average + momentum * new
