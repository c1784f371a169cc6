"""YOLO: labels/NAME.txt of Ultralytics' segmentation, a polygon a line, for each images/NAME.jpg.

Polygons are rasterised by pycocotools, from whose coordinates Ultralytics' convert_coco makes such
files; Ultralytics' own training fills them with OpenCV, up to a pixel wider. Where polygons
overlap, the smaller one is above the larger one, as Ultralytics has it.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from segformer_jax.data.class_files import read_names
from segformer_jax.data.classes import ID2LABEL, own_classes
from segformer_jax.data.dataset import Dataset
from segformer_jax.data.formats.asked import Asked, Format
from segformer_jax.data.formats.coco import Regions, import_pycocotools
from segformer_jax.data.formats.folder import FOLDER
from segformer_jax.data.formats.pairs import by_name, folders, paired
from segformer_jax.data.formats.shapes_json import background, numbered
from segformer_jax.data.masks import Coding
from segformer_jax.data.splits import NoSplitError, is_split, split_name
from segformer_jax.errors import ImageError
from segformer_jax.images.read import upright_header

NAMES = ("classes.txt", "obj.names")  # a name a line
LINE = re.compile(rb"\s*\d+(?:[ \t]+[-+.\deE]+){4,}[ \t]*(?:\r?\n|$)")
LOOKED_INTO = 20  # files of labels, for one that is not empty
BEYOND = 0.01  # of the picture's side: as far as Ultralytics lets points lie outside


@dataclass(frozen=True)
class Polygons:
    """A mask that is drawn when it is opened.

    Attributes:
        file: of the labels; if it is missing, all is background, as in Ultralytics.
        picture: whose size the coordinates are shares of.
        values: the class index of each class of the file.
        behind: the class index of what no polygon covers.
    """

    file: Path
    picture: Path
    values: tuple[int, ...]
    behind: int

    def open(self) -> Image.Image:
        """A grey picture of class indices.

        Raises:
            ImageError: a line that is no polygon, or a picture that can't be read.
        """
        from pycocotools import mask as coco

        height, width = upright_header(self.picture)[0]
        parts = []
        for value, polygon in self._polygons():
            points: Any = [[c * (height if i % 2 else width) for i, c in enumerate(polygon)]]
            run: Any = coco.frPyObjects(points, height, width)[0]
            parts.append((value, run))
        parts.sort(key=lambda part: -int(coco.area(part[1])))
        return Regions(str(self), (height, width), tuple(parts), self.behind).open()

    def _polygons(self) -> Iterator[tuple[int, list[float]]]:
        """Yields the class index and the coordinates x, y, x, y, … of each line."""
        try:
            lines = self.file.read_text(encoding="utf-8-sig").splitlines()
        except FileNotFoundError:
            return
        except (OSError, UnicodeDecodeError) as error:
            raise ImageError(f"{self.file} can't be read as UTF-8 text: {error}") from error
        for number, line in enumerate(lines, start=1):
            words = line.split()
            if words:
                try:
                    yield self._index(words[0]), _coordinates(words[1:])
                except ValueError as error:
                    raise ImageError(f"line {number} of {self.file} {error}") from error

    def _index(self, word: str) -> int:
        if not word.isdecimal() or int(word) >= len(self.values):
            raise ValueError(f"must begin with a class 0…{len(self.values) - 1}, got {word}")
        return self.values[int(word)]

    def __str__(self) -> str:
        return str(self.file)


def fits(root: Path) -> bool:
    return any(_holds_labels(labels) for _, labels in _places(root).values())


def is_certain(root: Path) -> bool:
    """There are no masks, which are read rather than polygons of the same pictures."""
    return not (FOLDER.fits(root) and FOLDER.is_certain(root))


def read(root: Path, asked: Asked) -> Dataset:
    """Opens a split, or the folder itself; of class files, id2label.json alone wins over YOLO's.

    Raises:
        ValueError: no such split, no list of the classes, or a damaged one.
        ImportError: pycocotools is missing.
    """
    places = _places(root)
    if "" in places and asked.split is not None:
        raise NoSplitError(f"{root} has no split {asked.split}: its pictures are all in images")
    part = "" if "" in places else split_name(asked.split, places, place=root)
    pictures_at, labels_at = places[part]
    import_pycocotools(labels_at)
    names, source = _names(root)
    own = own_classes(root)
    own = own if own is not None and own.source == ID2LABEL else None
    classes = numbered(own, names, file=source)
    value_of = {name: index for index, name in classes.id2label.items()}
    values = tuple(value_of[name] for name in names)
    pictures = by_name(pictures_at)
    labelled = {
        file.relative_to(labels_at).with_suffix("").as_posix(): file
        for file in sorted(labels_at.rglob("*.txt"))
    }
    if "classes" not in pictures:
        labelled.pop("classes", None)  # labelImg's list of names
    without = [name for name in pictures if name not in labelled]
    if len(without) < len(pictures):  # else `paired` says that names differ
        labelled |= {name: labels_at / f"{name}.txt" for name in without}
    masks = {
        name: Polygons(file, pictures.get(name, file), values, background(classes))
        for name, file in labelled.items()
    }
    said = f" (pictures without labels, all background: {len(without):,})" if without else ""
    return paired(
        pictures,
        masks,
        classes=classes,
        coding=Coding(max(len(classes.id2label), 2)),
        place=pictures_at,
        recognised=f"YOLO polygons{said}",
    )


def _places(root: Path) -> dict[str, tuple[Path, Path]]:
    """Returns the folders of pictures and of labels of each split; of "" if there are no splits."""
    found = {"": (root / "images", root / "labels")}
    for name in folders(root / "images"):  # also images/train2017
        found[name.rstrip("0123456789")] = (root / "images" / name, root / "labels" / name)
    for name in folders(root):
        found[name] = (root / name / "images", root / name / "labels")
    found = {
        name: place
        for name, place in found.items()
        if (not name or is_split(name)) and all(folder.is_dir() for folder in place)
    }
    return {name: place for name, place in found.items() if name or len(found) == 1}


def _holds_labels(folder: Path) -> bool:
    """Whether a line of YOLO's is in one of the first files."""
    for file in sorted(folder.rglob("*.txt"))[:LOOKED_INTO]:
        try:
            with file.open("rb") as opened:
                if LINE.match(opened.read(1 << 16)):
                    return True
        except OSError:
            continue
    return False


def _coordinates(words: list[str]) -> list[float]:
    if len(words) == 4:
        raise ValueError("is a box: export polygons (a segmentation data set)")
    try:
        found = [float(word) for word in words]
    except ValueError:
        found = []
    if len(found) < 6 or len(found) % 2 or not all(map(math.isfinite, found)):
        raise ValueError("must hold a class and three or more points x y")
    if not -BEYOND <= min(found) <= max(found) <= 1 + BEYOND:
        raise ValueError(
            f"must hold coordinates in [0, 1], got {min(found):g}…{max(found):g}: divide x by the "
            "width and y by the height of the picture"
        )
    return found


def _names(root: Path) -> tuple[list[str], Path]:
    """Returns the names of the classes, and the file that lists them.

    Raises:
        ValueError: there is none, or it is damaged.
    """
    for folder in (root, root.parent) if is_split(root.resolve().name) else (root,):
        listed = [*sorted(folder.glob("*.yaml")), *sorted(folder.glob("*.yml"))]
        for file in sorted(listed, key=lambda file: file.stem != "data"):
            names = _names_in_yaml(file)
            if names is not None:
                return names, file
        for place in (folder, folder / "labels"):
            for file in (place / name for name in NAMES):
                if file.is_file():
                    return list(read_names(file).names), file
    raise ValueError(
        f"{root} must have a data.yaml with the names of the classes: write one, such as "
        "names: [road, sky], or a classes.txt with a name a line"
    )


def _names_in_yaml(file: Path) -> list[str] | None:
    """Returns `names` of a YAML file, a list or a mapping from 0, 1, 2, …; None without it."""
    import yaml

    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise ValueError(f"{file} can't be read as YAML: {error}") from error
    names = content.get("names") if isinstance(content, dict) else None
    if names is None:
        return None
    if isinstance(names, dict) and set(names) == set(range(len(names))):
        names = [names[index] for index in range(len(names))]
    if not isinstance(names, list) or not names:
        raise ValueError(f"names in {file} must be a list, or a mapping of 0, 1, 2, …, got {names}")
    count = content.get("nc", len(names))
    if count != len(names):
        raise ValueError(f"nc in {file} must be the number of names, {len(names)}, got {count}")
    return [str(name) for name in names]


YOLO = Format(
    fits,
    read,
    "images/{train,val} and labels/{train,val} of polygons, NAME.txt, with data.yaml",
    is_certain,
)
