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
    """Resizes as torch's `interpolate(mode="bilinear", align_corners=False)`: not antialiased."""
    return x if x.shape[1:3] == tuple(size) else resized(x, size=tuple(size))


def _by_gathers(x: Float[Array, "b h w c"], *, size: tuple[Any, ...]) -> Float[Array, "b h2 w2 c"]:
    """Interpolates between two rows, then between two columns."""
    for axis, new in zip((1, 2), size, strict=True):
        old = x.shape[axis]
        rule = bilinear_neighbours if is_known(old, new) else open_neighbours
        x = lerp(x, rule(old, new, x.dtype), axis)
    return x


def lerp(x: Float[Array, "*grid"], neighbours: Sequence, axis: int) -> Float[Array, "*resized"]:
    """Interpolates along one axis of x, by the indices and weights of `bilinear_neighbours`."""
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
    """Applies the linear map by matmuls: the transpose of gathers would be a slow scatter."""
    return _by_matmuls(*tangents, size=size)


def _tangent_on_cpu(primals, tangents, *, size):
    (dx,) = tangents
    return _sum_of_resized([dx], size)


resized = operation(
    _by_gathers,
    cpu=Form(_by_gathers, _tangent_on_cpu),
    gpu=Form(_by_gathers, _tangent),
    tpu=Form(_by_matmuls, _tangent),
)


def _add_resized(
    first: Float[Array, "b h w c"], others: Sequence[Float[Array, "b _ _ c"]]
) -> Float[Array, "b h w c"]:
    """Adds up the first map and all others, resized to its size."""
    size = first.shape[1:3]
    return reduce(jnp.add, (first, *(resize_bilinear(x, size=size) for x in others)))


def _jvp_on_cpu(primals, tangents):
    """Adds up all maps by one matmul, in training's forward and in its backward pass."""
    return _add_resized_at_once(*primals), _add_resized_at_once(*tangents)


def _add_resized_at_once(first, others):
    return first + _sum_of_resized(others, first.shape[1:3]) if others else first


def _sum_of_resized(maps, size):
    """Resizes each map by the matrices of its rows and columns, and adds up the results.

    The columns of each map are resized by a matmul, then the rows of all maps by a single one: the
    sum is written once, and its gradient read once. No large array is transposed in memory.
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
    """Multiplies each array of a batch by the matrix from the left, as a batch of matmuls.

    A single matmul would put the batch axis behind the rows, as (m, batch, n).
    """
    matrices = jnp.broadcast_to(jnp.asarray(matrix, x.dtype), (x.shape[0], *matrix.shape))
    return lax.dot_general(
        matrices, x, (((2,), (1,)), ((0,), (0,))), precision=lax.Precision.HIGHEST
    )


def resize_matrices(
    x: Float[Array, "*batch h w c"], size: tuple[int, ...]
) -> tuple[Float[np.ndarray, "h2 h"], Float[np.ndarray, "w2 w"]]:
    """Returns the matrices that the rows and the columns of x are multiplied by to resize it."""
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
    """Returns `bilinear_neighbours` of symbolic sizes, known when an exported program runs.

    The second cell may be one past the last; its weight is then 0.
    """
    position = _open_positions(old, new, dtype)
    low = position.astype(jnp.int32)
    return low, low + 1, position - low.astype(position.dtype)


def _open_matrix(old: Any, new: Any, dtype: DTypeLike) -> Float[Array, "new old"]:
    position = _open_positions(old, new, dtype)
    distance = jnp.abs(position[:, None] - jnp.arange(old, dtype=position.dtype)[None])
    return jnp.maximum(1 - distance, 0).astype(dtype)


def _open_positions(old: Any, new: Any, dtype: DTypeLike) -> Float[Array, " new"]:
    """Returns the positions of the new cells' centres in old cells, computed in torch's order."""
    wide = np.promote_types(jnp.dtype(dtype), np.float32)
    half = np.asarray(0.5, wide)
    ratio = jnp.asarray(old, wide) / jnp.asarray(new, wide)
    position = (jnp.arange(new, dtype=wide) + half) * ratio - half
    return position.clip(0, jnp.asarray(old - 1, wide))
