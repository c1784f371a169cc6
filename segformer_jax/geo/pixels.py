"""Reads windows of a raster as RGB in 8 bits, through rasterio."""

import contextlib
import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Shaped, UInt8
from PIL import Image

from segformer_jax.errors import ImageError
from segformer_jax.images.read import CHANNELS, to_eight_bits
from segformer_jax.json_text import readable

CACHE = 64 << 20  # bytes of GDAL's cache of decoded blocks, for all files together
TYPES = ("uint8", "uint16")
SUPPORT = 3  # radius of Pillow's widest filter, Lanczos, in the larger pixels of source and target


@contextlib.contextmanager
def open_raster(path: str | Path, *, bands: tuple[int, ...] = ()) -> Iterator["RasterPixels"]:
    """Opens a raster as a context, in which GDAL's cache is limited.

    Args:
        path: a file that GDAL can open.
        bands: numbers, from 1, of the grey band, or of red, green and blue; () takes all bands.

    Raises:
        ImageError: the raster can't be read, `bands` has numbers that it lacks, or the bands are
            not 1, 3 or 4, or not all of 8 or all of 16 bits. Also raised inside the context, for
            damage that is found while reading.
        ImportError: rasterio is not installed.
    """
    rasterio = _import_rasterio(path)
    with rasterio.Env(GDAL_CACHEMAX=CACHE), _reading(path), warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(readable(str(path))) as file:
            yield RasterPixels(file, str(path), _checked_bands(file, path, bands))


def _import_rasterio(path: str | Path) -> Any:
    try:
        import rasterio
        import rasterio.errors
    except ImportError as error:
        raise ImportError(
            f"reading {path} needs rasterio: pip install 'segformer-jax[geo]'"
        ) from error
    return rasterio


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


def _checked_bands(file: Any, path: str | Path, bands: tuple[int, ...]) -> tuple[int, ...]:
    if not all(1 <= band <= file.count for band in bands):
        raise ImageError(f"bands must be in 1…{file.count} for {path}, got {bands}")
    chosen = bands or tuple(range(1, file.count + 1))
    if len(chosen) not in CHANNELS:
        raise ImageError(
            f"{path} must have 1 (grey), 3 (RGB) or 4 (RGB and alpha) bands, got "
            f"{len(chosen)}: choose some, such as bands=(4, 3, 2) (--bands 4 3 2)"
        )
    types = {file.dtypes[band - 1] for band in chosen}
    if len(types) > 1 or not types <= set(TYPES):
        raise ImageError(
            f"the bands of {path} must be all uint8, or all uint16 with white at "
            f"65535, got {', '.join(sorted(types))}: scale them first, such as with "
            "gdal_translate -ot Byte -scale LOW HIGH 0 255"
        )
    return chosen[:3] if len(chosen) == 4 else chosen


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
        bands: numbers, from 1, of the grey band, or of red, green and blue.
    """

    file: Any
    name: str
    bands: tuple[int, ...]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.file.height, self.file.width

    def resized(self, size: tuple[int, int], resample: int) -> "RasterPixels | ResizedRaster":
        """Returns the raster at another height and width, resized by one of Pillow's filters."""
        return self if size == self.size else ResizedRaster(self, size, resample)

    def read(self, top: int, left: int, size: tuple[int, int]) -> UInt8[np.ndarray, "h w 3"] | None:
        """Reads a part of height and width `size` as RGB; None if all of it is nodata.

        16-bit values are divided by 257; single pixels without data are black.
        """
        valid = self.valid(top, left, size)
        if valid is not None and not valid.any():
            return None
        planes = self.file.read(self.bands, window=window_of(top, left, size))
        pixels = self._rgb(np.moveaxis(planes, 0, -1))
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

    def _rgb(self, pixels: Shaped[np.ndarray, "h w c"]) -> UInt8[np.ndarray, "h w 3"]:
        from rasterio.enums import ColorInterp

        if pixels.shape[-1] == 3:
            return np.ascontiguousarray(to_eight_bits(pixels)[0])
        if self.file.colorinterp[self.bands[0] - 1] == ColorInterp.palette:
            colours = self.file.colormap(self.bands[0])
            table = np.zeros((1 << 8 * pixels.itemsize, 3), np.uint8)
            table[list(colours)] = [colour[:3] for colour in colours.values()]
            return table[pixels[..., 0]]
        return np.repeat(to_eight_bits(pixels)[0], 3, -1)


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

    def read(self, top: int, left: int, size: tuple[int, int]) -> UInt8[np.ndarray, "h w 3"] | None:
        """Reads a part of height and width `size` as RGB; None if all of it is nodata."""
        rows = _source(top, size[0], new=self.size[0], old=self.whole.size[0])
        columns = _source(left, size[1], new=self.size[1], old=self.whole.size[1])
        part = self.whole.read(rows[0], columns[0], (rows[1] - rows[0], columns[1] - columns[0]))
        if part is None:
            return None
        box = (columns[2], rows[2], columns[3], rows[3])
        resized = Image.fromarray(part).resize(
            (columns[5] - columns[4], rows[5] - rows[4]), Image.Resampling(self.resample), box=box
        )
        place = (left - columns[4], top - rows[4])
        return np.asarray(resized.crop((*place, place[0] + size[1], place[1] + size[0])))


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
