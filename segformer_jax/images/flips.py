"""The directions in which pictures are flipped, with mmsegmentation's names."""

from typing import Literal, get_args

Flip = Literal["horizontal", "vertical", "diagonal"]


def reversed_sides(flip: Flip | None) -> tuple[bool, bool]:
    """Whether a flip reverses the order of the rows, and that of the columns.

    "horizontal" swaps left and right, "vertical" top and bottom, "diagonal" both; None neither.
    """
    return flip in ("vertical", "diagonal"), flip in ("horizontal", "diagonal")


def check_directions(directions: tuple[Flip, ...]) -> None:
    """Raises a ValueError unless these are known directions, at least one, each given once."""
    known = get_args(Flip)
    if not directions or not {*directions} <= {*known} or len({*directions}) < len(directions):
        raise ValueError(
            f"flip_direction must be one or more of {', '.join(known)}, each once, got "
            f"{directions!r}"
        )
