"""The names of the splits of data sets."""

from collections.abc import Iterable
from pathlib import Path

SPLITS = (("train", "training"), ("val", "valid", "validation"), ("test", "testing"))


class NoSplitError(ValueError):
    """A data set does not have the split that was asked for."""


def is_split(name: str) -> bool:
    """Whether a folder of this name is customarily one split of a data set."""
    return any(name in names for names in SPLITS)


def split_name(split: str | None, there: Iterable[str], *, place: Path) -> str:
    """The name that the data set at `place` has for a split, out of those that are there.

    Raises:
        ValueError: no split is chosen.
        NoSplitError: there is none of that name or its synonyms.
    """
    names = sorted(there)
    if split is None:
        raise ValueError(f"{place} has several splits: choose one, {' or '.join(names)}")
    synonyms = next((family for family in SPLITS if split in family), (split,))
    for name in (split, *synonyms):
        if name in names:
            return name
    raise NoSplitError(
        f"{place} has no split {' or '.join(synonyms)}; it has {', '.join(names) or 'none'}"
    )
