"""Computes the size that a picture is resized to from the `size` of HF's processor files."""

import math
from collections.abc import Mapping
from typing import Any

SIZE_KEYS = (
    {"height", "width"},
    {"shortest_edge"},
    {"shortest_edge", "longest_edge"},
    {"max_height", "max_width"},
)


def size_dict(size: Any, *, square: bool) -> dict[str, int]:
    """Converts a size to HF's dict from any form: a number, (height, width), or a dict.

    Raises:
        ValueError: the dict has other keys, or a side is not a positive whole number.
    """
    if isinstance(size, Mapping):
        values = {key: value for key, value in size.items() if value is not None}
    elif isinstance(size, list | tuple) and len(size) == 2:
        values = {"height": size[0], "width": size[1]}
    else:
        values = {"height": size, "width": size} if square else {"shortest_edge": size}
    if set(values) not in SIZE_KEYS:
        known = " or ".join("{" + ", ".join(sorted(keys)) + "}" for keys in SIZE_KEYS)
        raise ValueError(f"size must have the keys {known}, got {size!r}")
    if not all(is_number(side) and side >= 1 and int(side) == side for side in values.values()):
        raise ValueError(f"sides of size must be whole numbers of pixels, at least 1, got {size!r}")
    return {key: int(side) for key, side in values.items()}


def target_size(size: Mapping[str, int], height: int, width: int) -> tuple[int, int]:
    """Returns the (height, width) that a picture of height × width is resized to."""
    if "height" in size:
        return size["height"], size["width"]
    if "max_height" in size:
        scale = min(size["max_height"] / height, size["max_width"] / width)
        return _at_least_one(int(height * scale), int(width * scale))
    short, long = min(height, width), max(height, width)
    edge, exact = size["shortest_edge"], float(size["shortest_edge"])
    longest = size.get("longest_edge")
    if longest is not None and long / short * edge > longest:
        exact = longest * float(short) / long
        edge = round(exact)
    if longest is not None and edge == short:
        return height, width
    other = int(exact * long / short)
    return _at_least_one(*((edge, other) if height <= width else (other, edge)))


def _at_least_one(height: int, width: int) -> tuple[int, int]:
    return max(height, 1), max(width, 1)


def is_number(value: Any) -> bool:
    """Whether a value is a finite number and not a bool."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
