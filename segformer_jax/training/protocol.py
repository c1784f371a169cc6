"""How a data set's pictures become the network's input when a model is evaluated."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import Image

from segformer_jax.inference.segmenter import Segmenter

LONGEST = 4  # times the short side: the recipe's 2048 to 512


@dataclass(frozen=True)
class Protocol:
    """How pictures become the network's input.

    Attributes:
        short_side: pixels of the shorter side of the whole picture, which keeps its ratio but for
            the rounding; None leaves all to the segmenter's processor.
        divisor: both sides are rounded up to a multiple of it.
    """

    short_side: int | None = None
    divisor: int = 32

    def __post_init__(self):
        for name, value in (("short_side", self.short_side), ("divisor", self.divisor)):
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; it is a number of pixels, at least 1")

    def size(self, height: int, width: int) -> tuple[int, int] | None:
        """The height and width that a picture is resized to; None: as the processor does it.

        The sizes are those of mmsegmentation's keep-ratio resize to (4 · short_side, short_side),
        rounded up as its `AlignedResize`; there the picture is resized twice, here once.
        """
        if self.short_side is None:
            return None
        short, long = min(height, width), max(height, width)
        scale = min(self.short_side / short, LONGEST * self.short_side / long)
        kept = (math.floor(side * scale + 0.5) for side in (height, width))
        new_height, new_width = (max(1, -(-s // self.divisor)) * self.divisor for s in kept)
        return new_height, new_width

    def inputs(self, segmenter: Segmenter, image: Image.Image) -> Float[np.ndarray, "h w c"]:
        """A picture's normalised pixels."""
        size = self.size(image.height, image.width)
        options: dict[str, Any] = {} if size is None else {"do_resize": True, "size": size}
        return segmenter.processor(image, **options)["pixel_values"][0]

    def batches_well(self, segmenter: Segmenter) -> bool:
        """Whether all pictures have one size in the network."""
        processor = segmenter.processor
        return self.short_side is None and processor.do_resize and "height" in processor.size
