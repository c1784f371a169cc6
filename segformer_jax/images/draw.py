"""Class maps as pictures: colours, overlays, legends, index PNGs."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Integer, UInt8
from PIL import Image, ImageDraw, ImageFont

ClassMap = Integer[np.ndarray, "H W"]
Palette = UInt8[np.ndarray, "labels 3"]

IGNORED = (0, 0, 0)  # the colour of indices that the palette does not have, 255 among them
ROW = 28  # height of a line of the legend, in pixels


def colorize(class_map: ClassMap, palette: Palette) -> Image.Image:
    """The class map in its colours, RGB."""
    table = np.zeros((max(int(class_map.max(initial=0)) + 1, len(palette)), 3), np.uint8)
    table[:] = IGNORED
    table[: len(palette)] = palette
    return Image.fromarray(table[class_map])


def overlay(
    image: Image.Image, class_map: ClassMap, palette: Palette, *, alpha: float = 0.5
) -> Image.Image:
    """The colours over the picture, RGB; indices that the palette does not have show the picture.

    Args:
        image: the picture, H × W.
        class_map: its classes.
        palette: a colour per class.
        alpha: the weight of the colours, 0 (the picture) to 1 (the colours).

    Raises:
        ValueError: an alpha outside 0…1; a picture of another size than its map.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha is {alpha}; it lies between 0 (the picture) and 1 (the colours)")
    if image.size[::-1] != class_map.shape:
        raise ValueError(
            f"the picture is {image.height} × {image.width}, its class map "
            f"{class_map.shape[0]} × {class_map.shape[1]}"
        )
    picture = image.convert("RGB")
    blended = Image.blend(picture, colorize(class_map, palette), alpha)
    if class_map.max(initial=0) < len(palette):
        return blended
    return Image.composite(blended, picture, Image.fromarray(class_map < len(palette)))


def index_png(class_map: ClassMap, palette: Palette) -> Image.Image:
    """A picture of the class indices themselves: with a palette up to 256 classes, else 16 bit."""
    if class_map.dtype != np.uint8:
        return Image.fromarray(class_map.astype(np.uint16))
    image = Image.fromarray(class_map)
    image.putpalette(palette[:256].tobytes())
    return image


def legend(
    shares: Mapping[str, float], colours: Mapping[str, Any], *, height: int = 0
) -> Image.Image:
    """Names with their colours and shares, one below the other, on white.

    Args:
        shares: of the picture, in 0…1, by name, in the order to draw.
        colours: RGB by name.
        height: of the picture, in pixels; at least what the names need.
    """
    font = ImageFont.load_default(size=16)
    lines = [f"{name}  {100 * share:.1f} %" for name, share in shares.items()]
    width = 48 + max((int(font.getlength(line)) for line in lines), default=0)
    picture = Image.new("RGB", (width, max(height, ROW * len(lines) + 12)), "white")
    draw = ImageDraw.Draw(picture)
    for row, (name, line) in enumerate(zip(shares, lines, strict=True)):
        top = 8 + ROW * row
        colour = tuple(int(value) for value in colours[name])
        draw.rectangle((10, top, 28, top + 18), fill=colour, outline="black")
        draw.text((36, top), line, fill="black", font=font)
    return picture


def side_by_side(
    image: Image.Image, class_map: ClassMap, id2label: Mapping[int, str], palette: Palette
) -> Image.Image:
    """The photo, its classes in colours, and a legend of those present, largest first."""
    classes, counts = np.unique(class_map, return_counts=True)
    shares, colours = {}, {}
    for i in np.argsort(-counts, kind="stable"):
        index = int(classes[i])
        name = id2label.get(index, f"LABEL_{index}")
        shares[name] = counts[i] / class_map.size
        colours[name] = palette[index] if index < len(palette) else IGNORED
    key = legend(shares, colours, height=image.height)
    height = max(image.height, key.height)
    whole = Image.new("RGB", (2 * image.width + key.width, height), "white")
    whole.paste(image.convert("RGB"), (0, 0))
    whole.paste(colorize(class_map, palette), (image.width, 0))
    whole.paste(key, (2 * image.width, 0))
    return whole
