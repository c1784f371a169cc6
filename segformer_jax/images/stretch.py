"""The setting of how values of more than 8 bits become 8: a range, or percentiles.

Nothing here imports NumPy, so that the command line answers `--help` without it.
"""

import math
from typing import Any, Literal

Stretch = tuple[int | float, int | float] | Literal["percentile"]


def checked_stretch(value: Any) -> Stretch | None:
    """Checks a stretch: None, "percentile" or (low, high), also as a list from JSON.

    Raises:
        ValueError: it is none of these.
    """
    if value is None or value == "percentile":
        return value
    numbers = list(value) if isinstance(value, list | tuple) else []
    if len(numbers) == 2 and all(
        isinstance(number, int | float) and math.isfinite(number) for number in numbers
    ):
        low, high = numbers
        if low < high:
            return low, high
    raise ValueError(
        'stretch must be (LOW, HIGH) with LOW below HIGH, or "percentile", got '
        f"{value!r}: leave it out for pictures of 8 bits"
    )


def chosen_stretch(limits: tuple[float, ...], stretch: str | None) -> Stretch | None:
    """Returns the stretch of the options --range LOW HIGH and --stretch percentile.

    Raises:
        ValueError: both are given, or one is not valid.
    """
    if limits and stretch is not None:
        raise ValueError(f"--range must not be given beside --stretch, got {limits} and {stretch}")
    return checked_stretch(limits or stretch)
