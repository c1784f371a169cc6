"""Bilinear resizing, as torch does it."""

from collections.abc import Sequence
from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from segformer_jax.bilinear import bilinear_neighbours
from segformer_jax.models import gradients, open_sizes
from segformer_jax.models.forms import choose, current_form, is_known


def resize_bilinear(x: Float[Array, "b h w c"], size: tuple[Any, ...]) -> Float[Array, "b h2 w2 c"]:
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
    return choose(form, by_gathers, by_gathers, x, tpu=by_matmuls)


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
        old = x.shape[axis]
        rule = bilinear_neighbours if is_known(old, new) else open_sizes.neighbours
        x = lerp(x, rule(old, new, x.dtype), axis)
    return x


def lerp(x: Float[Array, "b _ _ c"], neighbours: Sequence, axis: int) -> Float[Array, "b _ _ c"]:
    """Rows or columns between those of x: `bilinear_neighbours` says which, and how far."""
    low, high, weight = neighbours
    weight = weight.astype(x.dtype).reshape([-1 if i == axis else 1 for i in range(4)])
    below, above = (jnp.take(x, i, axis, mode="clip") for i in (low, high))
    return below + (above - below) * weight


def _resize_by_matmuls(x, *, size):
    if is_known(*x.shape[1:3], *size):
        rows, columns = resize_matrices(x, size)
    else:
        rows, columns = map(partial(open_sizes.matrix, dtype=x.dtype), x.shape[1:3], size)
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
