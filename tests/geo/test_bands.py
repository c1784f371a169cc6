"""Windows of a raster hold what the reader of whole pictures gives."""

import numpy as np
import pytest
import rasterio

from segformer_jax import ImageError
from segformer_jax.errors import ImageWarning
from segformer_jax.geo.pixels import open_raster
from segformer_jax.images.read import read_bands, read_image

PLACE = {"crs": "EPSG:32632", "transform": rasterio.Affine(0.5, 0, 9, 0, -0.5, 9)}


def write_raster(path, planes):
    size = dict(zip(("count", "height", "width"), planes.shape, strict=True))
    options = {"driver": "GTiff", "dtype": planes.dtype, "photometric": "MINISBLACK"} | PLACE
    with rasterio.open(path, "w", **size, **options) as file:
        file.write(planes)
    return path


@pytest.mark.parametrize("stretch", [(0, 4095), "percentile"])
@pytest.mark.parametrize("kind", [np.uint16, np.int16, np.float32])
def test_a_part_is_that_of_the_whole_picture(rng, tmp_path, stretch, kind):
    path = write_raster(tmp_path / "a.tif", rng.integers(0, 4096, (4, 40, 50)).astype(kind))
    whole = read_bands(path, channels=4, stretch=stretch)
    with open_raster(path, channels=4, stretch=stretch) as pixels:
        assert np.array_equal(pixels.read(10, 20, (20, 25)), whole[10:30, 20:45])
    rgb = np.asarray(read_image(path, stretch=stretch))
    with open_raster(path, stretch=stretch) as pixels:
        assert np.array_equal(pixels.read(0, 0, (40, 50)), rgb)


def test_a_nearly_black_raster_and_other_numbers_of_bands_are_said(rng, tmp_path):
    path = write_raster(tmp_path / "a.tif", rng.integers(0, 4096, (5, 9, 9), dtype=np.uint16))
    with (
        open_raster(path, bands=(1, 2, 3)) as pixels,
        pytest.warns(ImageWarning, match=r"a\.tif is nearly black"),
    ):
        pixels.read(0, 0, (9, 9))
    with pytest.raises(ImageError, match=r"a\.tif must have 4 bands.*got 5.*--bands"):
        open_raster(path, channels=4).__enter__()
    with open_raster(path, channels=4, bands=(5, 4, 3, 2), stretch=(0, 4095)) as pixels:
        found = pixels.read(0, 0, (9, 9))
    assert np.array_equal(found, read_bands(path, channels=5, stretch=(0, 4095))[..., [4, 3, 2, 1]])
