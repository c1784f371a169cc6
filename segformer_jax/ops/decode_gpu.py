"""The decoder from its projected maps to the logits as one Pallas kernel for GPUs, through Triton.

Never run on a GPU. A program computes the logits of some cells, a part of the decoder's channels at
a time: its wide map at 1/4 of the picture, of 256 or 768 channels, never goes through memory.
"""

from collections.abc import Sequence
from functools import partial

import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from segformer_jax.bilinear import bilinear_neighbours
from segformer_jax.ops.dispatch import at_least_float32, is_known
from segformer_jax.ops.kernels import dot, like, power, whole

LABELS = 512  # at most: the logits of a program's cells are in its registers
CELLS = 16_384  # labels × cells of a program
PARTS = (64, 32, 16)  # channels of the decoder that a program computes at once


def fits(shape: tuple, deeper: Sequence[tuple], width: int, labels: int) -> bool:
    """Whether the kernel takes maps of these shapes: known sizes, a width of whole parts."""
    known = is_known(*shape, *(size for each in deeper for size in each))
    return known and labels <= LABELS and width % PARTS[-1] == 0


def classified(
    x: Float[Array, "b h w c"],
    deeper: Sequence[Float[Array, "b _ _ d"]],
    kernel: Float[Array, "c d"],
    bias: Float[Array, " d"],
    classifier: tuple[Float[Array, "d labels"], Float[Array, " labels"]],
    *,
    dtype: DTypeLike,
    interpret: bool,
) -> Float[Array, "b h w labels"]:
    """Returns classifier(relu(x K + Σ up(y_i) + bias)), with float32 between the products."""
    (b, h, w, c), wide, labels = x.shape, at_least_float32(x.dtype), classifier[1].shape[0]
    n, side, width = h * w, power(c, least=16), power(labels, least=16)
    count = max(16, min(128, CELLS // width))
    layers = [
        jnp.pad(kernel.astype(dtype), ((0, side - c), (0, 0))),
        bias.astype(wide),
        jnp.pad(classifier[0].astype(dtype), ((0, 0), (0, width - labels))),
        jnp.pad(classifier[1].astype(wide), (0, width - labels)),
    ]
    neighbours = [
        tuple(
            jnp.asarray(each)
            for old, new in zip(y.shape[1:3], (h, w), strict=True)
            for each in bilinear_neighbours(old, new, wide)
        )
        for y in deeper
    ]
    maps = [y.reshape(b, -1, y.shape[3]) for y in deeper]
    of_picture = [pl.BlockSpec((None, *y.shape[1:]), lambda i, j: (i, 0, 0)) for y in maps]
    y = pl.pallas_call(
        partial(_kernel, size=(h, w), widths=tuple(y.shape[2] for y in deeper)),
        like(x, b, n, labels),
        grid=(b, pl.cdiv(n, count)),
        in_specs=[
            pl.BlockSpec((None, count, c), lambda i, j: (i, j, 0)),
            of_picture,
            [tuple(map(whole, each)) for each in neighbours],
            *map(whole, layers),
        ],
        out_specs=pl.BlockSpec((None, count, labels), lambda i, j: (i, j, 0)),
        compiler_params=plgpu.CompilerParams(num_warps=8, num_stages=2),
        interpret=interpret,
        name="decode",
    )(x.astype(dtype).reshape(b, n, c), maps, neighbours, *layers)
    return y.reshape(b, h, w, labels)


def _kernel(x, maps, neighbours, kernel, bias, classifier, labels_bias, y, *, size, widths):
    (cells, c), (side, d), labels = x.shape, kernel.shape, y.shape[1]
    wide, dtype, (h, w) = bias.dtype, kernel.dtype, size
    part = next(size for size in PARTS if d % size == 0)
    channels, outputs = pl.ds(0, side), pl.ds(0, classifier.shape[1])
    cell = pl.program_id(1) * cells + jnp.arange(cells)
    there = cell < h * w
    row, column = jnp.where(there, cell // w, 0), cell % w
    mask = there[:, None] & (jnp.arange(side) < c)[None]
    own = plgpu.load(x.at[:, channels], mask=mask, other=0)

    def resized(values, tables, width, some):
        """Interpolates between the columns of two rows, then between these."""
        top, bottom, between_rows = (table[row] for table in tables[:3])
        left, right, between_columns = (table[column] for table in tables[3:])
        found = []
        for line in (top, bottom):
            first = values[line * width + left, some].astype(wide)
            second = values[line * width + right, some].astype(wide)
            found.append(first + (second - first) * between_columns[:, None])
        return found[0] + (found[1] - found[0]) * between_rows[:, None]

    def some_channels(i, logits):
        some = pl.ds(i * part, part)
        total = dot(own, kernel[:, some], wide=wide) + bias[some][None]
        for values, tables, width in zip(maps, neighbours, widths, strict=True):
            total = total + resized(values, tables, width, some)
        active = jnp.maximum(total, 0).astype(dtype)
        return logits + dot(active, classifier[some, :], wide=wide)

    start = jnp.broadcast_to(labels_bias[:][None], (cells, classifier.shape[1]))
    logits = lax.fori_loop(0, d // part, some_channels, start)
    real = (jnp.arange(classifier.shape[1]) < labels)[None]
    plgpu.store(y.at[:, outputs], logits.astype(y.dtype), mask=there[:, None] & real)
