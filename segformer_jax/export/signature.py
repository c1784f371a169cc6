"""Defines the inputs and outputs of an exported program, for both formats."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from segformer_jax.images.processor import SegformerImageProcessor
from segformer_jax.models.segformer import SegformerForSemanticSegmentation

STEPS = ("preprocess", "argmax")


def check_model(model: Any) -> None:
    """Raises a ValueError if the model is not a `SegformerForSemanticSegmentation`."""
    if not isinstance(model, SegformerForSemanticSegmentation):
        raise ValueError(
            "the model must be a SegformerForSemanticSegmentation, got a "
            f"{type(model).__name__}: use jax.export for it, or load the checkpoint "
            "as a segmentation model"
        )


@dataclass(frozen=True)
class Signature:
    """The inputs and outputs of an exported program.

    Attributes:
        batch: pictures per call; None accepts any number.
        size: height and width in pixels; None accepts any size.
        steps: with "preprocess", the program takes uint8 photos (b, h, w, 3), and scales and
            normalises them like the processor, without resizing; of a processor with a range,
            `stretch`, it takes the uint16 values themselves. With "argmax", it returns the class of
            every pixel, (b, h, w), uint8 up to 255 classes, instead of logits at 1/4 of the size.

    Raises:
        ValueError: a batch or side is not positive, or a step is unknown.
    """

    batch: int | None = None
    size: tuple[int, int] | None = None
    steps: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.batch is not None and self.batch < 1:
            raise ValueError(
                f"batch must be at least 1, or left out for any batch, got {self.batch}"
            )
        for step in self.steps:
            if step not in STEPS:
                raise ValueError(f"a step must be one of {', '.join(STEPS)}, got {step!r}")

    @property
    def preprocess(self) -> bool:
        """Whether the program takes photos, not normalised pixels."""
        return "preprocess" in self.steps

    @property
    def argmax(self) -> bool:
        """Whether the program returns classes."""
        return "argmax" in self.steps

    def check(self, config: Any) -> None:
        """Raises a ValueError if a side is below `config.minimum_size`."""
        least = config.minimum_size
        if self.size is not None and min(self.size) < least:
            raise ValueError(
                f"size must have sides of at least {least} pixels for this network, got "
                f"{self.size[0]} × {self.size[1]}"
            )


def pixel_table(
    processor: SegformerImageProcessor | None, config: Any
) -> Float[np.ndarray, "256 c"]:
    """Returns the normalised value for every value of a byte (0…255) and every channel.

    Args:
        processor: the model's processor.
        config: has the model's `num_channels`.

    Raises:
        ValueError: there is no processor, or it is for another number of channels than the network.
    """
    if processor is None:
        raise ValueError('the step "preprocess" needs a processor: pass processor=…')
    if processor.channels not in (None, config.num_channels):
        raise ValueError(
            'the step "preprocess" must have a processor of as many channels as the network, '
            f"{config.num_channels}, got {processor.channels}: export it without this step"
        )
    return processor.byte_values(config.num_channels)


def pixel_line(
    table: Float[np.ndarray, "256 c"],
) -> tuple[Float[np.ndarray, " c"], Float[np.ndarray, " c"]]:
    """Returns the factor and the shift of each channel: value = byte · factor + shift.

    The values of a `pixel_table` are on a line, up to the rounding of float32.
    """
    exact = table.astype(np.float64)
    factor, shift = (exact[255] - exact[0]) / 255, exact[0]
    return factor.astype(np.float32), shift.astype(np.float32)


def check_for_photos(config: Any, processor: SegformerImageProcessor, *, what: str) -> None:
    """Raises a ValueError if the network or processor is not for RGB of 8 bits, or too small.

    Args:
        config: has the model's `num_channels`.
        processor: the model's processor.
        what: what can't be made of another one, for the error.
    """
    if config.num_channels != 3 or processor.channels != 3:
        raise ValueError(
            f"{what} needs a network and processor for RGB, got {config.num_channels} channels: "
            "use --format onnx"
        )
    if processor.stretch is not None:
        raise ValueError(
            f"{what} needs a processor for 8 bits, got stretch={processor.stretch}: JavaScript "
            "reads pictures of no more than 8 bits; use --format onnx"
        )
    if processor.fixed_size is not None:
        Signature(size=processor.fixed_size).check(config)


def photo_range(processor: SegformerImageProcessor) -> tuple[int | float, int | float] | None:
    """Returns the values that become 0 and 255 in a program for uint16 photos; None for uint8.

    Raises:
        ValueError: the processor stretches each picture by its own percentiles.
    """
    if processor.stretch == "percentile":
        raise ValueError(
            'the step "preprocess" must have a fixed range, got a processor that stretches each '
            "picture by its own percentiles: export without this step, or with stretch=(LOW, HIGH) "
            "in preprocessor_config.json"
        )
    return processor.stretch
