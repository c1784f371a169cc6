"""Linear maps written for their transposes: what a training step on a CPU runs backwards.

An operation's derivative is a linear map, and its gradient that map's transpose. JAX transposes
equation by equation, so how the map is written decides how the gradient is computed. The maps here
equal the plain ones of `ops.py` and are taken by its `defjvp`s on CPUs alone.
"""

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float


def dot_by_kernel(
    x: Float[Array, "*batch i"], dkernel: Float[Array, "i o"], dtype: DTypeLike
) -> Float[Array, "*batch o"]:
    """x @ dkernel; the transpose is one 2-D matmul xᵀ·dy that reorders its narrower operand.

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


def resize_by_matrices(
    x: Float[Array, "b h w c"],
    rows: Float[np.ndarray, "h2 h"],
    columns: Float[np.ndarray, "w2 w"],
) -> Float[Array, "b h2 w2 c"]:
    """rows and columns applied to their axes; no transpose moves a large array in memory.

    Each row of cells, then each picture, is a matmul of its own.
    """
    b, h, w, c = x.shape
    (new_h, _), (new_w, _) = rows.shape, columns.shape
    x = left_matmul(columns, x.reshape(b * h, w, c))
    return left_matmul(rows, x.reshape(b, h, new_w * c)).reshape(b, new_h, new_w, c)


def left_matmul(
    matrix: Float[np.ndarray, "m k"], x: Float[Array, "batch k n"]
) -> Float[Array, "batch m n"]:
    """The matrix times each of a batch, as a batch of matmuls: one would move the batch inside."""
    matrices = jnp.broadcast_to(jnp.asarray(matrix, x.dtype), (x.shape[0], *matrix.shape))
    return lax.dot_general(
        matrices, x, (((2,), (1,)), ((0,), (0,))), precision=lax.Precision.HIGHEST
    )
