"""The sources that windows of a picture are read from."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8
from PIL import Image


@runtime_checkable
class Pixels(Protocol):
    """A picture that gives any part of itself, in memory or not."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        ...

    def resized(self, size: tuple[int, int], resample: int) -> "Pixels":
        """The picture at another height and width, by one of Pillow's filters."""
        ...

    def read(self, top: int, left: int, size: tuple[int, int]) -> UInt8[np.ndarray, "h w 3"] | None:
        """A part of height and width `size`, RGB; None where the picture has no data at all."""
        ...


@dataclass(frozen=True, eq=False)
class ImagePixels:
    """A picture in memory, RGB."""

    image: Image.Image

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.image.height, self.image.width

    def resized(self, size: tuple[int, int], resample: int) -> "ImagePixels":
        """The picture at another height and width, by one of Pillow's filters."""
        if size == self.size:
            return self
        return ImagePixels(self.image.resize(size[::-1], Image.Resampling(resample)))

    def read(self, top: int, left: int, size: tuple[int, int]) -> UInt8[np.ndarray, "h w 3"]:
        """A part of height and width `size`, RGB."""
        return np.asarray(self.image.crop((left, top, left + size[1], top + size[0])))
