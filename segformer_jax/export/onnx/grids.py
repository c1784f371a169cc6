"""Rounds values and kernels to 8 bits, for files that compute in 8 bits.

A value becomes one of 256 numbers, (i - zero) · scale: its *grid*, which is chosen from samples of
the value. A kernel becomes int8 with one scale per output channel.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int8

from segformer_jax.ops.activation import ACTIVATIONS

LARGEST = 127  # of an int8 weight: the range is symmetric
PAIR = 128  # largest sum of two neighbouring weights: 255 · 128 fits into 16 bits
SHARES = np.linspace(1, 0.2, 33)  # of the measured range, tried as the range of a grid

# Layers and values that stay float32: rounding them costs more pixels or more time than 8 bits
# save, by `python -m benchmarks.int8 --layers`.
FLOAT = re.compile(r"stages\.0\.patch_embeddings\..*|decode_head\..*|.*\.product\..*")


def is_taken(name: str) -> bool:
    """Whether a layer's kernel or a value becomes 8 bits, by its name."""
    return FLOAT.fullmatch(name) is None


@dataclass(frozen=True)
class Grid:
    """The numbers (i - zero) · scale that a value is rounded to.

    Attributes:
        scale: distance of two neighbours.
        zero: the i whose number is 0.
        dtype: of i, "uint8" or "int8".
    """

    scale: float
    zero: int
    dtype: str

    def rounded(self, x: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
        """Returns each number's nearest in the grid."""
        limits = np.iinfo(self.dtype)
        whole = np.rint(x / np.float32(self.scale)) + np.float32(self.zero)
        return (np.clip(whole, limits.min, limits.max) - self.zero) * np.float32(self.scale)


@dataclass(frozen=True)
class Measured:
    """A value of a graph whose grid has to be chosen.

    Attributes:
        value: its name in the graph.
        then: the activation that follows it, if any.
    """

    value: str
    then: str | None


@dataclass(frozen=True)
class EightBits:
    """What becomes 8 bits in a file, and how.

    Attributes:
        grids: the grid of each value, by its name in the graph; a value without one is left in
            float32, to be measured.
        takes: whether a layer's kernel or a value becomes 8 bits, by its name.
    """

    grids: Mapping[str, Grid] = field(default_factory=dict)
    takes: Callable[[str], bool] = is_taken


def best_grid(sample: Float[np.ndarray, " n"], *, symmetric: bool, then: str | None = None) -> Grid:
    """Returns the grid with the least squared error, of ranges that cut off outliers or do not.

    Args:
        sample: numbers that the value had.
        symmetric: int8 with zero = 0, else uint8 with a zero that fits the sample.
        then: an activation of the configuration; its result's error is then measured.
    """

    def result(x: np.ndarray) -> np.ndarray:
        return np.asarray(ACTIVATIONS[then](jnp.asarray(x))) if then else x

    def error(grid: Grid) -> float:
        return float(np.mean((result(grid.rounded(sample)) - wanted) ** 2))

    wanted = result(sample)
    low, high = min(float(sample.min()), 0), max(float(sample.max()), 0)
    return min((_grid(low * share, high * share, symmetric) for share in SHARES), key=error)


def _grid(low: float, high: float, symmetric: bool) -> Grid:
    if symmetric:
        return Grid(float(max(high, -low)) / LARGEST or 1.0, 0, "int8")
    scale = float(high - low) / 255 or 1.0
    return Grid(scale, round(-low / scale), "uint8")


def rounded_kernel(
    kernel: Float[np.ndarray, "*space i o"],
) -> tuple[Int8[np.ndarray, "*space i o"], Float[np.ndarray, " o"]]:
    """Returns a kernel as int8 and the scale of each output channel.

    The scale is so large that no weight is above 127, and that two neighbouring weights of the same
    sign never sum to more than 128. CPUs without instructions for 8-bit dot products, such as those
    with AVX2 alone, multiply two neighbours by values of up to 255 and add them in 16 bits, which
    would overflow otherwise.
    """
    kernel = np.asarray(kernel, np.float64)
    above = np.abs(kernel).max(tuple(range(kernel.ndim - 1))) / LARGEST
    scale = np.maximum(above, _largest_pair(kernel) / (PAIR - 1))  # 1 for the rounding of both
    scale[scale == 0] = 1
    whole = np.rint(kernel / scale).astype(np.int8)
    return whole, scale.astype(np.float32)


def _largest_pair(kernel: Float[np.ndarray, "*space i o"]) -> Float[np.ndarray, " o"]:
    """Returns the largest sum of two neighbouring inputs' weights of one sign, by output."""
    inputs, outputs = kernel.shape[-2:]
    pairs = kernel.reshape(-1, inputs, outputs)[:, : inputs // 2 * 2]
    pairs = pairs.reshape(-1, 2, outputs)
    sums = [np.clip(sign * pairs, 0, None).sum(1) for sign in (1, -1)]
    return np.max(sums, axis=(0, 1), initial=0)
