"""Reads the names of a data set's classes: id2label.json, and palette.json for coloured masks.

Other tools' lists are in `class_files`; id2label.json wins over them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

from segformer_jax.data.class_files import READERS
from segformer_jax.data.masks import AS_THEY_ARE, IGNORED, WITHOUT_ZERO, Coding, Colour
from segformer_jax.json_text import json_value

ID2LABEL = "id2label.json"
IGNORED_NAMES = ("ignore", "ignored", "null", "void", str(IGNORED))  # unless a class has this name


@dataclass(frozen=True)
class Classes:
    """The classes of a data set, and where they are from.

    Attributes:
        id2label: names by index, 0, 1, 2, …
        source: the file's name, or another source in words; for messages.
        table: the class index of each value 0…255 of a mask's pixels.
        colours: pairs of an RGB colour and the class index that it stands for; empty where masks
            hold indices.
    """

    id2label: dict[int, str]
    source: str
    table: tuple[int, ...] = AS_THEY_ARE
    colours: tuple[tuple[Colour, int], ...] = ()

    def __str__(self) -> str:
        count = len(self.id2label)
        colours = ", colours from palette.json" if self.source == ID2LABEL and self.colours else ""
        return f"{count} class{'es' * (count > 1)} from {self.source}{colours}"


def own_classes(folder: Path) -> Classes | None:
    """Reads the classes from a file in the folder or the one above; None if there is no such file.

    Raises:
        ValueError: a file that is damaged, names no classes, or more than 255.
    """
    classes = None
    if _beside(folder, ID2LABEL) is not None:
        classes = Classes(read_id2label(folder), ID2LABEL)
    else:
        for name, read in READERS.items():
            path = _beside(folder, name)
            if path is not None:
                listed = read(path)
                _check_number(len(listed.names), path)
                id2label = dict(enumerate(listed.names))
                classes = Classes(id2label, name, listed.table, listed.colours)
                break
    if classes is None:
        return None
    palette = read_palette(folder, classes.id2label)
    return replace(classes, colours=palette, table=AS_THEY_ARE) if palette else classes


def some_classes(folder: Path, *, teacher: Mapping[int, str] | None = None) -> Classes:
    """Reads the classes from a file; without such a file, they are those of the teacher.

    Raises:
        ValueError: there are neither; or as `own_classes`.
    """
    classes = own_classes(folder)
    if classes is None and teacher is not None:
        return Classes(dict(teacher), "the teacher")
    if classes is None:
        read_id2label(folder)  # says what to write
        raise AssertionError("own_classes has found no id2label.json")
    return classes


def coding_of(classes: Classes, *, reduce_zero_label: bool) -> Coding:
    """Returns the coding of the masks: class indices, or colours if the classes have colours.

    Raises:
        ValueError: `reduce_zero_label` for colours, or for values that a file gives classes.
    """
    if classes.colours and reduce_zero_label:
        raise ValueError(
            "reduce_zero_label must be used with masks of indices only: for masks "
            'of colours, write the ignored colour under "ignore" in palette.json'
        )
    if reduce_zero_label and classes.table != AS_THEY_ARE:
        refuse_zero(classes.source)
    num_values = max(len(classes.id2label), 2)  # a single class is 1, everything else 0
    table = WITHOUT_ZERO if reduce_zero_label else classes.table
    return Coding(num_values, table, classes.colours)


def refuse_zero(name: str) -> NoReturn:
    """Raises a ValueError: `reduce_zero_label` with what says which class the value 0 is."""
    raise ValueError(
        f"reduce_zero_label must not be used with {name}, which defines the value 0: leave it out"
    )


def read_id2label(folder: Path) -> dict[int, str]:
    """Class names by index, from id2label.json in the folder or the one above.

    Args:
        folder: of the masks.

    Raises:
        ValueError: the file is missing or is not JSON, its indices are not 0, 1, 2, …, or it has
            more than 255 classes.
    """
    path = _beside(folder, ID2LABEL)
    if path is None:
        raise ValueError(
            f"there is no id2label.json in {folder} or the folder above: write one with the name "
            'of each class, such as {"0": "road", "1": "sky"}; another tool\'s list is read too '
            f"({', '.join(READERS)})"
        )
    content = _read_json(path)
    rule = 'it is {"0": "first class", "1": "second class", …}'
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content.values()):
        raise ValueError(f"{path} has no class names: {rule}")
    if not content or set(content) != {str(index) for index in range(len(content))}:
        raise ValueError(f"{path} has the indices {_shown(content)}: {rule}, without a gap")
    _check_number(len(content), path)
    return {index: content[str(index)] for index in range(len(content))}


def _check_number(count: int, path: Path) -> None:
    if not 0 < count <= IGNORED:
        raise ValueError(
            f"{path} must name 1 to {IGNORED} classes, 0…254, because {IGNORED} "
            f"marks ignored pixels, got {count}: merge classes"
        )


def read_palette(folder: Path, id2label: Mapping[int, str]) -> tuple[tuple[Colour, int], ...]:
    """Returns the colours of palette.json with their class indices; empty without such a file.

    Keys of the file are names or indices of `id2label`, or a name for ignored pixels. With a single
    class, its key is "1" or its name, and "0" or "background" is everything else.

    Raises:
        ValueError: the file is not JSON, a key is not a class, a value is not a colour, or two
            classes have one colour.
    """
    path = _beside(folder, "palette.json")
    if path is None:
        return ()
    content = _read_json(path)
    if not isinstance(content, dict) or not content:
        raise ValueError(f'{path} must be {{"class": [red, green, blue], …}}, got something else')
    index_of = dict.fromkeys(IGNORED_NAMES, IGNORED)
    values = id2label if len(id2label) > 1 else {0: "background", 1: id2label[0]}
    index_of |= {str(index): index for index in values}
    index_of |= {name: index for index, name in values.items()}
    colours: dict[Colour, int] = {}
    for name, value in content.items():
        if name not in index_of:
            raise ValueError(
                f"the keys of {path} must be names or indices of id2label.json, or "
                f'"ignore", got {name!r}'
            )
        many = isinstance(value, list) and value and isinstance(value[0], list)
        for entry in value if many else [value]:
            colour = _colour(entry, name=name, path=path)
            if colours.setdefault(colour, index_of[name]) != index_of[name]:
                raise ValueError(
                    f"{path} must give each class another colour, got {list(colour)} for "
                    "two classes"
                )
    return tuple(colours.items())


def _colour(value: Any, *, name: str, path: Path) -> Colour:
    if (
        not isinstance(value, list)
        or len(value) != 3
        or not all(type(part) is int and 0 <= part <= 255 for part in value)
    ):
        raise ValueError(
            f"a colour in {path} must be [red, green, blue], each in 0…255, got "
            f"{value!r} for {name!r}"
        )
    return value[0], value[1], value[2]


def _beside(folder: Path, name: str) -> Path | None:
    return next(
        (place / name for place in (folder, folder.parent) if (place / name).is_file()), None
    )


def _read_json(path: Path) -> Any:
    try:
        return json_value(path.read_bytes())
    except (OSError, ValueError) as error:  # ValueError: not JSON or not UTF
        raise ValueError(f"{path} can't be read as JSON: {error}") from error


def _shown(keys: Any) -> str:
    listed = sorted(map(str, keys))
    return ", ".join(listed[:8]) + (", …" if len(listed) > 8 else "") if listed else "none"
