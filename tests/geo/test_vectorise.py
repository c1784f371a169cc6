"""Polygons lie where the raster says, and cover what its mask covers."""

import json

import numpy as np
import pytest
import rasterio
from geo.test_raster import PLACE, write_raster
from images.test_polygons import blobs
from rasterio import features

from segformer_jax.geo import vectorise
from segformer_jax.geo.vectorise import write_polygons

NAMES = {0: "sky", 1: "road", 2: "road", 3: "car"}


@pytest.fixture
def class_map(rng):
    own = blobs(rng, (90, 130))
    own[20:40, 50:70] = 255
    return own


@pytest.fixture
def mask(class_map, tmp_path):
    return write_raster(tmp_path / "mask.tif", class_map[None], nodata=255)


def written(mask, tmp_path, **options):
    write_polygons(mask, NAMES, geojson=tmp_path / "a.geojson", **options)
    return json.loads((tmp_path / "a.geojson").read_bytes())


def test_drawn_again_they_are_the_mask_and_areas_are_square_metres(
    mask, class_map, tmp_path, monkeypatch
):
    monkeypatch.setattr(vectorise, "STRIP", 7 * 130)  # rows of 7 pixels
    found = written(mask, tmp_path)
    shapes = [(own["geometry"], own["properties"]["class_id"]) for own in found["features"]]
    again = features.rasterize(
        shapes, out_shape=class_map.shape, fill=255, transform=PLACE["transform"], dtype="uint8"
    )
    assert np.array_equal(again, class_map)
    assert found["crs"]["properties"]["name"] == "urn:ogc:def:crs:EPSG::32632"
    for index, name in {0: "sky", 1: "road (1)", 2: "road (2)"}.items():
        rows = [
            own["properties"] for own in found["features"] if own["properties"]["class_id"] == index
        ]
        assert {own["label"] for own in rows} == {name}
        assert sum(own["pixels"] for own in rows) == (class_map == index).sum()
        assert sum(own["area_m2"] for own in rows) == 0.25 * (class_map == index).sum()


def test_square_metres_only_where_the_coordinate_system_has_them(class_map, tmp_path):
    feet, degrees, mercator = "EPSG:2263", "EPSG:4326", "EPSG:3857"
    areas, names = {}, {}
    for crs in (feet, degrees, mercator):
        mask = write_raster(tmp_path / "m.tif", class_map[None], nodata=255, crs=crs)
        found = written(mask, tmp_path)
        areas[crs] = found["features"][0]["properties"].get("area_m2")
        names[crs] = found["crs"]["properties"]["name"]
        pixels = found["features"][0]["properties"]["pixels"]
    assert areas == {feet: pytest.approx(0.25 * pixels * 0.3048006096**2), degrees: None} | {
        mercator: None
    }
    assert names[degrees] == "urn:ogc:def:crs:OGC:1.3:CRS84"


def test_without_an_exact_place_they_are_in_pixels_and_that_is_said(class_map, tmp_path):
    corners = [(0, 0), (0, 130), (90, 0)]
    points = [rasterio.control.GroundControlPoint(r, c, 8 + c / 1e4, 50 - r / 1e4)
              for r, c in corners]  # fmt: skip
    options = {"crs": "EPSG:4326", "transform": None, "gcps": points}
    mask = write_raster(tmp_path / "m.tif", class_map[None], nodata=255, **options)
    with pytest.warns(UserWarning, match="m.tif are in pixels"):
        found = written(mask, tmp_path)
    assert "crs" not in found
    corners = np.concatenate([own["geometry"]["coordinates"][0] for own in found["features"]])
    assert corners.max(0).tolist() == [130, 90]


def test_a_geopackage_holds_the_same(mask, class_map, tmp_path):
    pyogrio = pytest.importorskip("pyogrio", reason="pyogrio is not installed: see the extra geo")
    found = written(mask, tmp_path, min_area=3)
    write_polygons(mask, NAMES, geopackage=tmp_path / "a.gpkg", min_area=3)
    assert pyogrio.list_layers(tmp_path / "a.gpkg").tolist() == [["segments", "Polygon"]]
    about, _, geometry, fields = pyogrio.raw.read(tmp_path / "a.gpkg")
    assert rasterio.crs.CRS.from_user_input(about["crs"]) == PLACE["crs"]
    columns = dict(zip(about["fields"].tolist(), fields, strict=True))
    for name in ("class_id", "label", "pixels", "area_m2"):
        assert columns[name].tolist() == [own["properties"][name] for own in found["features"]]
    assert len(geometry) == len(found["features"])
    pyogrio.raw.read(tmp_path / "a.geojson")  # GDAL takes the other, too
    assert {own.name for own in tmp_path.iterdir()} == {"a.gpkg", "a.geojson", "mask.tif"}
