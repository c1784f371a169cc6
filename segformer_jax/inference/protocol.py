"""How a picture is segmented: whole or in windows, at one or several scales, with flips."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from segformer_jax.images.flips import Flip, check_directions
from segformer_jax.images.picture import Picture, size_of
from segformer_jax.images.processor import SegformerImageProcessor
from segformer_jax.images.sizes import target_size

LONGEST = 4  # limit of the long side, in short sides: 2048 to 512 in mmsegmentation's recipe
SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)  # mmsegmentation's test-time augmentation


@dataclass(frozen=True)
class Windows:
    """Overlapping windows that a picture is cut into; overlapping logits are averaged.

    Attributes:
        size: height and width of a window, in pixels.
        stride: pixels from one window to the next, down and across; None is three quarters of the
            size, as on Cityscapes.
    """

    size: tuple[int, int]
    stride: tuple[int, int] | None = None

    def __post_init__(self):
        if self.stride is None:
            object.__setattr__(self, "stride", tuple(max(1, side * 3 // 4) for side in self.size))
        for name in ("size", "stride"):
            value = getattr(self, name)
            if len(value) != 2 or min(value) < 1:
                raise ValueError(
                    f"the windows' {name} must be height and width in pixels, at least 1, "
                    f"got {value}"
                )
        if any(step > side for side, step in zip(self.size, self.steps, strict=True)):
            raise ValueError(
                "stride must be at most the window's side, so that no pixel is left "
                f"out, got {self.stride} for windows of {self.size}"
            )

    @property
    def steps(self) -> tuple[int, int]:
        """The stride; it is never None after construction."""
        assert self.stride is not None
        return self.stride


@dataclass(frozen=True)
class View:
    """One version of a picture: resized to `size` (height, width), and flipped or not."""

    size: tuple[int, int]
    flip: Flip | None = None


@dataclass(frozen=True)
class Protocol:
    """How a picture is segmented.

    By default, the whole picture is resized by the segmenter's processor. With several views of a
    picture (scales, flips), each view's logits are resized to the picture's size and their softmax
    is averaged, as in mmsegmentation. (Averaged logits would let one confident view dominate.)

    Attributes:
        short_side: resize the picture to this shorter side, in pixels, and keep its ratio up to
            rounding. None uses the processor's size, or with windows the picture's own.
        divisor: with `short_side`, round both sides up to a multiple of this.
        windows: cut the resized picture into these; None segments it whole.
        scales: multiples of that size, one view for each.
        flip: add flipped views for each scale.
        flip_direction: the flipped views to add: "horizontal" swaps left and right, "vertical"
            top and bottom, "diagonal" both.
        threshold: for models of one class: the class map is 1 where the probability is above this.
            With several classes, each pixel has the most probable one.
    """

    short_side: int | None = None
    divisor: int = 32
    windows: Windows | None = None
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    flip_direction: tuple[Flip, ...] = ("horizontal",)
    threshold: float = 0.5

    def __post_init__(self):
        for name, value in (("short_side", self.short_side), ("divisor", self.divisor)):
            if value is not None and value < 1:
                raise ValueError(
                    f"{name} must be a whole number of pixels, at least 1, got {value}"
                )
        if not isinstance(self.flip, bool):
            raise ValueError(
                f"flip must be True or False, got {self.flip!r}: flip_direction says which views "
                'there are, Protocol(flip=True, flip_direction=("horizontal", "vertical"))'
            )
        check_directions(self.flip_direction)
        if self.flip_direction != ("horizontal",) and not self.flip:
            raise ValueError(
                f"flip must be True beside flip_direction {self.flip_direction}, got False"
            )
        if not 0 < self.threshold < 1:
            raise ValueError(f"threshold must be in (0, 1), got {self.threshold}: 0.5 is usual")
        if not self.scales or not all(0 < scale < math.inf for scale in self.scales):
            raise ValueError(f"scales must be at least one number above 0, got {self.scales}")

    @classmethod
    def cityscapes(cls, *, multi_scale: bool = False) -> "Protocol":
        """Returns a protocol of 1024×1024 windows at stride 768, the picture at its own size."""
        return cls(windows=Windows((1024, 1024), (768, 768)))._with_views(multi_scale)

    @classmethod
    def ade20k(cls, *, multi_scale: bool = False) -> "Protocol":
        """Returns a protocol: whole picture, short side 512, long ≤ 2048, multiples of 32."""
        return cls(short_side=512)._with_views(multi_scale)

    def _with_views(self, multi_scale: bool) -> "Protocol":
        return dataclasses.replace(self, scales=SCALES, flip=True) if multi_scale else self

    @property
    def simple(self) -> bool:
        """Whether a picture is one input of the network: no windows, one scale and no flips."""
        return self.windows is None and self.scales == (1.0,) and not self.flip

    def size(self, height: int, width: int, *, scale: float = 1.0) -> tuple[int, int] | None:
        """Returns the height and width that a picture is resized to; None without a `short_side`.

        The sizes are those of mmsegmentation's keep-ratio resize to (4 · short_side, short_side),
        rounded up as by its `AlignedResize`. It resizes the picture twice, this library once.
        """
        if self.short_side is None:
            return None
        shorter, longer = int(self.short_side * scale), int(LONGEST * self.short_side * scale)
        factor = min(shorter / min(height, width), longer / max(height, width))
        kept = (_rounded(side * factor) for side in (height, width))
        new_height, new_width = (max(1, -(-side // self.divisor)) * self.divisor for side in kept)
        return new_height, new_width

    def inputs(
        self, processor: SegformerImageProcessor, image: Picture
    ) -> Float[np.ndarray, "h w c"]:
        """Returns the normalised pixels of a picture; for a `simple` protocol."""
        size = self.size(*size_of(image))
        options: dict[str, Any] = {} if size is None else {"do_resize": True, "size": size}
        return processor(image, **options)["pixel_values"][0]

    def batches_well(self, processor: SegformerImageProcessor) -> bool:
        """Whether every picture is one input of the network, and all inputs have one size."""
        return self.simple and self.short_side is None and processor.fixed_size is not None

    def to_dict(self) -> dict[str, Any]:
        """Returns the settings that are not the defaults, ready for JSON."""
        values: dict[str, Any] = {}
        if self.short_side is not None:
            values |= {"short_side": self.short_side, "divisor": self.divisor}
        if self.windows is not None:
            values |= {"windows": list(self.windows.size), "stride": list(self.windows.steps)}
        if self.scales != (1.0,):
            values["scales"] = list(self.scales)
        if self.flip:
            values["flip"] = True
        if self.flip_direction != ("horizontal",):
            values["flip_direction"] = list(self.flip_direction)
        if self.threshold != 0.5:
            values["threshold"] = self.threshold
        return values

    def views(self, processor: SegformerImageProcessor, height: int, width: int) -> list[View]:
        """Returns all views of a picture of height × width."""
        own = (height, width)
        if self.windows is None and processor.do_resize:
            own = target_size(processor.size, height, width)
        views = []
        for scale in self.scales:
            size = self.size(height, width, scale=scale)
            if size is None:
                size = max(1, _rounded(own[0] * scale)), max(1, _rounded(own[1] * scale))
            views += [View(size), *(View(size, flip) for flip in self.flip_direction if self.flip)]
        return views


def _rounded(value: float) -> int:
    return math.floor(value + 0.5)
