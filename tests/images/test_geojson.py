import json

import numpy as np

from segformer_jax.images.geojson import MapPlace, geojson_lines
from segformer_jax.images.polygons import polygons_of

RING = np.array([[1, 1, 1, 1], [1, 0, 0, 1], [1, 1, 1, 1]], np.uint8)
NAMES = {0: "Weg", 1: "Straße"}


def read(*arguments):
    return json.loads(b"".join(geojson_lines(*arguments)))


def test_in_pixels_it_has_corners_of_pixels():
    found = read(polygons_of(RING), NAMES)
    assert set(found) == {"type", "features"}
    outer, inner = sorted(found["features"], key=lambda own: -own["properties"]["pixels"])
    assert outer["properties"] == {"class_id": 1, "label": "Straße", "pixels": 10}
    [outline, hole] = outer["geometry"]["coordinates"]
    assert (outline[0], len(outline), len(hole)) == (outline[-1], 5, 5)
    assert {tuple(own) for own in outline} == {(0, 0), (4, 0), (4, 3), (0, 3)}
    [own] = inner["geometry"]["coordinates"]
    assert {tuple(corner) for corner in own} == {tuple(corner) for corner in hole}


def test_on_a_map_it_has_coordinates_square_metres_and_outlines_counterclockwise():
    place = MapPlace((0.5, 0.0, 100.0, 0.0, -0.5, 200.0), "urn:ogc:def:crs:EPSG::32632", 0.25)
    found = read(polygons_of(RING), NAMES, place)
    assert found["crs"]["properties"]["name"] == place.crs
    outer = max(found["features"], key=lambda own: own["properties"]["pixels"])
    assert outer["properties"]["area_m2"] == 2.5
    x, y = np.array(outer["geometry"]["coordinates"][0]).T
    assert (x.min(), x.max(), y.min(), y.max()) == (100, 102, 198.5, 200)
    assert (x[:-1] * y[1:] - x[1:] * y[:-1]).sum() > 0


def test_without_polygons_it_is_a_file_nevertheless():
    assert read([], NAMES)["features"] == []
