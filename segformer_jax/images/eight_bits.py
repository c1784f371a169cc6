"""Converts values of any type to 8 bits, by their type, a range or two percentiles."""

import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np
from jaxtyping import Shaped, UInt8

from segformer_jax.errors import ImageError, ImageWarning
from segformer_jax.images.stretch import Stretch

PERCENTILES = (2, 98)  # of each band's values, as QGIS draws rasters
GRID = 1024  # pixels per side, at most, of the grid that percentiles are taken of
NEARLY_BLACK = 16383  # 14 bits: a quarter of 16 bits' range


def to_eight_bits(
    pixels: Shaped[np.ndarray, "h w c"],
    *,
    stretch: Stretch | None = None,
    stored: tuple[float, float] | None = None,
    name: str = "the picture",
) -> tuple[UInt8[np.ndarray, "h w c"], bool]:
    """Returns the values in 0…255, and whether they were floats in 0…1 before.

    uint8 and bool are used as they are. Without a range, uint16 is divided by 257, and so are
    other integers if one of them is above 255; floats are interpreted as in transformers, in
    0…255 if all are whole numbers, else in 0…1, and truncated, not rounded.

    Args:
        pixels: the values.
        stretch: (low, high), the values that become 0 and 255; values beyond are cut off.
            "percentile": the 2nd and the 98th percentile of each band.
        stored: the range that the file records, used without a `stretch`.
        name: of the picture, for messages.

    Raises:
        ImageError: values outside their range, or NaN.
    """
    kind = pixels.dtype.kind
    if pixels.dtype == np.uint8:
        return pixels, False
    if kind == "b":
        return np.where(pixels, np.uint8(255), np.uint8(0)), False
    if kind not in "uif":
        raise ImageError(f"{name} must hold numbers, got values of type {pixels.dtype}")
    low, high = pixels.min(), pixels.max()
    if not np.isfinite([low, high]).all():
        raise ImageError(
            f"{name} must have finite values, got {pixels.dtype} from {low} to {high}: replace NaN "
            "and infinity by numbers"
        )
    if stretch == "percentile":
        return stretched(pixels, *percentiles(pixels)), False
    limits = stretch or stored
    if limits is not None:
        return stretched(pixels, *limits), False
    if kind in "ui" and low >= 0 and high <= 65535:
        if (kind == "u" and pixels.dtype.itemsize == 2) or high > 255:
            warn_if_nearly_black(int(high), name=name)
            return divided(pixels), False
        return pixels.astype(np.uint8), False
    if kind == "f" and low >= 0 and high <= 255:
        if np.allclose(pixels, np.trunc(pixels)):
            return pixels.astype(np.uint8), False
        if high <= 1:
            return (pixels.astype(np.float64) * 255).astype(np.float32).astype(np.uint8), True
    raise ImageError(
        f"{name} must have values in 0…255 (16-bit integers: 0…65535, floats: 0…1), got "
        f"{pixels.dtype} from {low} to {high}: give their range, stretch=(LOW, HIGH) (--range LOW "
        "HIGH)"
    )


def divided(pixels: Shaped[np.ndarray, "*n"]) -> UInt8[np.ndarray, "*n"]:
    """Divides 16-bit values by 257 and rounds: 0…65535 becomes 0…255."""
    return ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)


def stretched(
    pixels: Shaped[np.ndarray, "h w c"], low: Any, high: Any
) -> UInt8[np.ndarray, "h w c"]:
    """Maps `low` to 0 and `high` to 255, linearly; both are numbers, or one for each band."""
    low, high = np.asarray(low, np.float32), np.asarray(high, np.float32)
    scaled = (pixels.astype(np.float32) - low) * (np.float32(255) / (high - low))
    return np.rint(scaled.clip(0, 255)).astype(np.uint8)


def percentiles(
    pixels: Shaped[np.ndarray, "h w c"],
) -> tuple[Shaped[np.ndarray, " c"], Shaped[np.ndarray, " c"]]:
    """Returns the 2nd and 98th percentile of each band, over at most 1024 × 1024 pixels."""
    rows, columns = (-(-side // GRID) for side in pixels.shape[:2])
    return band_percentiles(np.moveaxis(pixels[::rows, ::columns], -1, 0))


def band_percentiles(
    bands: Iterable[Shaped[np.ndarray, "..."]],
) -> tuple[Shaped[np.ndarray, " c"], Shaped[np.ndarray, " c"]]:
    """Returns the 2nd and 98th percentile of each band; the second is always above the first."""
    low, high = np.transpose([np.percentile(band, PERCENTILES) for band in bands])
    return low, np.where(high > low, high, low + 1)


def warn_if_nearly_black(high: int, *, name: str) -> None:
    """Warns if 16-bit values use at most a quarter of their range."""
    if 0 < high <= NEARLY_BLACK:
        likely = (1 << max(high.bit_length(), 8)) - 1
        warnings.warn(
            f"{name} is nearly black: its 16-bit values end at {high:,} of 65,535. If they have "
            f"another range, give it, such as stretch=(0, {likely}) (--range 0 {likely}), or "
            'stretch each picture, stretch="percentile" (--stretch percentile)',
            ImageWarning,
            stacklevel=2,
        )
