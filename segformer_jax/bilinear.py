"""The cells and weights of a bilinear resize, by torch's rule, in NumPy."""

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
    position = np.maximum(position - number(0.5), 0)
    low = np.minimum(position.astype(np.int32), old - 1)
    return low, np.minimum(low + 1, old - 1), (position - low).astype(number)
