"""Reads the names of a data set's classes: id2label.json, and palette.json for coloured masks."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segformer_jax.data.masks import AS_THEY_ARE, IGNORED, WITHOUT_ZERO, Coding, Colour

IGNORED_NAMES = ("ignore", "ignored", "null", "void", str(IGNORED))  # unless a class has this name


def read_id2label(folder: Path, *, otherwise: Mapping[int, str] | None = None) -> dict[int, str]:
    """Reads class names by index from id2label.json in the folder or the one above.

    Args:
        folder: the folder of a data set or of one of its splits.
        otherwise: the classes if there is no such file; None makes that an error.

    Raises:
        ValueError: the file is missing or is not JSON, its indices are not 0, 1, 2, …, or it has
            more than 255 classes.
    """
    path = _beside(folder, "id2label.json")
    if path is None and otherwise is not None:
        return dict(otherwise)
    if path is None:
        raise ValueError(
            f"there is no id2label.json in {folder} or the folder above: write one with the name "
            'of each class, such as {"0": "road", "1": "sky"}'
        )
    content = _read_json(path)
    rule = 'it is {"0": "first class", "1": "second class", …}'
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content.values()):
        raise ValueError(f"{path} has no class names: {rule}")
    if not content or set(content) != {str(index) for index in range(len(content))}:
        raise ValueError(f"{path} has the indices {_shown(content)}: {rule}, without a gap")
    if len(content) > IGNORED:
        raise ValueError(
            f"{path} must name at most {IGNORED} classes, 0…254, because {IGNORED} "
            f"marks ignored pixels, got {len(content)}: merge classes"
        )
    return {index: content[str(index)] for index in range(len(content))}


def read_coding(folder: Path, id2label: Mapping[int, str], *, reduce_zero_label: bool) -> Coding:
    """Returns the coding of the masks: class indices, or colours if there is a palette.json.

    Raises:
        ValueError: as `read_palette`, or `reduce_zero_label` is set for masks of colours.
    """
    colours = read_palette(folder, id2label)
    if colours and reduce_zero_label:
        raise ValueError(
            "reduce_zero_label must be used with masks of indices only: for masks "
            'of colours, write the ignored colour under "ignore" in palette.json'
        )
    num_values = max(len(id2label), 2)  # a single class is 1, everything else 0
    return Coding(num_values, WITHOUT_ZERO if reduce_zero_label else AS_THEY_ARE, colours)


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
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as error:  # ValueError: not JSON or not UTF
        raise ValueError(f"{path} can't be read as JSON: {error}") from error


def _shown(keys: Any) -> str:
    listed = sorted(map(str, keys))
    return ", ".join(listed[:8]) + (", …" if len(listed) > 8 else "") if listed else "none"
