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
    """Returns the named protocol, or the default one, with the given options instead of its own.

    Args:
        name: the protocol to start from; -ms adds all scales and flips. None starts from
            `Protocol()`, which uses the processor's size.
        slide: the side of the windows, and their stride, by default three quarters of the side.
        scales: multiples of the size, one view for each.
        flip: add a flipped view for each scale.
        flip_direction: add flipped views in these directions; by default left and right swapped.
        threshold: for models of one class: pixels above this probability belong to it.
        size: `short_side` and `divisor`; None leaves the protocol's own.

    Raises:
        ValueError: `slide` has more than two numbers, or an option is out of its range.
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
