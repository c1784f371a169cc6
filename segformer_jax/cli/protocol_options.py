"""--protocol and the options of windows, scales and flips, which `segment` and `evaluate` share."""

import dataclasses
from typing import TYPE_CHECKING, Any, Literal

from segformer_jax.images.flips import Flip

if TYPE_CHECKING:
    from segformer_jax.inference.protocol import Protocol

Name = Literal["cityscapes", "cityscapes-ms", "ade20k", "ade20k-ms"]


def make_protocol(
    name: Name | None,
    *,
    slide: tuple[int, ...] = (),
    scales: tuple[float, ...] = (),
    flip: bool = False,
    flip_direction: tuple[Flip, ...] = (),
    threshold: float = 0.5,
    **size: int | None,
) -> "Protocol":
    """The named protocol, or the processor's, with the parts that are given in place of its own.

    Args:
        name: whose options are the start; -ms is with all scales and flips.
        slide: a window's side, and the stride: three quarters of it when left out.
        scales: times the size, a view each.
        flip: each view flipped as well.
        flip_direction: which flipped views there are; left and right swapped when left out.
        threshold: of the probability of a model's one class.
        size: `short_side` and `divisor`; None leaves them as they are.

    Raises:
        ValueError: more than two numbers in `slide`, or one out of its range.
    """
    from segformer_jax.inference.protocol import Protocol, Windows

    protocol = Protocol()
    if name is not None:
        family, _, scaled = name.partition("-")
        protocol = getattr(Protocol, family)(multi_scale=bool(scaled))
    changes: dict[str, Any] = {"threshold": threshold}
    changes |= {key: value for key, value in size.items() if value is not None}
    if slide:
        if len(slide) > 2:
            raise ValueError(
                "--slide must be one or two numbers, the window's side and the stride "
                "(three quarters of the side by default), got "
                f"{' '.join(map(str, slide))}: for example --slide 1024 768"
            )
        stride = None if len(slide) == 1 else (slide[1], slide[1])
        changes["windows"] = Windows((slide[0], slide[0]), stride)
    if scales:
        changes["scales"] = scales
    if flip or flip_direction:
        changes["flip"] = True
    if flip_direction:
        changes["flip_direction"] = flip_direction
    return dataclasses.replace(protocol, **changes)
