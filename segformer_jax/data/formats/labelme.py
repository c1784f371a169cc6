"""labelme: a JSON file of shapes beside each picture, drawn as labelme's own shapes_to_label does.

Shapes are drawn with Pillow, in the file's order, later ones over earlier ones; what no shape
covers is the background, and shapes of the class `__ignore__` are ignored.
"""

import base64
import binascii
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from segformer_jax.data.classes import own_classes
from segformer_jax.data.dataset import Dataset
from segformer_jax.data.formats.asked import Asked, Format
from segformer_jax.data.formats.pairs import by_name, folders, paired
from segformer_jax.data.formats.shapes_json import (
    background,
    begins_with,
    numbered,
    read_object,
)
from segformer_jax.data.masks import IGNORED, Coding
from segformer_jax.data.splits import NoSplitError, is_split, split_name
from segformer_jax.errors import ImageError
from segformer_jax.images.read import MAX_PIXELS, open_image

IGNORE = "__ignore__"
LINE, POINT = 10, 5  # width and radius in pixels, as labelme's
FURTHEST = 1_000_000  # pixels; a circle as large as the numbers allow is drawn for a minute
NUMBER_OF_POINTS = {"rectangle": 2, "circle": 2, "line": 2, "mask": 2, "point": 1}


@dataclass(frozen=True)
class Shape:
    """A shape: its class, kind and points (x, y), and the base64 PNG of the kind "mask"."""

    label: str
    kind: str
    points: tuple[tuple[float, float], ...]
    mask: str | None = None


@dataclass(frozen=True)
class Shapes:
    """A mask that is drawn when it is opened.

    Attributes:
        file: the JSON file.
        size: (width, height) of the upright picture.
        shapes: in the order in which they are drawn.
        values: the class index of each label.
        behind: the class index of what no shape covers.
    """

    file: Path
    size: tuple[int, int]
    shapes: tuple[Shape, ...]
    values: dict[str, int]
    behind: int

    def open(self) -> Image.Image:
        """A grey picture of class indices.

        Raises:
            ImageError: a shape can't be drawn.
        """
        drawn = Image.new("L", self.size, self.behind)
        for shape in self.shapes:
            try:
                _draw(drawn, shape, self.values[shape.label])
            except (ValueError, OverflowError, MemoryError, OSError, binascii.Error) as error:
                raise ImageError(
                    f"{self.file} has a {shape.kind} of {shape.label} that can't be drawn: {error}"
                ) from error
        return drawn

    def __str__(self) -> str:
        return str(self.file)


def fits(root: Path) -> bool:
    places = [root, *(root / name for name in folders(root) if is_split(name))]
    return any(_is_labelme(file) for place in places for file in sorted(place.glob("*.json"))[:3])


def read(root: Path, asked: Asked) -> Dataset:
    """Opens a split, or the folder itself.

    Raises:
        ValueError: no such split, or a file that is not labelme's.
    """
    parts = [name for name in folders(root) if is_split(name)]
    if not parts and asked.split is not None:
        raise NoSplitError(f"{root} has no split {asked.split}: its pictures are all in one folder")
    place = root / split_name(asked.split, parts, place=root) if parts else root
    every = root.parent if is_split(root.name) else root  # the classes are those of all splits
    files = [file for file in sorted(every.rglob("*.json")) if _is_labelme(file)]
    contents = {file: _content(read_object(file), file) for file in files}
    found = {shape.label for _, own in contents.values() for shape in own} - {IGNORE}
    own = own_classes(place)
    names = sorted(found - {"_background_"})
    if own is None:
        names = ["_background_", *names]
    classes = numbered(own, names, file=every)
    classes = classes if own else replace(classes, source="the labels of all files")
    values = {name: index for index, name in classes.id2label.items()} | {IGNORE: IGNORED}
    masks: dict[str, Any] = {}
    for file, (size, shapes) in contents.items():
        if place in file.parents:
            name = file.relative_to(place).with_suffix("").as_posix()
            masks[name] = Shapes(file, size, shapes, values, background(classes))
    return paired(
        by_name(place),
        masks,
        classes=classes,
        coding=Coding(max(len(classes.id2label), 2)),
        place=place,
        recognised="labelme's JSON files",
    )


def _is_labelme(file: Path) -> bool:
    return begins_with(file, "version", "shapes")


def _content(content: dict[str, Any], file: Path) -> tuple[tuple[int, int], tuple[Shape, ...]]:
    """Returns (width, height) of the picture, and its shapes."""
    try:
        size = int(content["imageWidth"]), int(content["imageHeight"])
        if min(size) < 1 or size[0] * size[1] > MAX_PIXELS:
            raise ValueError(f"a picture of {size[0]}×{size[1]}")
        return size, tuple(_shape(entry) for entry in content["shapes"])
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise ValueError(f"{file} is not one of labelme's files: {error!r}") from error


def _shape(entry: dict[str, Any]) -> Shape:
    kind = entry.get("shape_type") or "polygon"
    points = tuple((float(x), float(y)) for x, y in entry["points"])
    if not all(math.isfinite(number) for point in points for number in point):
        raise ValueError("a point that is no number")
    if max((abs(number) for point in points for number in point), default=0) > FURTHEST:
        raise ValueError(f"a point over {FURTHEST:,} pixels away")
    if len(points) != NUMBER_OF_POINTS.get(kind, len(points)) or not points:
        raise ValueError(f"a {kind} of {len(points)} points")
    mask = entry.get("mask")
    if kind == "mask" and not isinstance(mask, str):
        raise ValueError("a mask without its picture")
    return Shape(str(entry["label"]), kind, points, mask)


def _draw(image: Image.Image, shape: Shape, value: int) -> None:
    """Draws a shape by labelme's rules.

    Raises:
        ValueError: a kind that labelme does not have, or too few points.
    """
    draw, points = ImageDraw.Draw(image), list(shape.points)
    (x, y), (u, v) = points[0], points[-1]
    match shape.kind:
        case "polygon" | "oriented_rectangle":
            if len(points) < 3:
                raise ValueError(f"it has {len(points)} points")
            draw.polygon(points, fill=value, outline=value)
        case "rectangle":
            corners = (min(x, u), min(y, v), max(x, u), max(y, v))
            draw.rectangle(corners, fill=value, outline=value)
        case "circle":
            radius = math.hypot(x - u, y - v)
            around = (x - radius, y - radius, x + radius, y + radius)
            draw.ellipse(around, fill=value, outline=value)
        case "point":
            draw.ellipse((x - POINT, y - POINT, x + POINT, y + POINT), fill=value, outline=value)
        case "line" | "linestrip":
            draw.line(points, fill=value, width=LINE)
        case "mask":
            content = base64.b64decode(shape.mask or "")
            own = Image.fromarray(np.asarray(open_image(content).convert("L")) > 0)
            image.paste(value, (int(x), int(y)), own)
        case _:
            raise ValueError("labelme has no such shape")


LABELME = Format(fits, read, "a JSON file with shapes beside each picture")
