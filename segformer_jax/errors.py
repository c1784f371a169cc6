"""The exceptions of this library, and lists in their messages."""

from collections.abc import Sequence

MOST = 20  # entries of a list in a message


class WeightsError(ValueError):
    """A checkpoint that is missing, damaged, refused, or does not fit the model."""


class ImageError(ValueError):
    """A picture that can't be read, or is refused, for example because it is too large."""


class ImageWarning(UserWarning):
    """A picture that was read, but may not look as it was meant to."""


def listed(items: Sequence[object], *, between: str = ", ") -> str:
    """Joins the first 20 items, and says how many more there are; "none" for an empty list."""
    shown = [str(item) for item in items[:MOST]]
    more = [f"and {len(items) - MOST:,} more"] if len(items) > MOST else []
    return between.join([*shown, *more]) or "none"
