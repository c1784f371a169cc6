"""Bilinear resizing by torch's rule: the neighbours of each cell, and the value between them.

Nothing here imports JAX, so that pictures are processed without it.
"""

from typing import Any

import numpy as np
from jaxtyping import Float, Int


def bilinear_neighbours(
    old: int, new: int, dtype=np.float32
) -> tuple[Int[np.ndarray, " new"], Int[np.ndarray, " new"], Float[np.ndarray, " new"]]:
    """Returns, for each of `new` cells, its two neighbours of `old`, and the weight of the second.

    This is `align_corners=False` without antialiasing: centres are offset by half a cell, and
    positions outside are clamped to the edge. Positions are computed in `dtype`, but at least in
    float32, in the order of operations of `torch.nn.functional.interpolate`.
    """
    number = np.promote_types(dtype, np.float32).type
    position = (np.arange(new, dtype=number) + number(0.5)) * (number(old) / number(new))
    return neighbours_at(np.maximum(position - number(0.5), 0), old, number)


def neighbours_at(
    position: Float[np.ndarray, " n"], old: int, dtype: Any
) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Returns the same for given positions ≥ 0, in cells from the centre of the first cell."""
    low = np.minimum(position.astype(np.int32), old - 1)
    return low, np.minimum(low + 1, old - 1), (position - low).astype(dtype)


def between(below: Any, above: Any, weight: Any, *, axis: int) -> Any:
    """Interpolates between two neighbours, all arrays of NumPy or of JAX.

    Args:
        below: the first neighbours, of any shape; the result has their type.
        above: the second neighbours.
        weight: the weight of the second neighbour for each place along `axis`.
        axis: the axis of `below` and `above` that the weights are for.
    """
    weight = weight.astype(below.dtype).reshape([-1 if i == axis else 1 for i in range(below.ndim)])
    return below + (above - below) * weight
