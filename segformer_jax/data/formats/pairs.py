"""Finds pictures and masks in folders, and pairs them by name; the formats share it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segformer_jax.data.classes import Classes
from segformer_jax.data.dataset import Dataset
from segformer_jax.data.masks import Coding
from segformer_jax.data.splits import split_name
from segformer_jax.images.find import picture_endings


def paired(
    pictures: dict[str, Path],
    masks: Mapping[str, Any],
    *,
    classes: Classes,
    coding: Coding,
    place: Path,
    recognised: str,
    may_lack: bool = False,
) -> Dataset:
    """Pairs pictures and masks by name.

    Args:
        pictures: their paths by name.
        masks: likewise: paths, or objects whose `open()` draws them.
        classes: the data set's.
        coding: what the pixels of a mask mean.
        place: where the pictures are, for messages.
        recognised: the format, in words.
        may_lack: whether all masks may be missing.

    Raises:
        ValueError: no picture, or none that has a mask.
    """
    if not pictures:
        raise ValueError(f"there is no picture in {place}")
    if not pictures.keys() & masks.keys() and (masks or not may_lack):
        picture, mask = next(iter(pictures)), next(iter(masks), "none")
        ending = mask.removeprefix(picture)
        advice = f": --mask-suffix {ending}" if mask.startswith(picture) else ""
        raise ValueError(
            f"none of the {len(pictures)} pictures in {place} has a mask: the first is {picture}, "
            f"the first of {len(masks)} masks {mask}{advice}"
        )
    names = tuple(name.replace("/", "_") for name in pictures)  # results are files of these names
    if len(set(names)) < len(names):
        names = tuple(f"{number:06d}_{name}" for number, name in enumerate(names))
    return Dataset(
        names=names,
        id2label=classes.id2label,
        pictures=tuple(pictures.values()),
        masks=tuple(masks.get(name) for name in pictures),
        coding=coding,
        strays=tuple(path for name, path in masks.items() if name not in pictures),
        recognised=f"{recognised}, {classes}",
    )


def by_name(place: Path) -> dict[str, Path]:
    """Returns the pictures below a folder by their relative paths without the ending, sorted.

    Raises:
        ValueError: two files of one name.
    """
    found: dict[str, Path] = {}
    for path in sorted(place.rglob("*")):
        inside = path.relative_to(place)
        hidden = any(part.startswith(".") for part in inside.parts)
        if hidden or path.suffix.lower() not in picture_endings() or not path.is_file():
            continue
        name = inside.with_suffix("").as_posix()
        if name in found:
            raise ValueError(
                f"{place} has two files of one name, {found[name].relative_to(place)} and "
                f"{inside}: keep one"
            )
        found[name] = path
    return found


def without_suffix(found: dict[str, Path], suffix: str) -> dict[str, Path]:
    """Returns those whose names end in the suffix, without it."""
    return {n.removesuffix(suffix): path for n, path in found.items() if n.endswith(suffix)}


def without(found: dict[str, Path], others: dict[str, Path]) -> dict[str, Path]:
    """Returns those whose paths are not among the others."""
    paths = set(others.values())
    return {name: path for name, path in found.items() if path not in paths}


def has_pictures(place: Path) -> bool:
    """Whether a picture is somewhere below a folder."""
    return place.is_dir() and any(
        path.suffix.lower() in picture_endings() and not path.name.startswith(".")
        for path in place.rglob("*")
    )


def split_folder(root: Path, split: str | None) -> Path:
    """Returns the folder of a split in `root`.

    Raises:
        ValueError: as `split_name`.
    """
    return root / split_name(split, folders(root), place=root)


def folders(root: Path) -> list[str]:
    """Returns the names of the folders in a folder, sorted, without hidden ones."""
    if not root.is_dir():
        return []
    return sorted(e.name for e in root.iterdir() if e.is_dir() and not e.name.startswith("."))


def inner(root: Path, *inside: str) -> Path:
    """Returns the folder, or the folder inside it that unpacking the download creates."""
    return next((root / name for name in inside if (root / name).is_dir()), root)
