"""Bilinear resizing with torch's rule."""

from collections.abc import Sequence
from functools import partial, reduce
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from segformer_jax.bilinear import between, bilinear_neighbours
from segformer_jax.ops.dispatch import Form, is_known, operation


def resize_bilinear(
    x: Float[Array, "b h w c"], *, size: tuple[Any, ...]
) -> Float[Array, "b h2 w2 c"]:
    """Torch's `interpolate(mode="bilinear", align_corners=False)`: never antialiased."""
    return x if x.shape[1:3] == tuple(size) else _resized(x, size=tuple(size))


def _by_gathers(x: Float[Array, "b h w c"], *, size: tuple[Any, ...]) -> Float[Array, "b h2 w2 c"]:
    """Between two rows, then between two columns."""
    for axis, new in zip((1, 2), size, strict=True):
        old = x.shape[axis]
        rule = bilinear_neighbours if is_known(old, new) else open_neighbours
        x = lerp(x, rule(old, new, x.dtype), axis)
    return x


def lerp(x: Float[Array, "*grid"], neighbours: Sequence, axis: int) -> Float[Array, "*resized"]:
    """Rows or columns between those of x: `bilinear_neighbours` says which, and how far."""
    low, high, weight = neighbours
    below, above = (jnp.take(x, i, axis, mode="clip") for i in (low, high))
    return between(below, above, weight, axis=axis)


def _by_matmuls(x, *, size):
    if is_known(*x.shape[1:3], *size):
        rows, columns = resize_matrices(x, size)
    else:
        rows, columns = map(partial(_open_matrix, dtype=x.dtype), x.shape[1:3], size)
    precision = None if x.dtype.itemsize < 4 else lax.Precision.HIGHEST
    x = jnp.einsum("Hh,bhwc->bHwc", rows, x, precision=precision)
    return jnp.einsum("Ww,bhwc->bhWc", columns, x, precision=precision)


def _tangent(primals, tangents, *, size):
    """The map is linear; as matmuls its transpose is two matmuls, as gathers a slow scatter."""
    return _by_matmuls(*tangents, size=size)


def _tangent_on_cpu(primals, tangents, *, size):
    (dx,) = tangents
    return _sum_of_resized([dx], size)


_resized = operation(
    _by_gathers,
    cpu=Form(_by_gathers, _tangent_on_cpu),
    gpu=Form(_by_gathers, _tangent),
    tpu=Form(_by_matmuls, _tangent),
)


def _add_resized(
    first: Float[Array, "b h w c"], others: Sequence[Float[Array, "b _ _ c"]]
) -> Float[Array, "b h w c"]:
    """The first and all others at its size, added up."""
    size = first.shape[1:3]
    return reduce(jnp.add, (first, *(resize_bilinear(x, size=size) for x in others)))


def _jvp_on_cpu(primals, tangents):
    """In a training step all are one matmul on a CPU, and so is the way back."""
    return _add_resized_at_once(*primals), _add_resized_at_once(*tangents)


def _add_resized_at_once(first, others):
    return first + _sum_of_resized(others, first.shape[1:3]) if others else first


def _sum_of_resized(maps, size):
    """Each map with its rows' and its columns' matrix applied, and all added up.

    The columns of every row are a matmul, then the rows of all maps a single one: the sum is
    written once, and its gradient read once. No transpose moves a large array in memory.
    """
    matrices = [resize_matrices(x, size) for x in maps]
    wide = []
    for x, (_, columns) in zip(maps, matrices, strict=True):
        b, h, w, c = x.shape
        wide.append(left_matmul(columns, x.reshape(b * h, w, c)).reshape(b, h, -1))
    rows = np.concatenate([rows for rows, _ in matrices], 1)
    y = left_matmul(rows, jnp.concatenate(wide, 1))
    return y.reshape(*y.shape[:2], -1, maps[0].shape[-1])


add_resized = operation(_add_resized, cpu=Form(_add_resized, jvp=_jvp_on_cpu))


def left_matmul(
    matrix: Float[np.ndarray, "m k"], x: Float[Array, "batch k n"]
) -> Float[Array, "batch m n"]:
    """The matrix times each of a batch, as a batch of matmuls: one would move the batch inside."""
    matrices = jnp.broadcast_to(jnp.asarray(matrix, x.dtype), (x.shape[0], *matrix.shape))
    return lax.dot_general(
        matrices, x, (((2,), (1,)), ((0,), (0,))), precision=lax.Precision.HIGHEST
    )


def resize_matrices(
    x: Float[Array, "*batch h w c"], size: tuple[int, ...]
) -> tuple[Float[np.ndarray, "h2 h"], Float[np.ndarray, "w2 w"]]:
    """What rows and columns are multiplied by to resize x."""
    rows, columns = (_matrix(*sides, x.dtype) for sides in zip(x.shape[-3:-1], size, strict=True))
    return rows, columns


def _matrix(old: int, new: int, dtype) -> np.ndarray:
    low, high, weight = bilinear_neighbours(old, new, dtype)
    matrix = np.zeros((new, old), weight.dtype)
    np.add.at(matrix, (np.arange(new), low), 1 - weight)
    np.add.at(matrix, (np.arange(new), high), weight)
    return matrix.astype(dtype)


def open_neighbours(
    old: Any, new: Any, dtype: DTypeLike
) -> tuple[Int[Array, " new"], Int[Array, " new"], Float[Array, " new"]]:
    """As `bilinear_neighbours`, of sizes that are symbols, known when an exported program runs.

    The second cell may be one past the last, weighing 0.
    """
    position = _open_positions(old, new, dtype)
    low = position.astype(jnp.int32)
    return low, low + 1, position - low.astype(position.dtype)


def _open_matrix(old: Any, new: Any, dtype: DTypeLike) -> Float[Array, "new old"]:
    position = _open_positions(old, new, dtype)
    distance = jnp.abs(position[:, None] - jnp.arange(old, dtype=position.dtype)[None])
    return jnp.maximum(1 - distance, 0).astype(dtype)


def _open_positions(old: Any, new: Any, dtype: DTypeLike) -> Float[Array, " new"]:
    """Where the new cells' centres lie among the old ones, in torch's order of operations."""
    wide = np.promote_types(jnp.dtype(dtype), np.float32)
    half = np.asarray(0.5, wide)
    ratio = jnp.asarray(old, wide) / jnp.asarray(new, wide)
    position = (jnp.arange(new, dtype=wide) + half) * ratio - half
    return position.clip(0, jnp.asarray(old - 1, wide))
