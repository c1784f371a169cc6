"""A raster gets the classes of the same picture in memory, and keeps its place on earth."""

import json

import numpy as np
import pytest
import rasterio
from inference.tiny import make_checkpoint, make_picture
from PIL import Image
from rasterio.control import GroundControlPoint
from rasterio.enums import ColorInterp

from segformer_jax import ImageError, Segmenter
from segformer_jax.geo import raster
from segformer_jax.geo.pixels import open_raster
from segformer_jax.geo.raster import segment_raster
from segformer_jax.images.draw import overlay
from segformer_jax.images.labels import palette_for
from segformer_jax.inference.protocol import Protocol, Windows

WINDOWS = Protocol(windows=Windows((64, 48), (48, 36)))
PLACE = {"crs": "EPSG:32632", "transform": rasterio.Affine(0.5, 0, 500_000, 0, -0.5, 5_600_000)}


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory):
    return Segmenter.from_pretrained(
        make_checkpoint(tmp_path_factory.mktemp("model")), batch_size=1
    )


@pytest.fixture
def small_tiles(monkeypatch):
    """Tiles and bands small enough for several of each in a small picture."""
    monkeypatch.setattr(raster, "TILE", 128)
    monkeypatch.setattr(raster, "BAND", 256)


def write_raster(path, planes, **options):
    planes = np.asarray(planes)
    options = (
        PLACE | {"driver": "GTiff", "tiled": True, "blockxsize": 64, "blockysize": 64} | options
    )
    size = dict(zip(("count", "height", "width"), planes.shape, strict=True))
    colours = options.pop("colorinterp", None)
    with rasterio.open(path, "w", dtype=planes.dtype, **size, **options) as file:
        file.write(planes)
        if colours:
            file.colorinterp = colours
    return path


def planes_of(picture):
    return np.moveaxis(np.asarray(picture), -1, 0)


def assert_all_but_ties(classes, expected):
    assert classes.shape == expected.shape
    assert (classes == expected).mean() > 0.9995
    assert len(np.unique(expected)) > 2


@pytest.mark.usefixtures("small_tiles")
def test_the_classes_are_those_of_the_picture_in_memory(segmenter, tmp_path):
    picture = make_picture(300, 601)
    source = write_raster(tmp_path / "a.tif", planes_of(picture))
    mask, drawn, done = tmp_path / "m.tif", tmp_path / "o.tif", []
    found = segment_raster(
        segmenter,
        source,
        mask=mask,
        overlay=drawn,
        protocol=WINDOWS,
        alpha=0.3,
        progress=done.append,
    )
    expected = segmenter(picture, protocol=WINDOWS)
    palette = palette_for(segmenter.id2label)
    with rasterio.open(mask) as file:
        classes = file.read(1)
        assert_all_but_ties(classes, expected.class_map)
        assert (file.crs.to_string(), file.transform) == (PLACE["crs"], PLACE["transform"])
        assert (file.nodata, file.dtypes) == (255, ("uint8",))
        assert (file.compression.name, file.block_shapes[0]) == ("deflate", (128, 128))
        assert file.colormap(1)[3] == (*palette[3], 255)
    assert np.array_equal(np.asarray(Image.open(mask)), classes)  # Pillow reads it, too
    with rasterio.open(drawn) as file:
        wanted = np.asarray(overlay(picture, classes, palette, alpha=0.3))
        np.testing.assert_array_equal(file.read(), planes_of(wanted))
        assert (file.crs.to_string(), file.transform) == (PLACE["crs"], PLACE["transform"])
        assert file.colorinterp[0] == ColorInterp.red
    assert sum(done) == 300 * 601
    pixels = {row["id"]: row["pixels"] for row in json.loads(json.dumps(found))["classes"]}
    assert pixels == dict(
        zip(*(a.tolist() for a in np.unique(classes, return_counts=True)), strict=True)
    )
    assert (found["height"], found["width"]) == (300, 601)


@pytest.mark.usefixtures("small_tiles")
def test_scales_and_flips_of_a_raster_are_those_of_the_picture(segmenter, tmp_path):
    picture = make_picture(150, 290)
    source = write_raster(tmp_path / "a.tif", planes_of(picture))
    directions = ("horizontal", "vertical", "diagonal")
    views = dict(scales=(0.6, 1.3), flip=True, flip_direction=directions)
    protocol = Protocol(windows=WINDOWS.windows, **views)
    segment_raster(segmenter, source, mask=tmp_path / "m.tif", protocol=protocol)
    with rasterio.open(tmp_path / "m.tif") as file:
        classes = file.read(1)
    expected = segmenter(picture, protocol=protocol).class_map
    assert (classes == expected).mean() > 0.99  # values may be resized to 1 more or less


@pytest.mark.parametrize("size", [(60, 290), (200, 173), (400, 221), (60, 173), (200, 290)])
def test_a_part_of_a_resized_raster_is_that_of_the_whole(tmp_path, rng, size):
    picture = Image.fromarray(rng.integers(0, 256, (200, 290, 3), np.uint8))
    write_raster(tmp_path / "a.tif", planes_of(picture))
    whole = np.asarray(picture.resize(size[::-1], Image.Resampling.BILINEAR)).astype(int)
    with open_raster(tmp_path / "a.tif") as pixels:
        resized = pixels.resized(size, Image.Resampling.BILINEAR)
        assert resized.size == size
        for top, left in ((0, 0), (7, 31), (size[0] - 50, size[1] - 40), (0, size[1] - 40)):
            part = resized.read(top, left, (50, 40)).astype(int)
            assert np.abs(part - whole[top : top + 50, left : left + 40]).max() <= 1  # 0…255


def test_sixteen_bits_are_divided_by_257_and_grey_becomes_rgb(tmp_path, rng):
    values = rng.integers(0, 65536, (3, 40, 50), np.uint16)
    write_raster(tmp_path / "a.tif", values)
    with open_raster(tmp_path / "a.tif") as pixels:
        np.testing.assert_array_equal(
            pixels.read(5, 7, (20, 30)),
            np.moveaxis(np.round(values[:, 5:25, 7:37] / 257), 0, -1).astype(np.uint8),
        )
    with open_raster(tmp_path / "a.tif", bands=(2,)) as pixels:
        grey = np.round(values[1] / 257).astype(np.uint8)
        np.testing.assert_array_equal(pixels.read(0, 0, (40, 50)), np.stack([grey] * 3, -1))
    with open_raster(tmp_path / "a.tif", bands=(3, 2, 1)) as pixels:
        backwards = np.moveaxis(np.round(values[::-1] / 257), 0, -1)
        np.testing.assert_array_equal(pixels.read(0, 0, (40, 50)), backwards)


def test_a_palette_gives_its_colours(tmp_path, rng):
    indices = Image.fromarray(rng.integers(0, 4, (40, 50), np.uint8))
    indices.putpalette(rng.integers(0, 256, 12, np.uint8).tobytes())
    indices.save(tmp_path / "a.tif")
    with open_raster(tmp_path / "a.tif") as pixels:
        np.testing.assert_array_equal(pixels.read(0, 0, (40, 50)), indices.convert("RGB"))


def test_where_there_is_no_data_the_mask_has_none_and_windows_are_left_out(segmenter, tmp_path):
    planes = planes_of(make_picture(128, 300)).copy()
    planes[planes == 0] = 1
    planes[:, :, 100:] = 0
    planes[:, 90:, 40:] = 0
    source = write_raster(tmp_path / "a.tif", planes, nodata=0)
    seen, start = [], segmenter.start
    segmenter.start = lambda inputs, **how: (seen.extend(inputs), start(inputs, **how))[1]
    try:
        found = segment_raster(segmenter, source, mask=tmp_path / "m.tif", protocol=WINDOWS)
    finally:
        del segmenter.start
    assert len(seen) < 20  # of 3 × 8
    with rasterio.open(tmp_path / "m.tif") as file:
        classes, valid = file.read(1), file.dataset_mask() > 0
    np.testing.assert_array_equal(valid, (planes != 0).any(0))
    assert (classes[~valid] == 255).all()
    picture = Image.fromarray(np.moveaxis(planes, 0, -1))
    expected = segmenter(picture, protocol=WINDOWS).class_map
    assert_all_but_ties(classes[valid], expected[valid])
    assert sum(row["pixels"] for row in found["classes"]) == valid.sum()
    assert sum(row["share"] for row in found["classes"]) == pytest.approx(1)


def test_transparent_pixels_have_no_data(segmenter, tmp_path):
    alpha = np.zeros((1, 80, 90), np.uint8)
    alpha[:, 20:, 30:] = 255
    colours = (ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha)
    planes = np.concatenate([planes_of(make_picture(80, 90)), alpha])
    source = write_raster(tmp_path / "a.tif", planes, colorinterp=colours)
    segment_raster(segmenter, source, mask=tmp_path / "m.tif", protocol=WINDOWS)
    with rasterio.open(tmp_path / "m.tif") as file:
        np.testing.assert_array_equal(file.dataset_mask() > 0, alpha[0] > 0)


def test_control_points_are_kept(segmenter, tmp_path):
    points = [GroundControlPoint(r, c, 8 + c / 1e4, 50 - r / 1e4) for r in (0, 80) for c in (0, 90)]
    source = tmp_path / "a.tif"
    options = {"crs": "EPSG:4326", "transform": None, "gcps": points}
    write_raster(source, planes_of(make_picture(80, 90)), **options)
    segment_raster(segmenter, source, mask=tmp_path / "m.tif", protocol=WINDOWS)
    with rasterio.open(tmp_path / "m.tif") as file:
        kept, crs = file.gcps
    assert crs.to_string() == "EPSG:4326"
    assert [(p.row, p.col, p.x, p.y) for p in kept] == [(p.row, p.col, p.x, p.y) for p in points]


def test_without_windows_those_of_the_processors_size_are_taken(segmenter, tmp_path):
    picture = make_picture(90, 150)
    source = write_raster(tmp_path / "a.tif", planes_of(picture))
    segment_raster(segmenter, source, mask=tmp_path / "m.tif")
    windows = Protocol(windows=Windows((64, 96), (48, 72)))
    with rasterio.open(tmp_path / "m.tif") as file:
        assert_all_but_ties(file.read(1), segmenter(picture, protocol=windows).class_map)


def test_what_is_no_picture_is_said_in_a_line_and_leaves_no_file(segmenter, tmp_path):
    grey = np.zeros((1, 64, 64), np.uint8)
    cases = {
        "must have 1 .*bands, got 2": write_raster(tmp_path / "2.tif", np.tile(grey, (2, 1, 1))),
        "must be all uint8.*got float32": write_raster(tmp_path / "f.tif", grey.astype(np.float32)),
        "every pixel is nodata": write_raster(tmp_path / "n.tif", grey, nodata=0),
        "can't be read": tmp_path / "missing.tif",
    }
    rubbish = tmp_path / "rubbish.tif"
    rubbish.write_bytes(b"II*\0 and no more")
    planes = planes_of(make_picture(300, 200))
    damaged = write_raster(tmp_path / "damaged.tif", planes, compress="deflate")
    damaged.write_bytes(damaged.read_bytes()[:-3000])
    for message, path in [*cases.items(), ("can't be read", rubbish), ("can't be read", damaged)]:
        with pytest.raises(ImageError, match=message):
            segment_raster(segmenter, path, mask=tmp_path / "out" / "m.tif", protocol=WINDOWS)
        assert not list(tmp_path.glob("out/*"))
    with pytest.raises(ImageError, match=r"bands must be in 1…3 for .* got \(1, 4, 2\)"):
        segment_raster(segmenter, damaged, bands=(1, 4, 2))
    with pytest.raises(ValueError, match=r"short_side must be None for a raster, .*got 512"):
        segment_raster(segmenter, damaged, protocol=Protocol.ade20k())
