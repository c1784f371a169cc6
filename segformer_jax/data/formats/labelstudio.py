"""Label Studio: its JSON export, a list of tasks, beside or above the pictures that it names.

Of a task's annotations, the first that is not cancelled counts. Its regions are drawn in the file's
order, later ones over earlier ones; polygons, and rectangles as polygons, by pycocotools, for which
Label Studio's COCO export writes the same points. A pixel belongs to a brush if its opacity is
above 128, as in the masks that Label Studio's converter imports; what no region covers is the
background.
"""

import contextlib
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np
from PIL import Image

from segformer_jax.data.classes import own_classes
from segformer_jax.data.dataset import Dataset
from segformer_jax.data.formats.asked import Asked, Format
from segformer_jax.data.formats.brush_rle import decode_brush
from segformer_jax.data.formats.coco import BROKEN, Regions, import_pycocotools
from segformer_jax.data.formats.pairs import by_name, folders
from segformer_jax.data.formats.shapes_json import (
    background,
    begins_with,
    in_order,
    inside,
    numbered,
    read_json,
)
from segformer_jax.data.splits import is_split, split_name
from segformer_jax.errors import ImageError
from segformer_jax.images.find import picture_endings
from segformer_jax.images.read import MAX_PIXELS, upright_header

OPAQUE = 128
UPLOADED = re.compile(r"[0-9a-f]{8}-(?=.)")  # which Label Studio puts before a file's name


@dataclass(frozen=True)
class Task:
    """A mask that is drawn when it is opened.

    Attributes:
        file: the JSON file.
        picture: its size is the mask's if there are no regions.
        regions: the entries of the annotation that have labels, in the order of drawing.
        values: the class index of each label.
        behind: the class index of what no region covers.
    """

    file: Path
    picture: Path
    regions: tuple[dict[str, Any], ...]
    values: dict[str, int]
    behind: int

    def open(self) -> Image.Image:
        """A grey picture of class indices.

        Raises:
            ImageError: a region that can't be drawn, or a picture that can't be read.
        """
        sizes, parts = [], []
        for number, region in enumerate(self.regions, start=1):
            try:
                sizes.append(_size(region))
                if sizes[-1] != sizes[0]:
                    raise ValueError("its picture has another size than that of the first")
                parts.append((self._value(region), _segmentation(region, sizes[0])))
            except BROKEN as error:
                reason = f"it has no {error}" if isinstance(error, KeyError) else error
                raise ImageError(
                    f"{self}: region {number}, {region['type']}, can't be drawn: {reason}"
                ) from error
        size = sizes[0] if sizes else upright_header(self.picture)[0]
        return Regions(str(self), size, tuple(parts), self.behind).open()

    def _value(self, region: dict[str, Any]) -> int:
        labels = _labels(region)
        if len(labels) != 1:
            raise ValueError(f"it must have one label, got {', '.join(labels) or 'none'}")
        return self.values[labels[0]]

    def __str__(self) -> str:
        return f"{self.file}, {self.picture.name}"


def fits(root: Path) -> bool:
    return next(_files(root), None) is not None


def read(root: Path, asked: Asked) -> Dataset:
    """Opens the pictures that the JSON files of a split list.

    Raises:
        ValueError: no such split, or a file that is not Label Studio's.
        ImportError: pycocotools is missing.
    """
    files = list(_files(root))
    parts = dict.fromkeys(part for part, _ in files)
    alone = asked.split is None and len(parts) == 1
    part = next(iter(parts)) if alone else split_name(asked.split, parts, place=root)
    import_pycocotools(files[0][1])
    everywhere = [*files, *(_files(root.parent) if is_split(root.name) else ())]
    contents = {file: _tasks(file) for _, file in everywhere}
    entries = [e for tasks in contents.values() for task in tasks for e in _regions(task)]
    names = sorted({label for entry in entries for label in _labels(entry)})
    own = own_classes(root)
    classes = numbered(own, names, file=root)
    classes = classes if own else replace(classes, source="the labels of all tasks")
    values = {name: index for index, name in classes.id2label.items()}
    pictures: list[Path] = []
    masks: list[Task | None] = []
    several = 0
    for own_part, file in files:
        there = list(by_name(file.parent).values()) if own_part == part else []
        for task in contents[file] if own_part == part else ():
            picture = _picture(task, file, there)
            valid = _annotations(task)
            several += len(valid) > 1
            mask = Task(file, picture, tuple(_regions(task)), values, background(classes))
            pictures.append(picture)
            masks.append(mask if valid else None)
    if not any(picture.is_file() for picture in pictures):
        first = f", such as {pictures[0].name}" if pictures else ""
        raise ValueError(
            f"{root} must hold the pictures that {files[0][1].name} names{first}: copy them there"
        )
    first_counts = f" (tasks of several annotations, of which the first counts: {several:,})"
    return in_order(
        pictures, masks, classes, recognised=f"Label Studio's JSON{first_counts * (several > 0)}"
    )


def _files(root: Path) -> Iterator[tuple[str, Path]]:
    """Yields the JSON files, each with the name of its split, "all" if it has none."""
    for name in [".", *filter(is_split, folders(root))]:
        for file in sorted((root / name).glob("*.json")):
            head = ("result", "data")  # one of them is near the start, whatever comes first
            if any(begins_with(file, "annotations", key, opening=b"[") for key in head):
                own = file.stem if is_split(file.stem) else "all"
                yield (own if name == "." else name), file


def _tasks(file: Path) -> list[dict[str, Any]]:
    """Reads the tasks of a file, of which the parts that are used here have the right types."""
    tasks = read_json(file)
    try:
        for task in tasks:
            for annotation in task["annotations"]:
                annotation.get("was_cancelled")
            for entry in _regions(task):
                _labels(entry)
                _pack(entry["value"])
            task["data"].items()
    except BROKEN as error:
        raise ValueError(f"{file} is not an export of Label Studio: {error!r}") from error
    return tasks


def _pack(value: dict[str, Any]) -> None:
    """Makes bytes of a brush's run lengths, an eighth of the memory; damaged ones stay."""
    if isinstance(value.get("rle"), list):
        with contextlib.suppress(TypeError, ValueError):
            value["rle"] = bytes(value["rle"])


def _annotations(task: dict[str, Any]) -> list[dict[str, Any]]:
    return [own for own in task["annotations"] if not own.get("was_cancelled")]


def _regions(task: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns the entries with labels of the annotation that counts; others are choices, texts."""
    return [
        entry
        for annotation in _annotations(task)[:1]
        for entry in annotation["result"]
        if entry["type"].endswith("labels")
    ]


def _labels(region: dict[str, Any]) -> list[str]:
    labels = region["value"].get(region["type"], [])
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise ValueError(f"labels must be a list of names, got {labels!r}")
    return labels


def _picture(task: dict[str, Any], file: Path, there: list[Path]) -> Path:
    """Finds the picture of a task by its file name, with or without the prefix of an upload.

    Raises:
        ValueError: the task names none, or several files have its name.
    """
    paths = [_path(value) for value in task["data"].values() if isinstance(value, str)]
    path = next((p for p in paths if p.suffix.lower() in picture_endings()), None)
    if path is None:
        raise ValueError(f"{file}: task {task.get('id')} names no picture in its data")
    for name in (path.name, UPLOADED.sub("", path.name, count=1)):
        found = [own for own in there if own.name == name]
        if len(found) > 1:  # in several folders: as much of its path as it takes
            found = [own for own in found if own.parts[-2:] == path.parts[-2:]]
            if len(found) != 1:
                raise ValueError(f"{file.parent} must hold one {name}, got several: rename them")
        if found:
            return found[0]
    return inside(file.parent, path.name, file=file)  # which is reported as missing


def _path(value: str) -> PurePosixPath:
    """Returns the path in an address, such as /data/local-files/?d=a/b.jpg."""
    try:
        address = urlsplit(value)
    except ValueError:  # a text that looks like an address
        return PurePosixPath()
    local = parse_qs(address.query).get("d")
    return PurePosixPath((local[0] if local else unquote(address.path)).replace("\\", "/"))


def _size(region: dict[str, Any]) -> tuple[int, int]:
    height, width = int(region["original_height"]), int(region["original_width"])
    if min(height, width) < 1 or height * width > MAX_PIXELS:
        raise ValueError(f"a picture of {width}×{height} pixels")
    if region.get("image_rotation"):
        raise ValueError("its picture was turned in Label Studio: turn the file itself")
    return height, width


def _segmentation(region: dict[str, Any], size: tuple[int, int]) -> Any:
    """Returns a region as COCO's segmentation, in pixels."""
    from pycocotools import mask as coco

    value, (height, width) = region["value"], size
    if "rle" in value:
        if not isinstance(value["rle"], (list, bytes)):
            raise ValueError(f"its run lengths must be a list, got {type(value['rle']).__name__}")
        opaque = decode_brush(value["rle"], size=size) > OPAQUE
        return coco.encode(np.asfortranarray(opaque.astype(np.uint8)))
    if "points" in value:
        points = [(float(x) / 100 * width, float(y) / 100 * height) for x, y in value["points"]]
    elif {"x", "y", "width", "height"} <= value.keys():
        points = _corners(value, size)
    else:
        raise ValueError("only polygons, brushes and rectangles can be: leave it out")
    if len(points) < 3 or not all(math.isfinite(number) for point in points for number in point):
        raise ValueError(f"it must have three or more points, got {points}")
    return [[number for point in points for number in point]]


def _corners(value: dict[str, Any], size: tuple[int, int]) -> list[tuple[float, float]]:
    """Returns the corners of a rectangle, which is turned clockwise about its left upper corner."""
    height, width = size
    left, top = float(value["x"]) / 100 * width, float(value["y"]) / 100 * height
    wide, high = float(value["width"]) / 100 * width, float(value["height"]) / 100 * height
    turn = math.radians(float(value.get("rotation", 0)))
    sine, cosine = math.sin(turn), math.cos(turn)
    corners = ((0, 0), (wide, 0), (wide, high), (0, high))
    return [(left + x * cosine - y * sine, top + x * sine + y * cosine) for x, y in corners]


LABELSTUDIO = Format(fits, read, "Label Studio's JSON export, a list of tasks, with the pictures")
