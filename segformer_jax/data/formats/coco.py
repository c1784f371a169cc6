"""COCO: instances as semantic classes, stuff, and panoptic PNGs, rasterised by pycocotools.

Annotations are drawn in the file's order, later ones over earlier ones, as pycocotools'
cocoSegmentationToSegmentationMap does; what none covers is the background. In panoptic sets it is
ignored.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from segformer_jax.data.classes import own_classes
from segformer_jax.data.dataset import Dataset
from segformer_jax.data.formats.asked import Asked, Format
from segformer_jax.data.formats.pairs import folders
from segformer_jax.data.formats.shapes_json import (
    background,
    begins_with,
    in_order,
    inside,
    numbered,
    read_object,
)
from segformer_jax.data.masks import IGNORED
from segformer_jax.data.splits import is_split, split_name
from segformer_jax.errors import ImageError
from segformer_jax.images.read import MAX_PIXELS, open_image

ROBOFLOW = "_annotations.coco.json"
NO_REGIONS = ("captions", "person_keypoints")  # which COCO has beside its instances
NOT_COCO = (ROBOFLOW, "notes.json")  # it is found apart; Label Studio's, beside labels of YOLO
NAME = re.compile(r"(?:(instances|stuff|panoptic|captions|person_keypoints)_)?(\D*?)\d*")
FARTHEST = 1 << 20  # pixels from the origin that a polygon may reach
BROKEN = (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError)


@dataclass(frozen=True)
class Regions:
    """A mask that is drawn when it is opened.

    Attributes:
        name: of the picture's entry, for messages.
        size: (height, width) in the file.
        parts: pairs of a class index and a segmentation as in the file, in the order of drawing.
        behind: the class index of what none covers.
    """

    name: str
    size: tuple[int, int]
    parts: tuple[tuple[int, Any], ...]
    behind: int

    def open(self) -> Image.Image:
        """A grey picture of class indices.

        Raises:
            ImageError: a segmentation that is missing or damaged.
        """
        from pycocotools import mask as coco

        height, width = self.size
        drawn = np.full(self.size, self.behind, np.uint8)
        for value, region in self.parts:
            if not region:
                raise ImageError(f"{self.name} has an annotation without a segmentation (a box)")
            try:
                if isinstance(region, list):
                    polygons: Any = [[*map(float, own)] for own in region if len(own) > 5]
                    _check_near(polygons, self.size)
                    runs: Any = coco.frPyObjects(polygons, height, width) if polygons else []
                elif isinstance(region["counts"], list):
                    runs = [coco.frPyObjects(region, height, width)]
                else:
                    runs = [region]
                if any(list(run["size"]) != [height, width] for run in runs):
                    raise ValueError("a mask of another size than its picture")
                covered = [coco.decode(run) for run in runs]
            except Exception as error:  # pycocotools raises nearly anything
                raise ImageError(f"{self.name} has a damaged segmentation: {error!r}") from error
            for own in covered:
                drawn[own > 0] = value
        return Image.fromarray(drawn)

    def __str__(self) -> str:
        return self.name


def _check_near(polygons: list[list[float]], size: tuple[int, int]) -> None:
    """Raises a ValueError for a point that is NaN or far outside the picture.

    pycocotools ends the process there: it takes memory for every step along an edge, and does not
    look whether it got any.
    """
    most = min(2 * max(size), FARTHEST)
    far = [number for own in polygons for number in own if not abs(number) <= most]
    if far:
        raise ValueError(f"a polygon's coordinate must be within ±{most}, got {far[0]:g}")


@dataclass(frozen=True)
class Panoptic:
    """A PNG whose colours are segments' numbers, red + 256·green + 256²·blue.

    Attributes:
        file: the PNG.
        values: the class index of each segment.
    """

    file: Path
    values: dict[int, int]

    def open(self) -> Image.Image:
        """A grey picture of class indices, 255 where there is no segment.

        Raises:
            ImageError: the file can't be read, or has a segment that the JSON file does not list.
        """
        pixels = np.asarray(open_image(self.file).convert("RGB"), np.int64)
        numbers, places = np.unique(pixels @ [1, 256, 65536], return_inverse=True)
        table = {0: IGNORED} | self.values
        unknown = [number for number in numbers.tolist() if number not in table]
        if unknown:
            raise ImageError(f"{self.file} has the segment {unknown[0]}, which is not listed")
        classes = np.array([table[number] for number in numbers.tolist()], np.uint8)
        return Image.fromarray(classes[places].reshape(pixels.shape[:2]))

    def __str__(self) -> str:
        return str(self.file)


def fits(root: Path) -> bool:
    return next(_files(root), None) is not None


def read(root: Path, asked: Asked) -> Dataset:
    """Opens the pictures that the JSON file of a split lists.

    Raises:
        ValueError: no such split, several files for it, or one that is damaged.
        ImportError: pycocotools is missing.
    """
    files: dict[str, list[Path]] = {}
    for part, file in _files(root):
        files.setdefault(part, []).append(file)
    alone = asked.split is None and len(files) == 1
    part = next(iter(files)) if alone else split_name(asked.split, files, place=root)
    if len(files[part]) > 1:
        names = " and ".join(file.name for file in files[part][:2])
        raise ValueError(f"{root} must have one file of annotations a split, got {names}: move one")
    file = files[part][0]
    content = read_object(file)
    try:
        return _dataset(root, part, file, content)
    except BROKEN as error:
        if type(error) is ValueError and str(file) in str(error):
            raise
        raise ValueError(f"{file} is not valid COCO: {error!r}") from error


def _dataset(root: Path, part: str, file: Path, content: dict[str, Any]) -> Dataset:
    categories = sorted(content["categories"], key=lambda category: category["id"])
    panoptic = any("segments_info" in entry for entry in content["annotations"])
    if not panoptic:
        import_pycocotools(file)
    names = [str(category["name"]) for category in categories]
    classes = numbered(own_classes(file.parent), names, file=file, whole=panoptic)
    value_of = {name: index for index, name in classes.id2label.items()}
    value = {category["id"]: value_of[str(category["name"])] for category in categories}
    of_image: dict[Any, list[dict[str, Any]]] = {}
    for entry in content["annotations"]:
        of_image.setdefault(entry["image_id"], []).append(entry)
    base = _pictures_at(root, part, file, content["images"][0]["file_name"])
    pictures, masks = [], []
    for image in content["images"]:
        picture = inside(base, image["file_name"], file=file)
        own = of_image.get(image["id"], [])
        pictures.append(picture)
        if panoptic:
            masks.append(_panoptic(own, value, file))
        else:
            size = (int(image["height"]), int(image["width"]))
            if min(size) < 1 or size[0] * size[1] > MAX_PIXELS:
                raise ValueError(f"{picture.name} of {size[1]}×{size[0]} pixels")
            parts = tuple((value[e["category_id"]], e.get("segmentation")) for e in own)
            masks.append(Regions(f"{file}, {picture.name}", size, parts, background(classes)))
    return in_order(pictures, masks, classes, recognised=f"COCO{' panoptic' * panoptic}")


def _panoptic(own: list[dict[str, Any]], value: dict[Any, int], file: Path) -> Panoptic | None:
    if not own:
        return None
    folder = file.with_suffix("")
    segments = {int(s["id"]): value[s["category_id"]] for s in own[0]["segments_info"]}
    return Panoptic(inside(folder, own[0]["file_name"], file=file), segments)


def _files(root: Path) -> Iterator[tuple[str, Path]]:
    """Yields the annotation files, each with the name of its split, "all" if it has none."""
    for name in [".", *folders(root)]:
        if (root / name / ROBOFLOW).is_file():
            yield (name if name != "." else "all"), root / name / ROBOFLOW
    for file in sorted([*root.glob("*.json"), *(root / "annotations").glob("*.json")]):
        named = NAME.fullmatch(file.stem)
        kind = named[1] if named else None
        if file.name not in NOT_COCO and kind not in NO_REGIONS and _is_coco(file):
            part = named[2].strip("_-") if named else ""
            yield (part if is_split(part) else "all"), file


def _is_coco(file: Path) -> bool:
    """Whether the first bytes of a JSON file have COCO's keys, in any order."""
    alone = any(begins_with(file, key) for key in ("images", "annotations", "categories"))
    return alone or begins_with(file, "info", "licenses")


def _pictures_at(root: Path, part: str, file: Path, first: Any) -> Path:
    """Finds the folder of the pictures of a split."""
    near = [n for n in folders(root) if n.startswith(part)]
    below = [f"images/{n}" for n in folders(root / "images") if n.startswith(part)]
    single = [f"images/{n}" for n in folders(root / "images")] if part == "all" else []
    tried = [file.parent, *(root / n for n in [*near, *below, *single, "images", "."])]
    for place in tried:
        if os.path.isfile(inside(place, first, file=file)):  # False for a name too long
            return place
    shown = ", ".join(dict.fromkeys(map(str, tried)))
    raise ValueError(f"{file} lists {first}, which is in none of {shown}")


def import_pycocotools(what: Any) -> None:
    """Raises an ImportError that says what needs pycocotools where it is missing."""
    try:
        import pycocotools.mask  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"{what} needs the package pycocotools: pip install 'segformer-jax[coco]'"
        ) from error


COCO = Format(
    fits, read, "annotations/*_{train,val}*.json or {train,val}/_annotations.coco.json, of COCO"
)
