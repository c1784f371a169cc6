"""Pictures of more than 8 bits and of other than three bands, from files of either reader."""

import contextlib
import warnings

import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio.enums import ColorInterp
from rasterio.shutil import copy

from segformer_jax import ImageError, SegformerImageProcessor
from segformer_jax.errors import ImageWarning
from segformer_jax.geo.pixels import open_raster
from segformer_jax.images.gdal_file import gdal_file
from segformer_jax.images.read import (
    check_image,
    count_channels,
    read_bands,
    read_image,
    upright_header,
)


def write_tiff(path, pixels, *, colours=None, tags=None, **options):
    """Writes (h, w, c) with GDAL, which marks the bands after the first as undefined."""
    planes = np.moveaxis(pixels, -1, 0)
    size = dict(zip(("count", "height", "width"), planes.shape, strict=True))
    place = {"crs": "EPSG:32632", "transform": rasterio.Affine(0.5, 0, 9, 0, -0.5, 9)}
    usual = place | {"driver": "GTiff", "dtype": planes.dtype, "photometric": "MINISBLACK"}
    with rasterio.open(path, "w", **size, **(usual | options)) as file:
        if colours:
            file.colorinterp = colours
        file.write(planes)
        file.update_tags(**(tags or {}))
    return path


@pytest.fixture
def twelve(rng):
    """12-bit values of three bands."""
    return rng.integers(0, 4096, (20, 30, 3), dtype=np.uint16)


def scaled(pixels, low, high):
    return np.rint((pixels.astype(np.float64).clip(low, high) - low) * 255 / (high - low))


def assert_near(ours, expected):
    assert np.abs(np.asarray(ours).astype(float) - expected).max() <= 1  # ties, in float32


@pytest.mark.parametrize("opened", [gdal_file, open_raster])
def test_a_file_that_another_thread_closes_meanwhile_loses_no_warning(opened, twelve, tmp_path):
    path = tmp_path / "plain.tif"
    Image.fromarray(twelve[..., 0]).save(path)  # without a georeference, of which rasterio warns

    def warn(thread):
        thread.close()
        warnings.warn("of this thread", stacklevel=1)

    with contextlib.ExitStack() as thread:
        thread.enter_context(opened(path))
        with pytest.warns(UserWarning, match="of this thread"):
            warn(thread)


def test_nearly_black_16_bit_files_are_named_in_a_warning(twelve, tmp_path):
    Image.fromarray(twelve[..., 0]).save(tmp_path / "grey.png")
    Image.fromarray(twelve[..., 0]).save(tmp_path / "grey.tif")
    write_tiff(tmp_path / "colour.tif", twelve)  # Pillow refuses
    write_tiff(tmp_path / "upper.tif", twelve, photometric="RGB")  # Pillow reads 8 bits of 16
    for name in ("grey.png", "grey.tif", "colour.tif", "upper.tif"):
        with pytest.warns(ImageWarning, match=f"{name} is nearly black.*--range 0 4095"):
            dark = read_image(tmp_path / name)
        assert np.asarray(dark).max() == 15 + (name != "upper.tif")
        given = read_image(tmp_path / name, stretch=(0, 4095))
        expected = scaled(twelve, 0, 4095)
        assert_near(given, expected[..., :1] if "grey" in name else expected)


def test_a_full_range_gives_no_warning(rng, tmp_path):
    full = rng.integers(0, 65536, (20, 30, 3), dtype=np.uint16)
    path = write_tiff(tmp_path / "full.tif", full)
    assert np.array_equal(read_image(path), np.rint(full / 257))


@pytest.mark.parametrize(
    "recorded", [{"nbits": 12}, {"tags": {"TIFFTAG_MAXSAMPLEVALUE": "4095"}}], ids=["bits", "tag"]
)
def test_the_range_that_a_file_records_is_used(twelve, tmp_path, recorded):
    path = write_tiff(tmp_path / "known.tif", twelve, **recorded)
    assert_near(read_image(path), scaled(twelve, 0, 4095))
    grey = write_tiff(tmp_path / "grey.tif", twelve[..., :1], **recorded)
    assert_near(read_image(grey), scaled(twelve[..., :1], 0, 4095))


def test_percentiles_are_those_of_each_band(twelve, tmp_path):
    path = write_tiff(tmp_path / "a.tif", twelve // np.array([1, 2, 4], np.uint16))
    low, high = np.percentile(twelve // np.array([1, 2, 4]), (2, 98), axis=(0, 1))
    expected = scaled(twelve // np.array([1, 2, 4]), low, high)
    assert_near(read_image(path, stretch="percentile"), expected)


def test_8_bits_are_never_stretched(rng):
    plain = rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)
    assert np.array_equal(read_image(plain, stretch=(0, 4095)), plain)


def test_floats_of_any_range_are_read_with_a_range(rng, tmp_path):
    heights = rng.uniform(-50, 900, (20, 30, 1)).astype(np.float32)
    path = write_tiff(tmp_path / "heights.tif", heights)
    assert_near(read_image(path, stretch=(-50, 900)), scaled(heights, -50, 900))
    with pytest.raises(ImageError, match=r"heights\.tif must have values in 0…255.*--range"):
        read_image(path)
    heights[3, 4] = np.nan
    write_tiff(path, heights)
    for stretch in (None, (-50, 900), "percentile"):
        with pytest.raises(ImageError, match=r"heights\.tif must have finite values.* nan"):
            read_image(path, stretch=stretch)


@pytest.mark.parametrize("count", [1, 2, 4, 7, 16])
def test_bands_are_read_in_order_and_counted(rng, tmp_path, count):
    pixels = rng.integers(0, 256, (20, 30, count), dtype=np.uint8)
    path = write_tiff(tmp_path / "bands.tif", pixels)
    assert np.array_equal(read_bands(path, channels=count), pixels)
    assert np.array_equal(read_bands(pixels, channels=count), pixels)
    assert count_channels(path) == (3 if count == 1 else count)
    assert (check_image(path), upright_header(path)[0]) == ((30, 20), (20, 30))
    with pytest.raises(ImageError, match=rf"bands\.tif must have 5 bands.*got {count}"):
        read_bands(path, channels=5)


def test_an_alpha_band_is_no_band_of_the_network(rng, tmp_path):
    pixels = rng.integers(0, 256, (20, 30, 5), dtype=np.uint8)
    colours = [ColorInterp.gray, *[ColorInterp.undefined] * 3, ColorInterp.alpha]
    path = write_tiff(tmp_path / "alpha.tif", pixels, colours=colours)
    assert count_channels(path) == 4
    assert np.array_equal(read_bands(path, channels=4), pixels[..., :4])
    assert np.array_equal(read_bands(path, channels=5), pixels)


def test_what_neither_reads_and_what_needs_gdal_is_said(rng, tmp_path, monkeypatch):
    (tmp_path / "text.tif").write_text("no picture at all")
    with pytest.raises(ImageError, match=r"text\.tif is not a picture .* Pillow or GDAL reads"):
        read_image(tmp_path / "text.tif")
    path = write_tiff(tmp_path / "deep.tif", rng.integers(0, 65536, (9, 9, 3), dtype=np.uint16))
    monkeypatch.setitem(__import__("sys").modules, "rasterio", None)
    for read in (read_image, check_image, count_channels):
        with pytest.raises(ImageError, match=r"deep\.tif .* pip install 'segformer-jax\[geo\]'"):
            read(path)


def test_a_file_that_names_other_files_is_read_only_by_its_ending(rng, tmp_path):
    pixels = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)
    write_tiff(tmp_path / "a.tif", pixels)
    with rasterio.open(tmp_path / "a.tif") as file:
        copy(file, tmp_path / "a.vrt", driver="VRT")
    assert np.array_equal(read_image(tmp_path / "a.vrt"), pixels)
    (tmp_path / "b.png").write_bytes((tmp_path / "a.vrt").read_bytes())
    with pytest.raises(ImageError, match=r"b\.png is not a picture"):
        read_image(tmp_path / "b.png")


def test_a_path_gives_the_processor_what_the_opened_picture_gives(rng, tmp_path):
    rgba = Image.fromarray(rng.integers(0, 256, (20, 30, 4), dtype=np.uint8), "RGBA")
    rgba.save(tmp_path / "rgba.png")
    four = dict(do_convert_rgb=False, image_mean=(0.1, 0.2, 0.3, 0.4), image_std=(1, 2, 3, 4))
    for options in (four, {"do_convert_rgb": True}, {}):
        processor = SegformerImageProcessor(size=16, **options)
        opened, path = processor(rgba), processor(tmp_path / "rgba.png")
        assert np.array_equal(opened.pixel_values, path.pixel_values)
        again = processor(processor.read(tmp_path / "rgba.png"))
        assert np.array_equal(opened.pixel_values, again.pixel_values)


def test_bands_of_an_array_are_resized_one_by_one(rng):
    pixels = rng.integers(0, 256, (20, 30, 4), dtype=np.uint8)
    ours = SegformerImageProcessor(
        size=16, do_convert_rgb=False, image_mean=(0,) * 4, image_std=(1,) * 4
    )(pixels)
    bands = [Image.fromarray(pixels[..., i]).resize((16, 16), 2) for i in range(4)]
    assert np.allclose(ours.pixel_values[0] * 255, np.stack(bands, -1), atol=1e-3)


def test_the_stretch_is_kept_in_the_processors_file(tmp_path):
    for stretch in ((0, 4095), "percentile"):
        processor = SegformerImageProcessor(stretch=stretch)
        processor.save_pretrained(tmp_path)
        assert SegformerImageProcessor.from_pretrained(tmp_path) == processor
    assert "stretch" not in SegformerImageProcessor().to_dict()
    for wrong in ((1, 1), (0,), "max", (0, float("inf"))):
        with pytest.raises(ValueError, match="stretch must be"):
            SegformerImageProcessor(stretch=wrong)


def test_further_pages_are_said_but_not_smaller_versions(rng, tmp_path):
    pages = [Image.fromarray(rng.integers(0, 256, (9, 9), dtype=np.uint8)) for _ in range(3)]
    for name in ("pages.tif", "pages.gif"):
        pages[0].save(tmp_path / name, save_all=True, append_images=pages[1:])
        with pytest.warns(ImageWarning, match=rf"{name} has 3 pages or frames, and only the first"):
            read_image(tmp_path / name)
    pixels = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = write_tiff(tmp_path / "levels.tif", pixels, photometric="RGB")
    with rasterio.open(path, "r+") as file:
        file.build_overviews([2, 4])
    assert np.array_equal(read_image(path), pixels)


def test_heic_is_named_with_what_to_do(tmp_path, monkeypatch):
    head = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64)
    (tmp_path / "phone.heic").write_bytes(head)
    monkeypatch.setitem(__import__("sys").modules, "pillow_heif", None)
    for read in (read_image, check_image):
        with pytest.raises(ImageError, match=r"phone\.heic is a HEIC .*segformer-jax\[heic\]"):
            read(tmp_path / "phone.heic")


def test_heic_is_read_by_pillow_heif(rng, tmp_path):
    heif = pytest.importorskip("pillow_heif", reason="an extra: pip install 'segformer-jax[heic]'")
    smooth = Image.fromarray(rng.integers(0, 256, (4, 6, 3), dtype=np.uint8)).resize((48, 32))
    heif.from_pillow(smooth).save(tmp_path / "phone.heic", quality=-1)
    ours = np.asarray(read_image(tmp_path / "phone.heic"), float)
    assert ours.shape == (32, 48, 3)
    assert np.abs(ours - np.asarray(smooth, float)).mean() < 8  # its colours are lossy


def test_an_error_of_gdals_own_names_the_file(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    file = tmp_path / "x.jpg"
    Image.new("RGB", (9, 9)).save(file, exif=exif)
    content = file.read_bytes().replace(b"Exif\0\0MM", b"Exif\0\0EM")
    file.write_bytes(content.replace(b"\xff\xdb\0C\0", b"\xff\xdb\0C\xf0", 1))  # not Pillow's
    with pytest.raises(ImageError, match=r"x\.jpg is not a picture .*GDAL reads \(.+\): convert"):
        count_channels(file)
