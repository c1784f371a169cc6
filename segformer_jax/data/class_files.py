"""Reads the lists of classes that other tools write: CVAT, Roboflow, labelme and others."""

import csv
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from segformer_jax.data.masks import AS_THEY_ARE, IGNORED, NO_CLASS, Colour
from segformer_jax.images.labels import voc_colour

SHOWN = 80  # characters of a line in a message


@dataclass(frozen=True)
class Listed:
    """What a file lists.

    Attributes:
        names: of the classes, in the order of their indices.
        table: the class index of each value 0…255 of a mask's pixels.
        colours: pairs of an RGB colour and a class index; empty where masks hold indices.
    """

    names: tuple[str, ...]
    table: tuple[int, ...] = AS_THEY_ARE
    colours: tuple[tuple[Colour, int], ...] = ()


def read_labelmap(path: Path) -> Listed:
    """CVAT's labelmap.txt: `name:red,green,blue:parts:actions` a line.

    A class without a colour has that of its place by Pascal VOC's rule, as in CVAT's own reader.

    Raises:
        ValueError: a line of another kind, or one colour twice.
    """
    names, colours = [], []
    for line in _lines(path):
        if line.startswith("#"):
            continue
        name, *others = line.split(":")
        rgb = others[0] if others else ""
        colours.append(_colour(rgb.split(","), path) if rgb else voc_colour(len(names)))
        names.append(name.strip())
    return Listed(tuple(names), colours=_numbered(colours, path))


def read_classes_csv(path: Path) -> Listed:
    """Roboflow's _classes.csv: `Pixel Value, Class`, in any order, with gaps.

    Raises:
        ValueError: a line of another kind, or one value twice.
    """
    rows = {}
    for row in _rows(path):
        value = _byte(row[0])
        if len(row) < 2 or not 0 <= value < IGNORED or value in rows:
            got = ",".join(row)[:SHOWN]
            raise ValueError(f"{path} must hold lines as '0, background', got {got!r}")
        rows[value] = ",".join(row[1:]).strip()
    table = [NO_CLASS] * IGNORED + [IGNORED]
    for index, value in enumerate(sorted(rows)):
        table[value] = index
    return Listed(tuple(rows[value] for value in sorted(rows)), tuple(table))


def read_class_dict(path: Path) -> Listed:
    """class_dict.csv, as Kaggle's data sets have it: `name,r,g,b` a line.

    Raises:
        ValueError: a line of another kind, or one colour twice.
    """
    rows = _rows(path)
    colours = [_colour(row[1:4], path) for row in rows]
    return Listed(tuple(row[0].strip() for row in rows), colours=_numbered(colours, path))


def read_names(path: Path) -> Listed:
    """A name a line; labelme's `__ignore__`, which stands for 255, is left out.

    Raises:
        ValueError: the file is no text.
    """
    return Listed(tuple(line for line in _lines(path) if line != "__ignore__"))


def _colour(parts: list[str], path: Path) -> Colour:
    numbers = [_byte(part) for part in parts]
    if len(numbers) != 3 or min(numbers) < 0:
        raise ValueError(
            f"a colour in {path} must be red, green and blue, each in 0…255, got "
            f"{','.join(parts)[:SHOWN]}"
        )
    return numbers[0], numbers[1], numbers[2]


def _byte(text: str) -> int:
    """The number 0…255 in a text, or -1; int() refuses one of thousands of digits."""
    number = int(text) if re.fullmatch(r"\s*\d{1,9}\s*", text) else -1
    return number if number <= 255 else -1


def _numbered(colours: list[Colour], path: Path) -> tuple[tuple[Colour, int], ...]:
    twice = next((colour for colour in colours if colours.count(colour) > 1), None)
    if twice is not None:
        raise ValueError(f"{path} must give each class another colour, got {twice} for two")
    return tuple((colour, index) for index, colour in enumerate(colours))


def _rows(path: Path) -> list[list[str]]:
    try:
        return list(csv.reader(_lines(path)[1:]))  # the first names the columns
    except csv.Error as error:
        raise ValueError(f"{path} can't be read as CSV: {error}") from error


def _lines(path: Path) -> list[str]:
    """The lines that are not empty.

    Raises:
        ValueError: the file is no text.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} can't be read as UTF-8 text: {error}") from error
    return [line.strip() for line in text.splitlines() if line.strip()]


READERS: dict[str, Callable[[Path], Listed]] = {  # the first that is there counts
    "labelmap.txt": read_labelmap,
    "_classes.csv": read_classes_csv,
    "class_dict.csv": read_class_dict,
    "class_names.txt": read_names,
    "classes.txt": read_names,
    "labels.txt": read_names,
    "codes.txt": read_names,
}
