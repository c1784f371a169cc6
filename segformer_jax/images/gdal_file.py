"""Reads picture files with GDAL, through rasterio (extra `geo`): kinds that Pillow does not."""

import contextlib
import os
import warnings
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Shaped

from segformer_jax.errors import ImageError
from segformer_jax.images.pillow_file import check_size

# Files that hold their pixels themselves; VRT, which names others, is read if its ending says so
DRIVERS = ("GTiff", "PNG", "JPEG", "JP2OpenJPEG", "HFA", "ENVI", "NITF", "PCIDSK", "BMP", "WEBP")
DATA_SETS = ".vrt"


@dataclass(frozen=True, eq=False)
class Bands:
    """The pixels of a file as it holds them.

    Attributes:
        pixels: values of any type.
        opaque: indices of the bands that are not marked as alpha; all if all are.
        stored: the range that the file records for them; None: it does not.
    """

    pixels: Shaped[np.ndarray, "h w c"]
    opaque: tuple[int, ...]
    stored: tuple[float, float] | None


def import_rasterio(what: str) -> Any:
    """Imports the package rasterio, whose warning of files without a georeference is ignored.

    It is ignored for good: `warnings.catch_warnings`, when a thread leaves it, would lose what
    other threads warn about.

    Raises:
        ImportError: it is not installed; the message says that `what` needs it.
    """
    try:
        import rasterio
        import rasterio.errors
    except ImportError as error:
        raise ImportError(f"{what} needs rasterio: pip install 'segformer-jax[geo]'") from error
    warnings.filterwarnings("ignore", category=rasterio.errors.NotGeoreferencedWarning)
    return rasterio


def read_with_gdal(path: str | os.PathLike, *, max_pixels: int) -> Bands:
    """Decodes all bands of a picture file; a palette becomes its colours.

    Args:
        path: the file.
        max_pixels: largest number of pixels that is decoded; checked before decoding.

    Raises:
        ImageError: GDAL does not read it either, it is damaged or too large.
        ImportError: rasterio is not installed.
    """
    with gdal_file(path) as file:
        check_size((file.width, file.height), os.fspath(path), max_pixels)
        pixels, opaque = np.moveaxis(file.read(), 0, -1), opaque_bands(file)
        colours = palette_of(file, opaque)
        if colours is not None:
            pixels, opaque = colours[pixels[..., opaque[0] - 1]], (1, 2, 3)
        return Bands(pixels, tuple(band - 1 for band in opaque), stored_range(file))


@contextlib.contextmanager
def gdal_file(path: str | os.PathLike) -> Generator[Any]:
    """Opens a file with rasterio, whose errors become an `ImageError` that names the file."""
    name = os.fspath(path)
    rasterio = import_rasterio(f"reading {name}, which Pillow does not,")
    drivers = ("VRT",) if name.lower().endswith(DATA_SETS) else DRIVERS
    try:
        with rasterio.Env(), rasterio.DatasetReader(name, driver=list(drivers)) as file:
            yield file
    except (ImageError, MemoryError):
        raise
    except Exception as error:  # rasterio's, or GDAL's own, which has no public name
        reason = " ".join(str(error.__cause__ or error).split())
        raise ImageError(
            f"{name} is not a picture of a kind that Pillow or GDAL reads ({reason}): convert "
            "it to PNG, JPEG or TIFF"
        ) from error


def opaque_bands(file: Any) -> tuple[int, ...]:
    """Returns the numbers, from 1, of the bands that are not marked as alpha; all if all are."""
    from rasterio.enums import ColorInterp

    chosen = [i for i, kind in enumerate(file.colorinterp, 1) if kind != ColorInterp.alpha]
    return tuple(chosen or range(1, file.count + 1))


def palette_of(file: Any, bands: tuple[int, ...]) -> Shaped[np.ndarray, "values 3"] | None:
    """Returns the colour of each value if the only band has a palette, else None."""
    from rasterio.enums import ColorInterp

    if len(bands) > 1 or file.colorinterp[bands[0] - 1] != ColorInterp.palette:
        return None
    colours = file.colormap(bands[0])
    table = np.zeros((1 << 8 * np.dtype(file.dtypes[bands[0] - 1]).itemsize, 3), np.uint8)
    table[list(colours)] = [colour[:3] for colour in colours.values()]
    return table


def stored_range(file: Any) -> tuple[float, float] | None:
    """Returns the range of values that a file records, or None."""
    tags = file.tags()
    try:
        low = float(tags.get("TIFFTAG_MINSAMPLEVALUE", 0))
        high = float(tags.get("TIFFTAG_MAXSAMPLEVALUE", "nan"))
        bits = int(file.tags(1, ns="IMAGE_STRUCTURE").get("NBITS", 16))
    except ValueError:  # a number that is none says nothing
        return None
    if high > low:
        return (low, high)
    return (0.0, 2.0**bits - 1) if 8 < bits < 16 else None
