"""Polygons are those of GDAL, and give the class map back when they are drawn again."""

import itertools

import numpy as np
import pytest
from rasterio import features
from scipy.ndimage import gaussian_filter

from segformer_jax.images.polygons import polygons_of, polygons_of_strips


def shape_of(polygon):
    rings = [[*map(tuple, ring.tolist()), tuple(ring[0].tolist())] for ring in polygon.rings]
    return {"type": "Polygon", "coordinates": rings}


def drawn(polygons, size):
    """As rasterio draws them: a pixel belongs to the polygon that its centre is in; else -1."""
    shapes = [(shape_of(polygon), polygon.index) for polygon in polygons]
    return features.rasterize(shapes, out_shape=size, fill=-1, dtype="int32")


def area_of(rings):
    """By the shoelace formula; holes go the other way and count below 0."""
    rings = [np.array(ring, float) for ring in rings]
    return sum((r[:-1, 0] * r[1:, 1] - r[1:, 0] * r[:-1, 1]).sum() / 2 for r in rings)


def blobs(rng, size, *, classes=4, sigma=3.0):
    noise = np.stack([gaussian_filter(rng.normal(size=size), sigma) for _ in range(classes)])
    return noise.argmax(0).astype(np.uint8)


def maps(rng):
    for _ in range(60):  # every way in which areas meet in corners
        yield rng.integers(0, rng.integers(1, 5), rng.integers(1, 12, 2)).astype(np.uint8)
    yield blobs(rng, (150, 200))


@pytest.mark.parametrize("ignore_index", [None, 0])
def test_they_are_gdals_and_give_the_map_back(rng, ignore_index):
    for class_map in maps(rng):
        rows = int(rng.integers(1, len(class_map) + 1))
        strips = [class_map[top : top + rows] for top in range(0, len(class_map), rows)]
        found = list(polygons_of_strips(strips, ignore_index=ignore_index))
        data = np.full(class_map.shape, True) if ignore_index is None else class_map != 0
        assert np.array_equal(
            drawn(found, class_map.shape), np.where(data, class_map.astype(int), -1)
        )
        reference = [
            (int(value), len(shape["coordinates"]), abs(area_of(shape["coordinates"])))
            for shape, value in features.shapes(class_map, mask=data, connectivity=4)
        ]
        ours = [(own.index, len(own.rings), own.pixels) for own in found]
        assert sorted(ours) == sorted(reference)
        for own in found:
            assert area_of(shape_of(own)["coordinates"]) == own.pixels
            for ring in own.rings:
                assert len(set(map(tuple, ring.tolist()))) == len(ring)  # touches itself nowhere


def test_an_area_comes_when_its_last_row_was_read():
    asked = []

    def strips():
        for row in range(6):
            asked.append(row)
            yield np.array([[row // 2, 9]], np.uint8)

    polygons = polygons_of_strips(strips())
    assert (next(polygons).index, asked[-1]) == (0, 2)
    assert (next(polygons).index, asked[-1]) == (1, 4)
    assert {own.index for own in polygons} == {2, 9}


def test_small_ones_are_left_out(rng):
    class_map = blobs(rng, (80, 90))
    whole = list(polygons_of(class_map))
    large = list(polygons_of(class_map, min_area=20))
    assert 0 < len(large) < len(whole)
    assert [own.pixels for own in large] == [own.pixels for own in whole if own.pixels >= 20]


def test_simplified_neighbours_keep_a_common_border(rng):
    class_map = blobs(rng, (120, 150))
    whole = list(polygons_of(class_map))
    few = list(polygons_of(class_map, simplify=1.5))
    assert sum(len(r) for p in few for r in p.rings) < 0.4 * sum(
        len(r) for p in whole for r in p.rings
    )
    edges = [
        tuple(map(tuple, edge))
        for own in few
        for ring in shape_of(own)["coordinates"]
        for edge in itertools.pairwise(ring)
    ]
    inner = [(a, b) for a, b in edges if not ({a[0], b[0]} <= {0} or {a[1], b[1]} <= {0})]
    inner = [(a, b) for a, b in inner if {a[0], b[0]} != {150} and {a[1], b[1]} != {120}]
    assert {(b, a) for a, b in inner} == set(inner)  # each once in either direction
    assert sum(area_of(shape_of(own)["coordinates"]) for own in few) == class_map.size
    assert (drawn(few, class_map.shape) == class_map).mean() > 0.9
