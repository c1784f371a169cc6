"""Writes polygons as a GeoPackage, through pyogrio."""

import itertools
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from segformer_jax.atomic import atomic_path
from segformer_jax.images.geojson import MapPlace
from segformer_jax.images.polygons import Polygon

AT_ONCE = 10_000  # polygons in memory
FIELDS = {"class_id": np.int32, "label": object, "pixels": np.int64, "area_m2": np.float64}


def import_pyogrio() -> Any:
    """Imports pyogrio; an ImportError says how to install it."""
    try:
        import pyogrio.raw
    except ImportError as error:
        raise ImportError(
            "writing a GeoPackage needs pyogrio: pip install 'segformer-jax[geo]'"
        ) from error
    return pyogrio


def write_geopackage(
    path: str | Path,
    polygons: Iterable[Polygon],
    names: Mapping[int, str],
    place: MapPlace,
    *,
    crs: str | None,
) -> None:
    """Writes the layer `segments`, completely or not at all.

    Args:
        path: the file.
        polygons: of a class map.
        names: class names by index, each once.
        place: of the class map.
        crs: the coordinate system as well-known text; None if unknown.

    Raises:
        ImportError: pyogrio is not installed.
    """
    pyogrio = import_pyogrio()
    names_of_fields = [name for name in FIELDS if name != "area_m2" or place.square_metres]
    with atomic_path(path) as temporary:
        file = temporary.with_suffix(".gpkg")  # GDAL warns of any other
        try:
            left = iter(polygons)
            batch, append = list(itertools.islice(left, AT_ONCE)), False
            while batch or not append:
                rows = [place.properties(polygon, names) for polygon in batch]
                pyogrio.raw.write(
                    str(file),
                    geometry=np.array([_wkb(polygon, place) for polygon in batch], object),
                    field_data=[
                        np.array([row[name] for row in rows], FIELDS[name])
                        for name in names_of_fields
                    ],
                    fields=names_of_fields,
                    geometry_type="Polygon",
                    crs=crs,
                    driver="GPKG",
                    layer="segments",
                    append=append,
                )
                batch, append = list(itertools.islice(left, AT_ONCE)), True
            file.replace(temporary)
        finally:
            file.unlink(missing_ok=True)


def _wkb(polygon: Polygon, place: MapPlace) -> bytes:
    """Well-known binary, little-endian: type 3 is a polygon."""
    rings = place.rings(polygon)
    parts = [struct.pack("<BII", 1, 3, len(rings))]
    for ring in rings:
        parts += [struct.pack("<I", len(ring)), ring.astype("<f8").tobytes()]
    return b"".join(parts)
