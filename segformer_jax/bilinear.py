"""Bilinear resizing by torch's rule: the neighbours of each cell, and the value between them.

Nothing here imports JAX, so that pictures are processed without it.
"""

from typing import Any

import numpy as np
from jaxtyping import Float, Int


def bilinear_neighbours(
    old: int, new: int, dtype=np.float32
) -> tuple[Int[np.ndarray, " new"], Int[np.ndarray, " new"], Float[np.ndarray, " new"]]:
    """For each of `new` cells the two of `old` it lies between, and the weight of the second.

    This is `align_corners=False` without antialiasing: centres are half a cell off, and what lies
    outside is clamped to the edge. Positions are computed in `dtype`, in float32 at least, in the
    order of operations of `torch.nn.functional.interpolate`.
    """
    number = np.promote_types(dtype, np.float32).type
    position = (np.arange(new, dtype=number) + number(0.5)) * (number(old) / number(new))
    return neighbours_at(np.maximum(position - number(0.5), 0), old, number)


def neighbours_at(
    position: Float[np.ndarray, " n"], old: int, dtype: Any
) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """The same for given positions, in cells from the centre of the first, none below 0."""
    low = np.minimum(position.astype(np.int32), old - 1)
    return low, np.minimum(low + 1, old - 1), (position - low).astype(dtype)


def between(below: Any, above: Any, weight: Any, *, axis: int) -> Any:
    """What lies between two neighbours, all NumPy's or JAX's, by the weights of the second.

    Args:
        below: the first neighbours, of any shape and of the type that comes out.
        above: the second ones.
        weight: one for each place along the axis.
        axis: which of the others' it is.
    """
    weight = weight.astype(below.dtype).reshape([-1 if i == axis else 1 for i in range(below.ndim)])
    return below + (above - below) * weight
