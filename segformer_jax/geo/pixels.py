"""Reads windows of a raster as RGB or bands of 8 bits, through rasterio."""

import contextlib
import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Shaped, UInt8

from segformer_jax.errors import ImageError
from segformer_jax.images.colours import CHANNELS
from segformer_jax.images.eight_bits import (
    GRID,
    band_percentiles,
    divided,
    stretched,
    warn_if_nearly_black,
)
from segformer_jax.images.gdal_file import (
    import_rasterio,
    opaque_bands,
    palette_of,
    stored_range,
)
from segformer_jax.images.picture import resized
from segformer_jax.images.stretch import Stretch
from segformer_jax.json_text import readable

CACHE = 64 << 20  # bytes of GDAL's cache of decoded blocks, for all files together
TYPES = ("uint8", "uint16")
SUPPORT = 3  # radius of Pillow's widest filter, Lanczos, in the larger pixels of source and target


@contextlib.contextmanager
def open_raster(
    path: str | Path,
    *,
    bands: tuple[int, ...] = (),
    channels: int | None = 3,
    stretch: Stretch | None = None,
) -> Iterator["RasterPixels"]:
    """Opens a raster as a context, in which GDAL's cache is limited.

    Args:
        path: a file that GDAL can open.
        bands: numbers, from 1, of the grey band, or of red, green and blue, or of `channels` bands;
            () takes all bands.
        channels: number of channels of the network; 3 reads RGB, also of a grey band. None takes
            any bands, without checking their number and type.
        stretch: as in `read_image`, for bands of more than 8 bits. Percentiles are those of the
            whole raster.

    Raises:
        ImageError: the raster can't be read, `bands` has numbers that it lacks, or the bands are
            not as many as `channels` (1, 3 or 4 for RGB), or not all of 8 or all of 16 bits, and no
            range is known for them. Also raised inside the context, for damage that is found while
            reading.
        ImportError: rasterio is not installed.
    """
    rasterio = import_rasterio(f"reading {path}")
    with (
        rasterio.Env(GDAL_CACHEMAX=CACHE),
        _reading(path),
        rasterio.open(readable(str(path))) as file,
    ):
        chosen = _chosen_bands(file, path, bands, channels)
        if channels is not None:
            _check_types(file, path, chosen, stretch or stored_range(file))
        yield RasterPixels(file, str(path), chosen, channels == 3, stretch)


@contextlib.contextmanager
def _reading(path: str | Path) -> Iterator[None]:
    import rasterio.errors

    try:
        yield
    except rasterio.errors.RasterioError as error:
        reason = str(error.__cause__ or error)
        raise ImageError(f"{path} can't be read or written as a raster: {reason}") from error
    except UnicodeEncodeError as error:
        raise ImageError(
            f"{path} can't be read or written as a raster: GDAL needs file names in UTF-8: "
            "rename the file"
        ) from error


def _chosen_bands(
    file: Any, path: str | Path, bands: tuple[int, ...], channels: int | None
) -> tuple[int, ...]:
    if not all(1 <= band <= file.count for band in bands):
        raise ImageError(f"bands must be in 1…{file.count} for {path}, got {bands}")
    chosen = bands or tuple(range(1, file.count + 1))
    if channels is None:
        return chosen
    if channels != 3:
        chosen = opaque_bands(file) if len(chosen) != channels and not bands else chosen
        if len(chosen) != channels:
            raise ImageError(
                f"{path} must have {channels} bands, as many as the network has channels, got "
                f"{len(chosen)}: choose some (--bands), or take a model with num_channels="
                f"{len(chosen)}"
            )
        return chosen
    if len(chosen) not in CHANNELS:
        raise ImageError(
            f"{path} must have 1 (grey), 3 (RGB) or 4 (RGB and alpha) bands, got "
            f"{len(chosen)}: choose some, such as bands=(4, 3, 2) (--bands 4 3 2)"
        )
    return chosen[:3] if len(chosen) == 4 else chosen


def _check_types(file: Any, path: str | Path, bands: tuple[int, ...], known: Any) -> None:
    types = {file.dtypes[band - 1] for band in bands}
    if len(types) > 1 or not (known or types <= set(TYPES)) or "complex" in "".join(types):
        raise ImageError(
            f"the bands of {path} must be all uint8, or all uint16 with white at "
            f"65535, got {', '.join(sorted(types))}: give the range of their values (--range LOW "
            "HIGH, or --stretch percentile), or scale them first, such as with "
            "gdal_translate -ot Byte -scale LOW HIGH 0 255"
        )


def window_of(top: int, left: int, size: tuple[int, ...]) -> Any:
    """Returns rasterio's window at this place, of a height and width."""
    from rasterio.windows import Window

    return Window(left, top, size[1], size[0])


@dataclass(frozen=True, eq=False)
class RasterPixels:
    """An open raster.

    Attributes:
        file: rasterio's dataset.
        name: the path.
        bands: numbers, from 1, of the bands that are read.
        rgb: whether they are grey, or red, green and blue, and read as RGB.
        stretch: as in `read_image`.
    """

    file: Any
    name: str
    bands: tuple[int, ...]
    rgb: bool = True
    stretch: Stretch | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.file.height, self.file.width

    def resized(self, size: tuple[int, int], resample: int) -> "RasterPixels | ResizedRaster":
        """Returns the raster at another height and width, resized by one of Pillow's filters."""
        return self if size == self.size else ResizedRaster(self, size, resample)

    def read(self, top: int, left: int, size: tuple[int, int]) -> UInt8[np.ndarray, "h w c"] | None:
        """Reads a part of height and width `size` with 8 bits; None if all of it is nodata.

        16-bit values are divided by 257, unless a range is known; pixels without data are black.
        """
        valid = self.valid(top, left, size)
        if valid is not None and not valid.any():
            return None
        planes = self.file.read(self.bands, window=window_of(top, left, size))
        values = np.moveaxis(planes, 0, -1)
        if valid is not None:
            values = np.where(valid[..., None], values, np.zeros((), values.dtype))
        pixels = self._eight_bits(values)
        return pixels if valid is None else np.where(valid[..., None], pixels, np.uint8(0))

    def valid(self, top: int, left: int, size: tuple[int, ...]) -> Bool[np.ndarray, "h w"] | None:
        """Returns where a part has data (not nodata, masked or transparent); None: everywhere."""
        from rasterio.enums import MaskFlags

        if all(self.file.mask_flag_enums[b - 1] == [MaskFlags.all_valid] for b in self.bands):
            return None
        return self.file.dataset_mask(window=window_of(top, left, size)) > 0

    def place(self) -> dict[str, Any]:
        """Returns the georeference as keyword arguments of `rasterio.open`."""
        points, points_crs = self.file.gcps
        if points:
            return {"gcps": points, "crs": points_crs}
        if self.file.crs is None and self.file.transform.is_identity:
            return {}
        return {"crs": self.file.crs, "transform": self.file.transform}

    @functools.cached_property
    def _range(self) -> tuple[Any, Any] | None:
        """Returns the values that become 0 and 255; None if 16 bits are divided by 257."""
        if self.stretch == "percentile":
            return band_percentiles(band.compressed() for band in self._grid())
        limits = self.stretch or stored_range(self.file)
        if limits is None:
            warn_if_nearly_black(int(self._grid().max()), name=self.name)
        return limits

    def _grid(self) -> np.ma.MaskedArray:
        """The bands' values at 1024 × 1024 pixels of the raster, or at all, without nodata."""
        steps = (-(-side // GRID) for side in self.size)
        shape = tuple(-(-side // step) for side, step in zip(self.size, steps, strict=True))
        grid = self.file.read(self.bands, out_shape=(len(self.bands), *shape), masked=True)
        return np.ma.masked_invalid(grid)

    def _eight_bits(self, values: Shaped[np.ndarray, "h w b"]) -> UInt8[np.ndarray, "h w c"]:
        colours = palette_of(self.file, self.bands) if self.rgb else None
        if colours is not None:
            return colours[values[..., 0]]
        if not np.isfinite(values).all():
            raise ImageError(f"{self.name} must have finite values, got NaN: declare it as nodata")
        if values.dtype == np.uint8:
            pixels = values
        elif self._range is None:
            pixels = divided(values)
        else:
            pixels = stretched(values, *self._range)
        grey = self.rgb and pixels.shape[-1] == 1
        return np.repeat(pixels, 3, -1) if grey else np.ascontiguousarray(pixels)


@dataclass(frozen=True, eq=False)
class ResizedRaster:
    """A raster at another size; each part is resized from the source pixels that it depends on.

    A value may differ by 1 from the resized whole: Pillow takes the position of a part in single
    precision, and rounds between resizing rows and columns, in an order that depends on how many
    there are.
    """

    whole: RasterPixels
    size: tuple[int, int]
    resample: int

    def resized(self, size: tuple[int, int], resample: int) -> "RasterPixels | ResizedRaster":
        """Returns the raster at another height and width, resized by one of Pillow's filters."""
        return self.whole.resized(size, resample)

    def read(self, top: int, left: int, size: tuple[int, int]) -> UInt8[np.ndarray, "h w c"] | None:
        """Reads a part of height and width `size`; None if all of it is nodata."""
        rows = _source(top, size[0], new=self.size[0], old=self.whole.size[0])
        columns = _source(left, size[1], new=self.size[1], old=self.whole.size[1])
        part = self.whole.read(rows[0], columns[0], (rows[1] - rows[0], columns[1] - columns[0]))
        if part is None:
            return None
        box = (columns[2], rows[2], columns[3], rows[3])
        shape = (rows[5] - rows[4], columns[5] - columns[4])
        whole = resized(part, shape, self.resample, box=box)
        down, right = top - rows[4], left - columns[4]
        return whole[down : down + size[0], right : right + size[1]]


def _source(
    start: int, length: int, *, new: int, old: int
) -> tuple[int, int, float, float, int, int]:
    """Returns the source of pixels start … start + length of a side resized from `old` to `new`.

    Returns:
        The first source pixel to read and the one past the last; the start and the end, counted
        from there, of the interval to resize; and the first pixel of the resized side that this
        gives and the one past the last. These are more than were asked for, because the filters of
        the outermost pixels lack a margin.
    """
    scale = old / new
    reach = math.ceil(SUPPORT * max(1.0, scale) / scale) + 1
    first, last = max(0, start - reach), min(new, start + length + reach)
    low, high = first * scale, last * scale
    begin, end = math.floor(low), min(old, math.ceil(high))
    return begin, end, low - begin, min(high, end) - begin, first, last
