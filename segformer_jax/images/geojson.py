"""Writes polygons as GeoJSON (RFC 7946), in pixels or in the coordinates of a map."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from segformer_jax.images.polygons import Polygon
from segformer_jax.json_text import json_bytes


@dataclass(frozen=True)
class MapPlace:
    """How corners of pixels become coordinates of a map.

    Attributes:
        matrix: a, b, c, d, e, f: x is a × column + b × row + c, and y is d × column + e × row + f.
        crs: name of the coordinate system, such as "urn:ogc:def:crs:EPSG::32632"; None if unknown.
        square_metres: of a pixel; None where the coordinate system does not keep areas in metres.
    """

    matrix: tuple[float, float, float, float, float, float] = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
    crs: str | None = None
    square_metres: float | None = None

    def rings(
        self, polygon: Polygon
    ) -> list[Float[np.ndarray, "_ 2"]] | list[Int[np.ndarray, "_ 2"]]:
        """The rings of a polygon, closed; outlines counterclockwise where y points up."""
        a, b, c, d, e, f = self.matrix
        closed = [np.concatenate([ring, ring[:1]]) for ring in polygon.rings]
        if self.matrix == MapPlace.matrix:
            return closed
        turned = [ring[::-1] if a * e - b * d < 0 else ring for ring in closed]
        return [ring @ np.array([[a, d], [b, e]]) + (c, f) for ring in turned]

    def properties(self, polygon: Polygon, names: Mapping[int, str]) -> dict[str, Any]:
        """Class and area of a polygon."""
        own: dict[str, Any] = {
            "class_id": polygon.index,
            "label": names.get(polygon.index, f"LABEL_{polygon.index}"),
            "pixels": polygon.pixels,
        }
        if self.square_metres is not None:
            own["area_m2"] = polygon.pixels * self.square_metres
        return own


IN_PIXELS = MapPlace()


def geojson_lines(
    polygons: Iterable[Polygon], names: Mapping[int, str], place: MapPlace = IN_PIXELS
) -> Iterator[bytes]:
    """Yields a GeoJSON file, a polygon a line.

    In pixels, y points down as in the picture. A coordinate system is named by the member `crs` of
    GeoJSON 2008, which GDAL and QGIS read: RFC 7946 knows degrees of WGS 84 only.

    Args:
        polygons: of a class map.
        names: class names by index, each once.
        place: of the class map.
    """
    yield b'{"type": "FeatureCollection",\n'
    if place.crs is not None:
        crs = {"type": "name", "properties": {"name": place.crs}}
        yield b'"crs": ' + json_bytes(crs, indent=None).strip() + b",\n"
    yield b'"features": ['
    between = b"\n"
    for polygon in polygons:
        rings = [ring.tolist() for ring in place.rings(polygon)]
        feature = {
            "type": "Feature",
            "properties": place.properties(polygon, names),
            "geometry": {"type": "Polygon", "coordinates": rings},
        }
        yield between + json_bytes(feature, indent=None).strip()
        between = b",\n"
    yield b"\n]}\n"
