"""Turns the class indices in a raster into polygons in the raster's coordinates."""

import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

from segformer_jax.atomic import atomic_path
from segformer_jax.geo.geopackage import write_geopackage
from segformer_jax.geo.pixels import RasterPixels, open_raster, window_of
from segformer_jax.images.geojson import IN_PIXELS, MapPlace, geojson_lines
from segformer_jax.images.labels import distinct_names
from segformer_jax.images.polygons import STRIP, Polygon, polygons_of_strips

DISTORTED = ("merc", "webmerc")  # PROJ's names of projections whose metres grow toward the poles


def write_polygons(
    mask: str | Path,
    id2label: Mapping[int, str],
    *,
    geojson: str | Path | None = None,
    geopackage: str | Path | None = None,
    min_area: int = 0,
    simplify: float = 0.0,
) -> None:
    """Writes the polygons of a raster of class indices, such as `segment_raster` makes.

    Properties are the class (`class_id`, `label`), the area in pixels of the raster (`pixels`) and,
    where the coordinate system is projected and not Mercator's, in square metres (`area_m2`).
    Memory depends on the polygons that cross a row, not on the size of the raster.

    Args:
        mask: the raster; pixels of its nodata value belong to no polygon.
        id2label: class names by index.
        geojson: the file to write as GeoJSON.
        geopackage: the file to write as GeoPackage.
        min_area: smaller polygons, in pixels, are left out.
        simplify: how far, in pixels, a border may be moved to have fewer corners.

    Raises:
        ImageError: the raster can't be read.
        ImportError: rasterio, or pyogrio for a GeoPackage, is not installed.
    """
    names = distinct_names(id2label)
    with open_raster(mask) as pixels:
        place, crs = _place(pixels)

        def polygons() -> Iterator[Polygon]:
            nodata = pixels.file.nodata
            return polygons_of_strips(
                _strips(pixels),
                ignore_index=None if nodata is None else int(nodata),
                min_area=min_area,
                simplify=simplify,
            )

        if geojson is not None:
            if crs is not None and place.crs is None:
                warnings.warn(
                    f"{geojson} does not name the coordinate system, which has no EPSG number: "
                    "write a GeoPackage (--outputs gpkg)",
                    stacklevel=2,
                )
            with atomic_path(geojson) as temporary, open(temporary, "wb") as file:
                file.writelines(geojson_lines(polygons(), names, place))
        if geopackage is not None:
            write_geopackage(geopackage, polygons(), names, place, crs=crs)


def _strips(pixels: RasterPixels) -> Iterator:
    height, width = pixels.size
    rows = max(1, STRIP // width)
    for top in range(0, height, rows):
        size = (min(rows, height - top), width)
        yield pixels.file.read(1, window=window_of(top, 0, size))


def _place(pixels: RasterPixels) -> tuple[MapPlace, str | None]:
    """Returns the place of a raster, and its coordinate system as well-known text."""
    file = pixels.file
    if file.gcps[0]:
        warnings.warn(
            f"the polygons of {pixels.name} are in pixels, as its control points give no exact "
            "place: warp the raster first (gdalwarp)",
            stacklevel=3,
        )
        return IN_PIXELS, None
    matrix, crs = file.transform, file.crs
    if crs is None:
        return MapPlace(tuple(matrix)[:6]), None
    metres = None
    if crs.is_projected and crs.to_dict().get("proj") not in DISTORTED:
        metres = abs(matrix.determinant) * crs.linear_units_factor[1] ** 2
    code = crs.to_epsg()
    if code == 4326:  # whose EPSG definition has the latitude first
        name = "urn:ogc:def:crs:OGC:1.3:CRS84"
    else:
        name = None if code is None else f"urn:ogc:def:crs:EPSG::{code}"
    return MapPlace(tuple(matrix)[:6], name, metres), crs.to_wkt()
