"""What the page is given to draw."""

import base64
import io
import zlib

import numpy as np
import pytest
from PIL import Image

from segformer_jax import Segmentation
from segformer_jax.demo.view import shown_size, shrunk, view_of


def decoded(view: dict) -> np.ndarray:
    classes = np.frombuffer(zlib.decompress(base64.b64decode(view["classes"])), "<u2")
    return classes.reshape(view["height"], view["width"])


@pytest.mark.parametrize(("labels", "kind"), [(20, np.uint8), (400, np.uint16)])
def test_the_view_holds_the_class_of_every_pixel_and_the_mask(labels, kind, rng):
    class_map = rng.integers(0, labels, (30, 50)).astype(kind)
    photo = Image.fromarray(rng.integers(0, 256, (30, 50, 3)).astype(np.uint8))
    result = Segmentation(class_map, {i: f"class {i}" for i in range(labels)}, photo)
    view = view_of(result, name="a")
    assert np.array_equal(decoded(view), class_map)
    mask = Image.open(io.BytesIO(base64.b64decode(view["mask"].split(",")[1])))
    assert np.array_equal(np.asarray(mask), class_map)
    assert sum(row["pixels"] for row in view["legend"]) == class_map.size
    assert {row["id"] for row in view["legend"]} == set(np.unique(class_map).tolist())


def test_a_large_picture_is_shown_smaller_but_counted_and_saved_whole(rng):
    class_map = rng.integers(0, 9, (100, 4096)).astype(np.uint8)
    photo = Image.new("RGB", (4096, 100))
    view = view_of(Segmentation(class_map, dict.fromkeys(range(9), "x"), photo), name="a")
    assert (view["width"], view["height"]) == (2048, 50)
    mask = Image.open(io.BytesIO(base64.b64decode(view["mask"].split(",")[1])))
    assert mask.size == (4096, 100)
    assert sum(row["pixels"] for row in view["legend"]) == class_map.size


@pytest.mark.parametrize("size", [(31, 17), (50, 30), (1, 1), (7, 29)])
def test_a_smaller_map_is_pillows_nearest(size, rng):
    class_map = rng.integers(0, 256, (30, 50)).astype(np.uint8)
    expected = Image.fromarray(class_map).resize(size, Image.Resampling.NEAREST)
    assert np.array_equal(shrunk(class_map, size=size), np.asarray(expected))


def test_no_side_is_shown_longer_than_the_limit_or_shorter_than_a_pixel():
    assert shown_size((751, 563)) == (751, 563)
    assert shown_size((4096, 3072)) == (2048, 1536)
    assert shown_size((100_000, 3)) == (2048, 1)
