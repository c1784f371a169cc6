"""Finds the licence of a model's weights: in its card, or in the package that installs it."""

import re
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from segformer_jax.checkpoints import hub

FRONT_MATTER = re.compile(r"\A---\n(.*?)\n---", re.DOTALL)
FIELD = re.compile(r"^(license|license_name|license_link): *['\"]?([^'\"\n]+)", re.MULTILINE)
ROW = re.compile(r"^\| *licen[cs]e *\| *(.+?) *\|$", re.MULTILINE | re.IGNORECASE)
UNKNOWN = "not stated by the model's card: ask its authors before you publish this page"


@dataclass(frozen=True)
class Licence:
    """The licence of a model's weights.

    Attributes:
        line: its name and conditions in a line.
        text: its full text, or "" if the model comes without it.
    """

    line: str
    text: str = ""


def licence_of(name_or_path: str | Path) -> Licence:
    """Returns the licence of a weights package, a folder or a model on the hub.

    The line is the card's (`license` above it, or the row "licence" of a table), else the
    package's. The text is the file LICENSE of the folder or the package.

    Raises:
        WeightsError: as `hub.resolve`.
    """
    folder = hub.resolve(name_or_path)
    folder = folder if folder.is_dir() else folder.parent
    package = _package(str(name_or_path))
    card = _text(folder / "README.md")
    texts = [_text(folder / name) for name in ("LICENSE", "LICENSE.txt", "LICENSE.md")]
    if package is not None:
        texts += [
            _text(Path(str(own.locate()))) for own in package.files or () if own.name == "LICENSE"
        ]
    return Licence(_line(card) or _stated(package) or UNKNOWN, next(filter(None, texts), ""))


def _line(card: str) -> str:
    front = FRONT_MATTER.match(card)
    fields = dict(FIELD.findall(front[1])) if front else {}
    name = fields.get("license_name") or fields.get("license")
    if name:
        return " · ".join([name.strip(), *filter(None, [fields.get("license_link")])])
    row = ROW.search(card)
    return row[1] if row else ""


def _package(name: str) -> metadata.Distribution | None:
    points = metadata.entry_points(group=hub.ENTRY_POINTS)
    return next((point.dist for point in points if point.name == name), None)


def _stated(package: metadata.Distribution | None) -> str:
    field = "License-Expression"
    known = package is not None and field in package.metadata
    return package.metadata[field] if known else ""


def _text(file: Path) -> str:
    return file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
