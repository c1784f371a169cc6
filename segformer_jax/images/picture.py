"""A picture in memory, with 8 bits per value: a PIL image, or other bands as an array."""

import numpy as np
from jaxtyping import UInt8
from PIL import Image

Picture = Image.Image | UInt8[np.ndarray, "h w c"]
Number = int | float
Box = tuple[Number, Number, Number, Number]


def size_of(picture: Picture) -> tuple[int, int]:
    """Returns height and width."""
    height, width = picture.size[::-1] if isinstance(picture, Image.Image) else picture.shape[:2]
    return height, width


def resized(
    picture: Picture, size: tuple[int, int], resample: int, *, box: Box | None = None
) -> UInt8[np.ndarray, "H W c"]:
    """Resizes a picture to a height and width, by one of Pillow's filters; returns the pixels.

    An array's bands are resized one by one. In a PIL image of mode RGBA, Pillow weighs colours by
    their opacity.

    Args:
        picture: what is resized.
        size: height and width.
        resample: the filter.
        box: left, top, right and bottom of the part that is resized; by default all of it.
    """
    width_height, filter_ = size[::-1], Image.Resampling(resample)
    if isinstance(picture, np.ndarray) and picture.shape[-1] != 3:
        bands = [
            np.asarray(
                Image.fromarray(np.ascontiguousarray(picture[..., band])).resize(
                    width_height, filter_, box=box
                )
            )
            for band in range(picture.shape[-1])
        ]
        return np.stack(bands, -1)
    image = Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture
    pixels = np.asarray(image.resize(width_height, filter_, box=box))
    return pixels.reshape(*size, -1)


def as_rgb(picture: Picture) -> Image.Image:
    """Returns an image to show: of bands that are not RGB, the first three, or the first."""
    if isinstance(picture, Image.Image):
        return picture if picture.mode == "RGB" else picture.convert("RGB")
    shown = picture[..., :3] if picture.shape[-1] >= 3 else picture[..., :1].repeat(3, -1)
    return Image.fromarray(np.ascontiguousarray(shown))
