"""Augmentation: scales, crops, flips and recolours a picture, and transforms its mask likewise."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from segformer_jax.data.masks import IGNORED
from segformer_jax.images.flips import Flip, check_directions, reversed_sides
from segformer_jax.images.picture import Picture as ReadPicture
from segformer_jax.images.picture import resized, size_of

PADDING = (124, 116, 104)  # ImageNet's mean colour, about 0 once normalised
CROP_TRIES = 10
BRIGHTNESS = 32.0  # of 255
CONTRAST = SATURATION = (0.5, 1.5)
HUE = 36.0  # degrees; 18 in OpenCV's units, 180 to a circle

Mask = UInt8[np.ndarray, "H W"]
Picture = UInt8[np.ndarray, "h w c"]
Crop = UInt8[np.ndarray, "h w"]


@dataclass(frozen=True)
class Augmentation:
    """The paper's augmentation; the defaults are the paper's values.

    Attributes:
        crop: (height, width) of the result; smaller pictures are padded below and to the right.
        short_side: resize the picture to this shorter side before the random scale; None keeps its
            size.
        scale: smallest and largest random factor.
        cat_max_ratio: draw a crop again, up to ten times, if one class has at least this share of
            its pixels that are not ignored; 1 uses the first crop.
        flip: probability of flipping, 0…1.
        flip_direction: directions of the flips, all equally likely: "horizontal" swaps left and
            right, "vertical" top and bottom, "diagonal" both.
        photometric: whether brightness, contrast, saturation and hue are changed.
            Pictures that are not RGB vary in brightness and contrast only.
        device_colours: leave these changes to the training step: see `Placement.colours`.
        jpeg_draft: whether pictures may be smaller than their masks, because JPEGs that are scaled
            down anyway were decoded at 1/2, 1/4 or 1/8 of their size.
        padding: colour around pictures that are smaller than the crop.
    """

    crop: tuple[int, int]
    short_side: int | None = None
    scale: tuple[int | float, int | float] = (0.5, 2.0)
    cat_max_ratio: int | float = 0.75
    flip: int | float = 0.5
    flip_direction: tuple[Flip, ...] = ("horizontal",)
    photometric: bool = True
    device_colours: bool = False
    jpeg_draft: bool = False
    padding: tuple[int, ...] = PADDING

    def __post_init__(self):
        if len(self.crop) != 2 or min(self.crop) < 1:
            raise ValueError(
                f"crop must be a height and a width of at least 1 pixel, got {self.crop}"
            )
        if self.short_side is not None and self.short_side < 1:
            raise ValueError(f"short_side must be at least 1 pixel, or None, got {self.short_side}")
        if len(self.scale) != 2 or not 0 < self.scale[0] <= self.scale[1] < float("inf"):
            raise ValueError(
                f"scale must be a smallest factor above 0 and a largest one, got {self.scale}"
            )
        if not 0 < self.cat_max_ratio <= 1:
            raise ValueError(
                f"cat_max_ratio must be in (0, 1], 1 for off, got {self.cat_max_ratio}"
            )
        if not 0 <= self.flip <= 1:
            raise ValueError(f"flip must be a probability in [0, 1], got {self.flip}")
        check_directions(self.flip_direction)


class Colours(NamedTuple):
    """Changes of a picture's colours, in the order in which they are made.

    Attributes:
        brightness: added to the values, 0…255.
        contrast: a factor of the values.
        saturation: a factor of the saturation of RGB pictures.
        hue: rotation of the hue of RGB pictures, in degrees.
        last_contrast: a factor of the values; one of the two contrasts is 1.
    """

    brightness: float = 0.0
    contrast: float = 1.0
    saturation: float = 1.0
    hue: float = 0.0
    last_contrast: float = 1.0


@dataclass(frozen=True)
class Placement:
    """Where a crop lies in its picture, how it was flipped, and what is to be done to its colours.

    Attributes:
        scaled: (height, width) of the whole picture after scaling, before cropping.
        top: the crop's first row in the scaled picture.
        left: the crop's first column in the scaled picture.
        size: (height, width) of the crop without the padding below and to the right of it.
        mirrored: whether left and right of this part were swapped.
        upside_down: whether its top and bottom were swapped.
        colours: changes that are still to be made, with `Augmentation.device_colours`.
    """

    scaled: tuple[int, int]
    top: int
    left: int
    size: tuple[int, int]
    mirrored: bool
    upside_down: bool = False
    colours: Colours | None = None


def augment(
    image: ReadPicture, mask: Mask, *, options: Augmentation, rng: np.random.Generator
) -> tuple[Picture, Crop, Placement]:
    """Returns a random crop of a picture, that of its mask, and where the crop lies.

    Both have the size `options.crop`. The result is that of resizing the whole picture (bilinear,
    antialiased when it shrinks; the mask by nearest neighbour) and then cropping it, but only the
    pixels of the crop are resized.

    Args:
        image: the picture; with `options.jpeg_draft` it may be a smaller one.
        mask: class indices, 255 for ignored pixels, of the picture's size.
        options: the ranges and probabilities.
        rng: the source of random numbers.

    Raises:
        ValueError: picture and mask differ in size.
    """
    own = size_of(image)
    if own != mask.shape and not options.jpeg_draft:
        raise ValueError(
            f"the picture and its mask must have the same size, got {own} and {mask.shape}"
        )
    height, width = scaled_size(mask.shape, options=options, rng=rng)
    rows, columns = _nearest(mask.shape[0], height), _nearest(mask.shape[1], width)
    top, left, labels = _crop(mask, rows=rows, columns=columns, options=options, rng=rng)
    h, w = labels.shape
    y, x = own[0] / height, own[1] / width  # pixels of the picture per scaled pixel
    bottom, right = min((top + h) * y, own[0]), min((left + w) * x, own[1])
    box = (left * x, top * y, right, bottom)
    pixels = resized(image, (h, w), Image.Resampling.BILINEAR, box=box)
    upside_down, mirrored = reversed_sides(_direction(options, rng))
    if upside_down:
        pixels, labels = pixels[::-1], labels[::-1]
    if mirrored:
        pixels, labels = pixels[:, ::-1], labels[:, ::-1]
    colours = draw_colours(rng) if options.photometric else None
    if colours is not None and not options.device_colours:
        pixels, colours = distort(pixels, colours), None
    picture = np.empty((*options.crop, pixels.shape[-1]), np.uint8)
    picture[:] = options.padding
    picture[:h, :w] = pixels
    padded = np.full(options.crop, IGNORED, np.uint8)
    padded[:h, :w] = labels
    view = Placement((height, width), top, left, (h, w), mirrored, upside_down, colours)
    return picture, padded, view


def _direction(options: Augmentation, rng: np.random.Generator) -> Flip | None:
    """Draws a direction or no flip; takes one random number, however many directions there are."""
    drawn = rng.random()
    if drawn >= options.flip:
        return None
    count = len(options.flip_direction)
    return options.flip_direction[min(int(drawn / options.flip * count), count - 1)]


def scaled_size(
    size: tuple[int, ...], *, options: Augmentation, rng: np.random.Generator
) -> tuple[int, int]:
    """Draws the height and width to which `augment` scales a picture: its first random number."""
    factor = rng.uniform(*options.scale)
    if options.short_side is not None:
        factor *= options.short_side / min(size)
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def _nearest(size: int, scaled: int) -> np.ndarray:
    """Returns the nearest original index for each pixel of a scaled axis, as Pillow's NEAREST."""
    return ((np.arange(scaled) + 0.5) * (size / scaled)).astype(np.intp).clip(max=size - 1)


def _crop(
    mask: Mask,
    *,
    rows: np.ndarray,
    columns: np.ndarray,
    options: Augmentation,
    rng: np.random.Generator,
) -> tuple[int, int, Crop]:
    """Draws a crop of the scaled picture; returns its top, its left, and its labels.

    As in mmsegmentation, the last try is taken even if one class covers too much of it.
    """
    h, w = min(options.crop[0], len(rows)), min(options.crop[1], len(columns))
    tries = CROP_TRIES if options.cat_max_ratio < 1 else 0
    for left_over in range(tries, -1, -1):
        top = int(rng.integers(len(rows) - h + 1))
        left = int(rng.integers(len(columns) - w + 1))
        labels = mask[rows[top : top + h, None], columns[left : left + w]]
        if not left_over or _is_mixed(labels, options.cat_max_ratio):
            break
    return top, left, labels


def _is_mixed(labels: Crop, ratio: int | float) -> bool:
    counts = np.bincount(labels.ravel(), minlength=IGNORED + 1)[:IGNORED]
    return bool(np.count_nonzero(counts) > 1 and counts.max() < ratio * counts.sum())


def draw_colours(rng: np.random.Generator) -> Colours:
    """Draws changes of brightness, contrast, saturation and hue, each with probability 1/2.

    Ranges and order are mmsegmentation's: brightness, contrast, saturation, hue, or, with
    probability 1/2, contrast last.
    """
    brightness = rng.uniform(-BRIGHTNESS, BRIGHTNESS) if rng.random() < 0.5 else 0.0
    contrast = rng.uniform(*CONTRAST) if rng.random() < 0.5 else 1.0
    saturation = rng.uniform(*SATURATION) if rng.random() < 0.5 else 1.0
    hue = rng.uniform(-HUE, HUE) if rng.random() < 0.5 else 0.0
    first, last = (contrast, 1.0) if rng.random() < 0.5 else (1.0, contrast)
    return Colours(brightness, first, saturation, hue, last)


def distort(pixels: Picture, colours: Colours) -> Picture:
    """Changes colours; clips to 0…255 after every step, and rounds once, at the end."""
    planes = np.ascontiguousarray(pixels.transpose(2, 0, 1), np.float32)
    if colours.brightness:
        planes = (planes + np.float32(colours.brightness)).clip(0, 255)
    if colours.contrast != 1:
        planes = (planes * np.float32(colours.contrast)).clip(0, 255)
    if len(planes) == 3 and colours.hue:
        planes = turn_colours(planes, saturation=colours.saturation, hue=colours.hue)
    elif len(planes) == 3 and colours.saturation != 1:
        planes = _saturated(planes, colours.saturation)
    if colours.last_contrast != 1:
        planes = (planes * np.float32(colours.last_contrast)).clip(0, 255)
    return np.rint(planes).astype(np.uint8).transpose(1, 2, 0)


def turn_colours(planes: Any, *, saturation: Any, hue: Any) -> Any:
    """Multiplies the HSV saturation of RGB planes (to 1 at most) and rotates their hue.

    HSV's value does not change. With the largest channel V, the chroma C and the hue in sixths of
    the circle, each channel is V − C·max(0, min(k, 4 − k, 1)), k = ((5, 3, 1) + hue) mod 6.

    Args:
        planes: (3, h, w) float32 in 0…255, an array of NumPy or of JAX, as is the result.
        saturation: a factor of the saturation.
        hue: the rotation in degrees.
    """
    xp = planes.__array_namespace__()
    red, green, blue = planes
    value = planes.max(0)
    chroma = value - planes.min(0)
    inverse = 1 / xp.maximum(chroma, 1)  # greys have no hue; theirs is multiplied by chroma 0
    sixth = xp.where(
        value == red,
        (green - blue) * inverse,
        xp.where(value == green, (blue - red) * inverse + 2, (red - green) * inverse + 4),
    )
    chroma = xp.minimum(chroma * saturation, value)

    def channel(start):
        k = (sixth + hue / 60 + start) % 6
        return value - chroma * xp.minimum(xp.minimum(k, 4 - k), 1).clip(0)

    return xp.stack([channel(start) for start in (5, 3, 1)])


def _saturated(planes, saturation):
    """Does what `turn_colours` does without a rotation, in half of the time."""
    value = planes.max(0)
    chroma = value - planes.min(0)
    new = np.minimum(chroma * saturation, value)
    return value - (value - planes) * (new / np.maximum(chroma, 1))
