"""Segments rasters larger than memory, read in windows and written in tiles by GDAL.

A raster is segmented in bands of `BAND` columns, each from the top down, so that memory depends on
neither its width nor its height. Windows at the border of two bands are computed for both, so that
bands do not change the result.
"""

import contextlib
import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt

from segformer_jax.atomic import atomic_path
from segformer_jax.errors import ImageError
from segformer_jax.geo.pixels import RasterPixels, open_raster, window_of
from segformer_jax.images.draw import overlay as blended
from segformer_jax.images.labels import distinct_names, palette_for
from segformer_jax.images.picture import as_rgb
from segformer_jax.inference.best_class import index_type
from segformer_jax.inference.protocol import Protocol, Windows
from segformer_jax.inference.segmenter import Segmenter
from segformer_jax.inference.windowed import class_strips
from segformer_jax.json_text import readable

TILE = 512  # pixels; GDAL requires a multiple of 16
BAND = 8 * TILE
WINDOW = 512  # side of a window if the processor's size has no height and width


def raster_protocol(segmenter: Segmenter, protocol: Protocol) -> Protocol:
    """Returns the protocol, with windows of the processor's size if it has none.

    Raises:
        ValueError: the protocol has a `short_side`, which is for whole pictures.
    """
    if protocol.short_side is not None:
        raise ValueError(
            "short_side must be None for a raster, which is segmented in windows "
            f"at its own resolution, got {protocol.short_side}: give windows "
            "(--slide) or scales instead"
        )
    if protocol.windows is not None:
        return protocol
    size = segmenter.processor.size
    sides = size.get("height", WINDOW), size.get("width", WINDOW)
    return dataclasses.replace(protocol, windows=Windows(sides))


def segment_raster(
    segmenter: Segmenter,
    source: str | Path,
    *,
    mask: str | Path | None = None,
    overlay: str | Path | None = None,
    protocol: Protocol | None = None,
    bands: tuple[int, ...] = (),
    alpha: float = 0.5,
    progress: Callable[[int], Any] | None = None,
) -> dict[str, Any]:
    """Segments a raster of any size into tiled GeoTIFFs, written completely or not at all.

    Both files have the raster's coordinate system, transform and control points. Memory depends on
    the windows and the model, not on the raster.

    Args:
        segmenter: the model.
        source: a file that GDAL opens, with 1, 3 or 4 bands (grey, RGB, RGB and alpha) of 8 or
            16 bits.
        mask: file for the class indices, with a palette; they are 255 where the raster has no
            data, or 65535 if there are more than 255 classes.
        overlay: file for the picture with its classes in colours, RGB.
        protocol: the windows, scales and flips; by default windows of the processor's size with a
            stride of three quarters of it.
        bands: numbers, from 1, of the grey band, or of red, green and blue.
        alpha: opacity of the colours in the overlay, 0…1.
        progress: called with the number of pixels that have just been finished.

    Returns:
        Height, width and areas, as `Segmentation.to_dict`; shares refer to the pixels with data.

    Raises:
        ImageError: the file is not a raster, is damaged, has other bands or types, or no data.
        ImportError: rasterio is not installed.
        ValueError: the protocol is for whole pictures only, or a file can't be written.
    """
    protocol = raster_protocol(segmenter, protocol or Protocol())
    reading = {
        "channels": segmenter.processor.channels or 3,
        "stretch": segmenter.processor.stretch,
    }
    counts: Counter[int] = Counter()
    with contextlib.ExitStack() as stack:
        pixels = stack.enter_context(open_raster(source, bands=bands, **reading))
        outputs = [
            stack.enter_context(made)
            for made in (
                _mask_file(mask, pixels, segmenter) if mask else None,
                _overlay_file(overlay, pixels, segmenter, alpha) if overlay else None,
            )
            if made is not None
        ]
        for top, left, classes in _tile_rows(segmenter, pixels, protocol):
            valid = pixels.valid(top, left, classes.shape)
            counts.update(_counted(classes if valid is None else classes[valid]))
            if valid is not None:
                classes[~valid] = np.iinfo(classes.dtype).max
            for write in outputs:
                write(top, left, classes)
            if progress is not None:
                progress(classes.size)
        if not counts:
            raise ImageError(f"{source} has no data: every pixel is nodata or transparent")
    return _summary(pixels.size, counts, segmenter.id2label)


def _tile_rows(
    segmenter: Segmenter, pixels: RasterPixels, protocol: Protocol
) -> Iterator[tuple[int, int, UInt[np.ndarray, "h w"]]]:
    """Yields top, left and classes of whole rows of tiles, so that no tile is compressed twice."""
    width = pixels.size[1]
    for left in range(0, width, BAND):
        columns = (left, min(left + BAND, width))
        strips = class_strips(segmenter, pixels, protocol, columns=columns)
        top, held, rows = 0, [], 0
        for classes, _ in strips:
            held.append(classes)
            rows += len(classes)
            if rows >= TILE or top + rows == pixels.size[0]:
                yield top, left, np.concatenate(held)
                top, held, rows = top + rows, [], 0


def _counted(classes: UInt[np.ndarray, "*n"]) -> dict[int, int]:
    counts = np.bincount(classes.reshape(-1))
    return {int(index): int(counts[index]) for index in np.flatnonzero(counts)}


@contextlib.contextmanager
def _mask_file(path: str | Path, pixels: RasterPixels, segmenter: Segmenter) -> Iterator[Callable]:
    labels = len(segmenter.id2label)
    kind = index_type(labels)
    with _tiff(path, pixels, count=1, dtype=kind, nodata=np.iinfo(kind).max) as file:
        if kind == np.uint8:
            colours = palette_for(segmenter.id2label).tolist()
            file.write_colormap(1, {index: tuple(own) for index, own in enumerate(colours)})

        def write(top: int, left: int, classes: UInt[np.ndarray, "h w"]) -> None:
            file.write(classes, 1, window=window_of(top, left, classes.shape))

        yield write


@contextlib.contextmanager
def _overlay_file(
    path: str | Path, pixels: RasterPixels, segmenter: Segmenter, alpha: float
) -> Iterator[Callable]:
    palette = palette_for(segmenter.id2label)
    with _tiff(path, pixels, count=3, dtype=np.uint8, photometric="RGB") as file:

        def write(top: int, left: int, classes: UInt[np.ndarray, "h w"]) -> None:
            for start in range(0, classes.shape[1], TILE):
                own = classes[:, start : start + TILE]
                picture = pixels.read(top, left + start, own.shape)
                if picture is None:
                    picture = np.zeros((*own.shape, 3), np.uint8)
                drawn = np.asarray(blended(as_rgb(picture), own, palette, alpha=alpha))
                window = window_of(top, left + start, own.shape)
                file.write(np.moveaxis(drawn, -1, 0), window=window)

        yield write


@contextlib.contextmanager
def _tiff(path: str | Path, pixels: RasterPixels, **options: Any) -> Iterator[Any]:
    """Opens a tiled GeoTIFF with the raster's georeference, renamed to `path` when complete."""
    import rasterio

    height, width = pixels.size
    with (
        atomic_path(path) as temporary,
        rasterio.open(
            readable(str(temporary)),
            "w",
            driver="GTiff",
            height=height,
            width=width,
            tiled=True,
            blockxsize=TILE,
            blockysize=TILE,
            compress="deflate",
            bigtiff="IF_SAFER",
            **pixels.place(),
            **options,
        ) as file,
    ):
        yield file


def _summary(
    size: tuple[int, int], counts: Counter[int], id2label: dict[int, str]
) -> dict[str, Any]:
    total, names = sum(counts.values()), distinct_names(id2label)
    return {
        "height": size[0],
        "width": size[1],
        "classes": [
            {
                "id": index,
                "label": names.get(index, f"LABEL_{index}"),
                "share": pixels / total,
                "pixels": pixels,
            }
            for index, pixels in counts.most_common()
        ],
    }
