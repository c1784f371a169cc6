"""The positions of windows, and the average of their logits, by mmsegmentation's rule.

The logits of each window are upsampled to the window's size, averaged where windows overlap, and
resized to the picture. All of this is linear and separable, so each side of the picture has a
table of the cells and weights that each pixel depends on. With these tables, any rows of the
result can be computed exactly without the others.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image

from segformer_jax.bilinear import bilinear_neighbours
from segformer_jax.images.picture import Picture, resized, size_of


@runtime_checkable
class Pixels(Protocol):
    """A picture of which any part can be read, whether it is in memory or not."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        ...

    def resized(self, size: tuple[int, int], resample: int) -> "Pixels":
        """Returns the picture resized to a height and width, by one of Pillow's filters."""
        ...

    def read(self, top: int, left: int, size: tuple[int, int]) -> UInt8[np.ndarray, "h w c"] | None:
        """Returns a part of height and width `size`; None if it has no data at all."""
        ...


@dataclass(frozen=True, eq=False)
class ImagePixels:
    """A picture in memory."""

    image: Picture

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return size_of(self.image)

    def resized(self, size: tuple[int, int], resample: int) -> "ImagePixels":
        """Returns the picture resized to a height and width, by one of Pillow's filters."""
        if size == self.size:
            return self
        if isinstance(self.image, Image.Image):
            return ImagePixels(self.image.resize(size[::-1], Image.Resampling(resample)))
        return ImagePixels(resized(self.image, size, resample))

    def read(self, top: int, left: int, size: tuple[int, int]) -> UInt8[np.ndarray, "h w c"]:
        """Returns a part of height and width `size`."""
        if isinstance(self.image, np.ndarray):
            return self.image[top : top + size[0], left : left + size[1]]
        return np.asarray(self.image.crop((left, top, left + size[1], top + size[0])))


def window_starts(side: int, *, size: int, stride: int) -> list[int]:
    """Returns the first pixel of each window along one side; the last ends where the side ends."""
    count = max(-(-(side - size) // stride), 0) + 1
    return [max(min(i * stride, side - size), 0) for i in range(count)]


@dataclass(frozen=True, eq=False)
class Axis:
    """The windows along one side of a picture, and the logits cells that each pixel depends on.

    Attributes:
        starts: the first pixel of each window, in the resized picture.
        size: pixels of a window along this side.
        cells: logits of a window along this side.
        index: (pixels, taps), the cells that each pixel depends on; those of window i are numbered
            from i · cells.
        weight: (pixels, taps), their weights, which sum to 1 for each pixel; 0 for unused taps.
    """

    starts: list[int]
    size: int
    cells: int
    index: Int[np.ndarray, "n taps"]
    weight: Float[np.ndarray, "n taps"]

    def windows(self, start: int, stop: int) -> range:
        """Returns the windows that the pixels from `start` to `stop` depend on."""
        used = self.index[start:stop][self.weight[start:stop] != 0] // self.cells
        return range(int(used.min()), int(used.max()) + 1)

    def part(self, start: int, stop: int) -> "Axis":
        """Returns the table of the pixels from `start` to `stop` alone, with only their windows."""
        own = self.windows(start, stop)
        index = np.clip(
            self.index[start:stop] - own.start * self.cells, 0, len(own) * self.cells - 1
        )
        weight = self.weight[start:stop]
        return Axis(self.starts[own.start : own.stop], self.size, self.cells, index, weight)

    def renumbered(self, resized: int) -> "Axis":
        """Returns the table of a flipped picture, with window positions in the unflipped picture.

        Windows are numbered from the other end, so that pixels from the top down need them in
        order.
        """
        window, cell = np.divmod(self.index, self.cells)
        last = len(self.starts) - 1
        starts = [resized - start - self.size for start in reversed(self.starts)]
        index = (last - window) * self.cells + cell
        return Axis(starts, self.size, self.cells, index, self.weight)

    def matrix(self, window: int, start: int, stop: int) -> Float[np.ndarray, "rows cells"]:
        """Returns one window's weights for the pixels `start` to `stop`; 0 beyond the side."""
        index, weight = self.index[start:stop], self.weight[start:stop]
        whole = np.zeros((stop - start, self.cells), np.float32)
        rows, taps = np.nonzero((index // self.cells == window) & (weight != 0))
        np.add.at(whole, (rows, index[rows, taps] % self.cells), weight[rows, taps])
        return whole

    def span(self, rows: int) -> int:
        """Returns the longest run of one window's cells that a strip of `rows` pixels spans."""
        most = 1
        for start in range(0, len(self.index), rows):
            for window in self.windows(start, start + rows):
                used = np.flatnonzero(self.matrix(window, start, start + rows).any(0))
                most = max(most, int(np.ptp(used)) + 1 if len(used) else 1)
        return most


def make_axis(
    side: int, resized: int, *, size: int, stride: int | None, cells: int, flip: bool = False
) -> Axis:
    """Makes the table of one side of a picture.

    Args:
        side: pixels of the picture along this side.
        resized: pixels of the resized picture.
        size: pixels of a window, in the resized picture.
        stride: pixels from one window to the next. None: the only window is the resized picture,
            whose logits are resized to the picture's size in one step, as in transformers.
        cells: logits of a window along this side.
        flip: whether the resized picture is mirrored.
    """
    starts = [0] if stride is None else window_starts(resized, size=size, stride=stride)
    if stride is None:
        index, weight = _taps(cells, side)
    else:
        index, weight = _averaged(starts, size, cells, resized)
        if side != resized:
            between, part = _taps(resized, side)
            index = index[between].reshape(side, -1)
            weight = (weight[between] * part[..., None]).reshape(side, -1)
    if flip:
        index, weight = index[::-1], weight[::-1]
    used = np.any(weight != 0, axis=0)
    return Axis(starts, size, cells, index[:, used], weight[:, used].astype(np.float32))


def _averaged(
    starts: list[int], size: int, cells: int, side: int
) -> tuple[Int[np.ndarray, "n taps"], Float[np.ndarray, "n taps"]]:
    """Returns taps that average the windows over each pixel; a pixel's used taps come first."""
    over = np.zeros(side, np.int64)
    for start in starts:
        over[start : start + size] += 1
    index = np.zeros((side, over.max(), 2), np.int64)
    weight = np.zeros((side, over.max(), 2), np.float64)
    own_index, own_weight = _taps(cells, size)
    place = np.zeros(side, np.int64)
    for number, start in enumerate(starts):
        pixels = np.arange(start, start + size)
        index[pixels, place[pixels]] = own_index + number * cells
        weight[pixels, place[pixels]] = own_weight / over[pixels, None]
        place[pixels] += 1
    return index.reshape(side, -1), weight.reshape(side, -1)


def _taps(old: int, new: int) -> tuple[Int[np.ndarray, "n 2"], Float[np.ndarray, "n 2"]]:
    low, high, weight = bilinear_neighbours(old, new)
    return np.stack([low, high], -1).astype(np.int64), np.stack([1 - weight, weight], -1)
