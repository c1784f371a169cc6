"""Finds pictures in a folder, by a glob pattern or in a list, and names their results."""

import glob
import os
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from PIL import Image

from segformer_jax.images.pillow_file import HEIC_ENDINGS

# formats that Pillow identifies, but can't decode without a handler from another package
ONLY_IDENTIFIED = ("BUFR", "GRIB", "HDF5", "MPEG", "WMF")


@dataclass(frozen=True)
class Found:
    """A picture, and the name of its results.

    Attributes:
        file: path of the picture.
        name: path relative to the searched folder, without the ending: "a/b" for FOLDER/a/b.jpg.
    """

    file: Path
    name: str


def find_pictures(
    source: str | Path, *, without: Path | None = None, also: Collection[str] = ()
) -> tuple[Path, list[Found]]:
    """Finds the pictures of a folder or a pattern, sorted by name, or of a list, in its order.

    A folder is searched, with its subfolders, for files with an ending that Pillow can decode. A
    pattern has `*`, `?`, `[…]` or `**` and matches files of any ending. A list is a text file that
    ends in `.txt` and has one path per line, relative to the list's folder; `#` starts a comment.
    Files of a list that do not exist are kept, duplicates are removed. Hidden files and folders are
    skipped, unless a list names them.

    Args:
        source: a folder, a pattern, or a list.
        without: a folder to skip, such as that of the results.
        also: further endings to search a folder for, such as ".vrt".

    Returns:
        The folder that names are relative to, and the pictures. A picture of a list that is outside
        this folder has its absolute path as a name.

    Raises:
        ValueError: the source does not exist or has no pictures, or two have the same name.
    """
    path = Path(source)
    if path.is_dir():
        root, files = path, list(_in_folder(path, without, also))
        nothing = f"{source} holds no picture of a kind that Pillow reads"
    elif is_pattern(path):
        root, files = _root_of(path), list(_by_pattern(str(path), without))
        nothing = f"no file fits the pattern {source}"
    elif path.suffix.lower() == ".txt":
        root, files = path.parent, list(_listed(path))
        nothing = f"the list {source} names no picture"
    else:
        raise ValueError(
            f"{source} is not a folder, glob pattern or .txt list: give a folder, a "
            "pattern such as 'photos/*.jpg', or list.txt"
        )
    if not files:
        raise ValueError(nothing)
    return root, _named(files, root)


def is_pattern(path: Path) -> bool:
    """Whether a path has glob characters, and no file or folder of this name exists."""
    return glob.has_magic(str(path)) and not path.exists()


@cache
def picture_endings() -> frozenset[str]:
    """Returns the file name endings that the installed Pillow can decode, such as ".jpg"."""
    Image.init()
    kinds = set(Image.OPEN) - set(ONLY_IDENTIFIED)
    known = (end for end, kind in Image.registered_extensions().items() if kind in kinds)
    return frozenset((*known, *HEIC_ENDINGS))


def other_files(folder: Path, *, without: Path | None = None) -> dict[str, list[Path]]:
    """Lists the files of a folder that `find_pictures` leaves out, by ending; without hidden ones.

    Args:
        folder: searched with its subfolders.
        without: a folder to skip, such as that of the results.
    """
    others: dict[str, list[Path]] = {}
    for file in _walk(folder, without):
        if file.suffix.lower() not in picture_endings():
            others.setdefault(file.suffix.lower(), []).append(file)
    return others


def _in_folder(folder: Path, without: Path | None, also: Collection[str]) -> Iterator[Path]:
    endings = picture_endings().union(also)
    for file in _walk(folder, without):
        if file.suffix.lower() in endings:
            yield file


def _walk(folder: Path, without: Path | None) -> Iterator[Path]:
    """Yields all files but hidden ones, in the order of their names."""
    forbidden = without.resolve() if without is not None else None
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".") and Path(place, name).resolve() != forbidden
        )
        for name in sorted(files):
            if not name.startswith("."):
                yield Path(place, name)


def _by_pattern(pattern: str, without: Path | None) -> Iterator[Path]:
    forbidden = without.resolve() if without is not None else None
    for name in sorted(glob.iglob(pattern, recursive=True)):  # skips hidden files
        file = Path(name)
        if file.is_file() and (forbidden is None or forbidden not in file.resolve().parents):
            yield file


def _root_of(pattern: Path) -> Path:
    """Returns the folder in front of the first part of a pattern that has glob characters."""
    plain = []
    for part in pattern.parts[:-1]:
        if glob.has_magic(part):
            break
        plain.append(part)
    return Path(*plain)


def _listed(file: Path) -> Iterator[Path]:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise ValueError(f"there is no list file {file}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"the list file {file} can't be read as UTF-8 text ({error}): save it "
            "as UTF-8, a path a line"
        ) from error
    for line in text.splitlines():
        name = line.strip()
        if name and not name.startswith("#"):
            yield file.parent / os.fsdecode(name.encode())  # whatever the locale's encoding


def _named(files: Iterable[Path], root: Path) -> list[Found]:
    by_name: dict[str, Path] = {}
    top = os.path.abspath(root)
    for file in files:
        whole = os.path.abspath(file)
        inside = os.path.relpath(whole, top)
        if inside.split(os.sep)[0] == os.pardir:
            inside = os.path.relpath(whole, Path(whole).anchor)
        name = Path(inside).with_suffix("").as_posix()
        other = by_name.setdefault(name, file)
        if os.path.abspath(other) != whole:
            raise ValueError(
                f"{other} and {file} would both be written as {name}.*: segment them into two "
                "folders (--out-dir), by two patterns such as 'photos/*.jpg' and 'photos/*.png'"
            )
    return [Found(file, name) for name, file in by_name.items()]
