"""The names of the splits of data sets."""

from collections.abc import Iterable
from pathlib import Path

SPLITS = (("train", "training"), ("val", "valid", "validation"), ("test", "testing"))


class NoSplitError(ValueError):
    """A data set does not have the split that was asked for."""


def is_split(name: str) -> bool:
    """Whether a name is a customary name of a split, such as that of a folder."""
    return any(name in names for names in SPLITS)


def split_name(split: str | None, there: Iterable[str], *, place: Path) -> str:
    """Returns the name of a split among those that exist: `split` itself or a synonym.

    `place` is for messages.

    Raises:
        ValueError: `split` is None.
        NoSplitError: no split has that name or a synonym of it.
    """
    names = sorted(there)
    if split is None:
        raise ValueError(f"{place} is divided into splits: choose one, {' or '.join(names)}")
    synonyms = next((family for family in SPLITS if split in family), (split,))
    for name in (split, *synonyms):
        if name in names:
            return name
    raise NoSplitError(
        f"{place} has no split {' or '.join(synonyms)}; it has {', '.join(names) or 'none'}"
    )
