"""Shared by the formats of shapes: reads JSON files, and adds a background to their classes."""

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from segformer_jax.data.classes import Classes
from segformer_jax.data.dataset import Dataset
from segformer_jax.data.masks import IGNORED, Coding
from segformer_jax.json_text import json_value

BACKGROUNDS = ("background", "_background_")
HEAD = 4096  # bytes, by which a kind of JSON is told


def begins_with(file: Path, *keys: str, opening: bytes = b"{") -> bool:
    """Whether a JSON file begins with this bracket, and its first bytes name all of these keys."""
    try:
        with file.open("rb") as opened:
            head = opened.read(HEAD)
    except OSError:
        return False
    return head.lstrip(b"\xef\xbb\xbf \r\n\t").startswith(opening) and all(
        re.search(rb'"%s"\s*:' % key.encode(), head) for key in keys
    )


def read_object(file: Path) -> dict[str, Any]:
    """Reads the object in a JSON file.

    Raises:
        ValueError: no JSON, or something else in it.
    """
    content = read_json(file)
    if not isinstance(content, dict):
        raise ValueError(f"{file} must hold a JSON object, got a {type(content).__name__}")
    return content


def read_json(file: Path) -> Any:
    """Reads a JSON file.

    Raises:
        ValueError: no JSON.
    """
    try:
        return json_value(file.read_bytes())
    except (OSError, ValueError) as error:  # ValueError: no JSON, no UTF-8
        raise ValueError(f"{file} can't be read as JSON: {error}") from error


def inside(folder: Path, name: Any, *, file: Path) -> Path:
    """Returns the path of a picture that a file names; it must be inside the folder.

    Raises:
        ValueError: no name, or one that leads out of the folder.
    """
    path = PurePosixPath(str(name).replace("\\", "/"))
    out = path.is_absolute() or ".." in path.parts or PureWindowsPath(str(name)).drive
    if not isinstance(name, str) or not path.name or out or "\0" in name:
        raise ValueError(f"{file} must name pictures in its own folder, got {name!r}")
    return folder / path


def numbered(
    own: Classes | None, names: Sequence[str], *, file: Path, whole: bool = False
) -> Classes:
    """Returns the classes of shapes: those of a class file, or a background and then the names.

    Args:
        own: the classes of a class file; None if there is none.
        names: the names in the order of the shapes' own numbers.
        file: the file of the shapes, for messages.
        whole: whether shapes cover all pixels that count, so that no background is added.

    Raises:
        ValueError: a name that the user's own list does not have, or one twice; or too many.
    """
    if own is None:
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"{file} must give each class another name, got {twice!r} twice")
        named = whole or any(name in BACKGROUNDS for name in names)
        behind = () if named else BACKGROUNDS[:1]
        if len(behind) + len(names) > IGNORED:
            raise ValueError(
                f"{file} must have at most {IGNORED} classes with the background, because "
                f"{IGNORED} marks ignored pixels, got {len(behind) + len(names)}: merge classes"
            )
        return Classes(dict(enumerate((*behind, *names))), file.name)
    unknown = [name for name in names if name not in own.id2label.values()]
    if unknown:
        raise ValueError(f"{file} has the class {unknown[0]!r}, which {own.source} does not have")
    return own


def background(classes: Classes) -> int:
    """Returns the value of pixels outside all shapes: the background's, or 255 if there is none."""
    return next((i for i, name in classes.id2label.items() if name in BACKGROUNDS), IGNORED)


def in_order(
    pictures: Sequence[Path], masks: Sequence[Any], classes: Classes, *, recognised: str
) -> Dataset:
    """Returns the data set of pictures that a file lists, named by their places in it."""
    return Dataset(
        names=tuple(f"{place:06d}_{picture.stem}" for place, picture in enumerate(pictures)),
        id2label=classes.id2label,
        pictures=tuple(pictures),
        masks=tuple(masks),
        coding=Coding(max(len(classes.id2label), 2)),
        recognised=f"{recognised}, {classes}",
    )
