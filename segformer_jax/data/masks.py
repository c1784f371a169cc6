"""Reads masks of class indices or colours as class indices, with 255 for ignored pixels."""

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Int, UInt8
from PIL import Image

from segformer_jax.errors import ImageError
from segformer_jax.images.read import INDEX_MODES, open_image, read_class_indices

IGNORED = 255
AS_THEY_ARE = tuple(range(256))
NO_CLASS = 254  # in `Coding.table`: a value that is an error in a mask
WITHOUT_ZERO = (IGNORED, *range(254), IGNORED)  # as in ADE20K: 0 is ignored, 1 is class 0

BLENDED_VALUES, BLENDED_SHARE = 4, 0.3  # at least so many, on at most this share of the pixels

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Coding:
    """The meaning of the pixel values of a data set's masks.

    Attributes:
        num_values: class indices are 0…num_values − 1, and 255 for ignored pixels.
        table: the class index of each pixel value 0…255.
        colours: for coloured masks, pairs of an RGB colour and the pixel value that it stands for.
    """

    num_values: int
    table: tuple[int, ...] = AS_THEY_ARE
    colours: tuple[tuple[Colour, int], ...] = ()


def read_mask(source: Any, *, coding: Coding) -> UInt8[np.ndarray, "h w"]:
    """Returns the class index of every pixel, or 255 for ignored pixels.

    Args:
        source: a path or a PIL image.
        coding: what its pixels mean.

    Raises:
        ImageError: the file can't be read, the mask is of another kind, or some pixels are not
            classes; the message lists their values.
    """
    image = source if isinstance(source, Image.Image) else open_image(source)
    values = _coloured(image, coding.colours) if coding.colours else _indices(image)
    classes = np.asarray(coding.table, np.uint8)[values]
    beyond = (classes >= coding.num_values) & (classes != IGNORED)
    if beyond.any():
        others = np.unique(values[beyond]).tolist()
        raise ImageError(
            f"the mask holds {_listed(others)}; its classes are "
            f"{_classes(coding)}{_ignored(coding)}: "
            + (_blended(others, beyond) or "correct the mask, or name the class in id2label.json")
        )
    return classes


def _blended(others: list, beyond: Bool[np.ndarray, "h w"]) -> str:
    """Returns advice if few pixels hold many values, as smoothed edges do; else an empty string."""
    if len(others) < BLENDED_VALUES or beyond.mean() > BLENDED_SHARE:
        return ""
    return (
        f"{beyond.sum():,} of its {beyond.size:,} pixels have {len(others)} such values, as "
        "antialiased edges and JPEG have: export the mask as PNG without antialiasing, and resize "
        "masks by the nearest pixel"
    )


def _classes(coding: Coding) -> str:
    known = [value for value, index in enumerate(coding.table) if index < coding.num_values]
    if len(known) <= known[-1] - known[0]:  # with gaps
        return " and ".join(map(str, known)) if len(known) == 2 else _listed(known)
    return f"{known[0]}…{known[-1]}" if len(known) > 1 else str(known[0])


def _ignored(coding: Coding) -> str:
    return f", and {IGNORED} is ignored" if coding.table[IGNORED] == IGNORED else ""


def index_image(image: Image.Image) -> Any:
    """Reduces a mask to one channel if red, green and blue are equal and alpha is opaque.

    GIS tools write class indices as floats, other tools in three equal channels.
    """
    if image.mode == "F":
        return np.asarray(image)
    if image.mode in ("LA", "PA", "RGB", "RGBA"):
        *colours, last = image.split()
        if image.mode == "RGB":
            colours.append(last)
        elif last.getextrema() != (255, 255):
            return image
        if all(colour.tobytes() == colours[0].tobytes() for colour in colours[1:]):
            return colours[0]
    return image


def _indices(image: Image.Image) -> Int[np.ndarray, "h w"]:
    image = index_image(image)
    if isinstance(image, Image.Image) and image.mode not in INDEX_MODES:
        raise ImageError(
            "a mask must hold one class index per pixel, got a picture of mode "
            f"{image.mode}: save it as a grey or palette PNG, or define its colours "
            'in palette.json beside id2label.json: {"class": [r, g, b], …}'
        )
    values = read_class_indices(image)
    if values.min() < 0 or values.max() > 255:
        wrong = np.unique(values[(values < 0) | (values > 255)]).tolist()
        raise ImageError(
            "class indices in a mask must be in 0…254, or 255 for ignored pixels, "
            f"got {_listed(wrong)}"
        )
    return values


def _coloured(
    image: Image.Image, colours: tuple[tuple[Colour, int], ...]
) -> Int[np.ndarray, "h w"]:
    pixels = np.asarray(image.convert("RGB").convert("RGBA"))  # 4 bytes per pixel: an integer
    packed = pixels.view("<u4")[..., 0] & 0xFFFFFF
    values = _colour_table(colours)[packed]
    if not values.all():
        unknown = np.unique(packed[values == 0]).tolist()
        rgb = [(code & 255, code >> 8 & 255, code >> 16) for code in unknown]
        raise ImageError(
            f"the mask has the colours {_listed(rgb)}, which are no class's: "
            + (
                _blended(unknown, values == 0)
                or 'add them to a class in palette.json beside id2label.json, or to "ignore"'
            )
        )
    return values - np.int16(1)


@functools.lru_cache(maxsize=2)
def _colour_table(colours: tuple[tuple[Colour, int], ...]) -> Int[np.ndarray, "16777216"]:
    """Returns value + 1 of each packed colour, else 0: zeros never written take no memory."""
    table = np.zeros(1 << 24, np.int16)
    for (red, green, blue), value in colours:
        table[red | green << 8 | blue << 16] = value + 1
    return table


def _listed(values: list, *, most: int = 8) -> str:
    shown = ", ".join(map(str, values[:most]))
    return shown if len(values) <= most else f"{shown} and {len(values) - most} more"
