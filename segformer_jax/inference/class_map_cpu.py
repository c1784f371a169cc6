"""Computes class maps on CPUs, with vectors over source columns and only the classes that can win.

The space between two source columns is a *cell*. In it, bilinear values depend only on the values
at the cell's ends and on the weight. So the pixels of a row are grouped by rank: the first pixel of
every cell, then the second pixel of every cell, and so on. A rank needs no gathers, its vectors are
as wide as the logits, and the program is the same for every picture size; the host puts the pixels
in their places.

Which classes can win follows from convexity. Inside a cell, the value of a class is at most its
largest corner. The winner's value is at least the *floor*: the largest, over all classes, of a
class's smallest corner. A class whose corners are below the floor of every cell between two source
rows is left out there. On a photo a few of 150 classes remain, on noise all. The result differs
from the full computation only by rounding, where two classes are nearly equal.
"""

from collections.abc import Iterator
from functools import lru_cache, partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, UInt

from segformer_jax.bilinear import bilinear_neighbours
from segformer_jax.inference.best_class import index_type

ROWS, RANKS = 64, 16  # of a strip: rows of the picture, and pixels per cell
VECTOR = 8  # floats; the number of lanes is a multiple of it
FEW = (12, 24, 48)  # numbers of classes to compare: the smallest that is enough, otherwise all


def class_map_on_cpu(
    logits: Float[Array, "1 h w labels"], size: tuple[int, int]
) -> UInt[np.ndarray, "H W"]:
    """Returns the best class of each pixel of a picture of `size`; needs at least two labels.

    Of equal classes it is the first. The type is uint8, or uint16 above 255 classes. An infinite
    logit counts as ±1e30; where one is NaN, the result is an arbitrary class.
    """
    if len(logits.devices()) == 1:  # a sharding of another type would be compiled for anew
        logits = jax.device_put(logits, *logits.devices())
    *_, place = _ranks(logits.shape[2], size[1])
    strips = list(strips_on_cpu(logits, size))  # all are started before the first is awaited
    whole = np.empty(size, strips[0][0].dtype)
    for start, parts in zip(range(0, size[0], ROWS), strips, strict=True):
        own = whole[start : start + ROWS]
        ranks = np.concatenate([np.asarray(part)[: len(own)] for part in parts], axis=1)
        np.take(ranks.reshape(len(own), -1), place, axis=1, out=own, mode="clip")
    return whole


def strips_on_cpu(
    logits: Float[Array, "1 h w labels"], size: tuple[int, int]
) -> Iterator[list[UInt[Array, "rows ranks lanes"]]]:
    """Yields strip after strip of rows, still on the device: the classes of all ranks, in parts."""
    height, width = size
    _, h, w, labels = logits.shape
    weights, count, _ = _ranks(w, width)
    few = tuple(number for number in FEW if 2 * number < labels)
    grid, live = _grid_and_live(logits)
    classes = np.argsort(~np.asarray(live), axis=1, kind="stable").astype(index_type(labels))
    choice = np.searchsorted(few, np.asarray(live).sum(1)).astype(np.int32)
    rows = bilinear_neighbours(h, height)
    for start in range(0, height, ROWS):
        low, high, weight = (padded(a[start : start + ROWS], ROWS) for a in rows)
        yield [
            _strip(
                grid,
                (low, high, weight, classes[low], choice[low]),
                np.int32(min(ROWS, height - start)),
                weights[first : first + RANKS],
                np.int32(min(RANKS, count - first)),
                few,
            )
            for first in range(0, count, RANKS)
        ]


@lru_cache(maxsize=16)
def _ranks(
    w: int, width: int
) -> tuple[Float[np.ndarray, "ranks lanes"], int, Int[np.ndarray, " width"]]:
    """Returns the weights of each rank in each cell, the number of ranks, and each pixel's place.

    Cell i lies between source columns i - 1 and i. Both ends of the first cell are the first
    column, and both ends of the last cell the last column; these two cells hold the pixels beyond
    the outermost columns' centres.
    """
    low, _, weight = bilinear_neighbours(w, width)
    cell = np.where((low == 0) & (weight == 0), 0, low + 1)
    weight = np.where((cell == 0) | (cell == w), 0, weight)  # these pixels share a rank
    pixels, pixel = np.unique(cell + weight.astype(np.float64), return_inverse=True)
    cell = pixels.astype(np.int64)
    rank = np.arange(len(cell)) - np.searchsorted(cell, cell)
    count = int(rank.max()) + 1
    weights = np.zeros((-(-count // RANKS) * RANKS, _lanes(w)), np.float32)
    weights[rank, cell] = pixels - cell
    return weights, count, (rank * _lanes(w) + cell)[pixel]


def _lanes(w: int) -> int:
    return -(-(w + 1) // VECTOR) * VECTOR


def padded(values: np.ndarray, length: int) -> np.ndarray:
    """Pads values, one per row or column, by repeating the last one up to a compiled length."""
    return np.pad(values, (0, length - len(values)), mode="edge")


@jax.jit
def _grid_and_live(logits):
    """Returns `_grid` and `_live`, computed in one program, because each takes time to compile."""
    grid = _grid(logits)
    return grid, _live(grid)


def _grid(logits):
    """Returns (h, labels, lanes + 1), with edges repeated; all finite, because ∞ - ∞ is NaN."""
    x = logits[0].astype(jnp.float32).clip(-1e30, 1e30).transpose(0, 2, 1)
    w = x.shape[-1]
    return jnp.pad(x, ((0, 0), (0, 0), (1, _lanes(w) - w)), mode="edge")


def _live(grid):
    """Returns (h, labels): whether a class can win anywhere between a source row and the next."""

    def between(upper, lower):
        least = jnp.minimum(upper, lower)
        floor = jnp.minimum(least[:, 1:], least[:, :-1]).max(0)
        lowest = jnp.minimum(floor, jnp.append(floor[1:], floor[-1]))  # of a column's two cells
        wins = ~(jnp.maximum(upper, lower)[:, 1:] < lowest[None])  # with a NaN, all win
        return wins.reshape(len(wins), -1, VECTOR).any(1).any(1)  # the first any is vectorised

    return lax.map(
        lambda i: between(grid[i], grid[jnp.minimum(i + 1, len(grid) - 1)]), jnp.arange(len(grid))
    )


@partial(jax.jit, static_argnames="few")
def _strip(grid, rows, row_count, weights, rank_count, few):
    """Returns classes (ROWS, RANKS, lanes) of the first `row_count` rows, `rank_count` ranks."""
    _, labels, columns = grid.shape
    low, high, down, classes, choice = rows

    def with_classes(number, row, best):
        own = jnp.arange(labels, dtype=classes.dtype)
        upper, lower = grid[low[row]], grid[high[row]]
        if number < labels:
            own = classes[row, :number]
            upper, lower = upper[own], lower[own]
        x = upper + (lower - upper) * down[row]

        def with_rank(rank, best):
            values = x[:, :-1] + (x[:, 1:] - x[:, :-1]) * weights[rank][None]
            loses = values < values.max(0)[None]  # unlike argmax, both steps are vectorised
            first = jnp.where(loses, own.dtype.type(labels - 1), own[:, None]).min(0)
            start = (row, rank, jnp.zeros_like(row))  # a plain 0 has 64 bits under jax_enable_x64
            return lax.dynamic_update_slice(best, first[None, None], start)

        return lax.fori_loop(0, rank_count, with_rank, best)

    def with_row(row, best):
        forms = [partial(with_classes, number) for number in (*few, labels)]
        return lax.switch(choice[row], forms, row, best)

    best = jnp.zeros((ROWS, RANKS, columns - 1), classes.dtype)
    return lax.fori_loop(0, row_count, with_row, best)
