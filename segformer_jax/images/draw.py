"""Draws class maps: colours, overlays, legends, and PNGs of class indices."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Integer, UInt8
from PIL import Image, ImageDraw, ImageFont

from segformer_jax.images.labels import distinct_names

ClassMap = Integer[np.ndarray, "H W"]
Palette = UInt8[np.ndarray, "labels 3"]

IGNORED = (0, 0, 0)  # the colour of indices that the palette does not have, such as 255


def colorize(class_map: ClassMap, palette: Palette) -> Image.Image:
    """Draws the class map in its colours, RGB; indices without a colour are black.

    Raises:
        ValueError: an index is below 0.
    """
    if class_map.min(initial=0) < 0:
        raise ValueError(
            f"class indices must be at least 0, got {class_map.min()} in the class map"
        )
    if class_map.max(initial=0) >= len(palette):
        class_map = np.minimum(class_map, np.intp(len(palette)))
        palette = np.concatenate([palette, np.array([IGNORED], np.uint8)])
    return Image.fromarray(palette[class_map])


def overlay(
    image: Image.Image,
    class_map: ClassMap,
    palette: Palette,
    *,
    alpha: int | float = 0.5,
    ignore_index: int | None = None,
) -> Image.Image:
    """Draws the classes in colours over the picture, RGB; pixels without a colour are unchanged.

    Args:
        image: the picture, H × W.
        class_map: its classes.
        palette: a colour per class.
        alpha: opacity of the colours, 0 (the picture) to 1 (the colours).
        ignore_index: a class whose pixels are unchanged although it has a colour.

    Raises:
        ValueError: `alpha` is outside [0, 1], the picture and its map have different sizes, or an
            index is below 0.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(
            f"alpha must be in [0, 1], 0 for the picture and 1 for the colours, got {alpha}"
        )
    _check_size(image, class_map)
    picture = image.convert("RGB")
    blended = Image.blend(picture, colorize(class_map, palette), alpha)
    shown = class_map < len(palette)
    if ignore_index is not None:
        shown &= class_map != ignore_index
    return blended if shown.all() else Image.composite(blended, picture, Image.fromarray(shown))


def index_png(class_map: ClassMap, palette: Palette) -> Image.Image:
    """Makes a picture whose values are the class indices.

    Returns:
        Mode "P" with the palette for a uint8 map, "I;16" for a uint16 one; for another type, the
        largest index decides.

    Raises:
        ValueError: an index is outside 0…65535.
    """
    low, high = int(class_map.min(initial=0)), int(class_map.max(initial=0))
    if low < 0 or high > 65535:
        raise ValueError(
            f"class indices must be in 0…65535 for a PNG, got {low} to {high}: save "
            "the class map as .npy"
        )
    if class_map.dtype == np.uint16 or high > 255:
        return Image.fromarray(class_map.astype(np.uint16))
    table = np.full((256, 3), IGNORED, np.uint8)
    table[: len(palette)] = palette[:256]
    image = Image.fromarray(class_map.astype(np.uint8))
    image.putpalette(table.tobytes())
    return image


def legend(rows: Iterable[tuple[str, Any]], *, height: int = 0, text_size: int = 16) -> Image.Image:
    """Draws texts with their colours, one below the other, black on white.

    Args:
        rows: (text, RGB in 0…255), from top to bottom.
        height: height of the picture in pixels; it is higher if the rows need it.
        text_size: size of the font in pixels.
    """
    lines = [(text, tuple(map(int, colour))) for text, colour in rows]
    font = ImageFont.load_default(size=text_size)
    step, box, edge = round(1.75 * text_size), round(1.125 * text_size), text_size // 2
    widest = max((round(font.getlength(text)) for text, _ in lines), default=0)
    size = (4 * edge + box + widest, max(height, step * len(lines) + 2 * edge))
    picture = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(picture)
    for row, (text, colour) in enumerate(lines):
        top = edge + row * step
        pen.rectangle((edge, top, edge + box, top + box), fill=colour, outline="black")
        middle = (2 * edge + box, top + box // 2)
        pen.text(middle, text, fill="black", font=font, anchor="lm")
    return picture


def side_by_side(
    image: Image.Image, class_map: ClassMap, id2label: Mapping[int, str], palette: Palette
) -> Image.Image:
    """Draws the photo, its class map in colours, and a legend with each class's share, in a row.

    The legend has the largest class first. Indices without a colour, mostly 255, are not listed.

    Args:
        image: the photo, H × W.
        class_map: its classes.
        id2label: class names by index.
        palette: a colour per class.

    Raises:
        ValueError: the photo and its map have different sizes, or an index is below 0.
    """
    _check_size(image, class_map)
    colours = colorize(class_map, palette)
    classes, counts = np.unique(class_map[class_map < len(palette)], return_counts=True)
    rows, names = [], distinct_names(id2label)
    for i in np.argsort(-counts, kind="stable"):
        name = names.get(int(classes[i]), f"LABEL_{classes[i]}")
        rows.append((f"{name}  {100 * counts[i] / class_map.size:.1f} %", palette[classes[i]]))
    key = legend(rows, height=image.height, text_size=max(16, image.height // 32))
    whole = Image.new("RGB", (2 * image.width + key.width, key.height), "white")
    whole.paste(image.convert("RGB"), (0, 0))
    whole.paste(colours, (image.width, 0))
    whole.paste(key, (2 * image.width, 0))
    return whole


def _check_size(image: Image.Image, class_map: ClassMap) -> None:
    if image.size[::-1] != class_map.shape:
        raise ValueError(
            "the picture and its class map must have the same size, got "
            f"{image.size[::-1]} and {class_map.shape}"
        )
