import io
import threading
import warnings

import numpy as np
import pytest
from PIL import Image, ImageOps

from segformer_jax import ImageError
from segformer_jax.images.read import check_image, read_class_indices, read_image


@pytest.fixture
def photo(rng) -> Image.Image:
    return Image.fromarray(rng.integers(0, 256, (13, 17, 3), dtype=np.uint8))


def _saved(image, path, **options):
    image.save(path, **options)
    return path


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA", "CMYK", "YCbCr", "HSV", "RGBX"])
def test_every_mode_becomes_the_rgb_that_pillow_makes_of_it(photo, mode):
    image = photo.convert(mode)
    ours = read_image(image)
    assert (ours.mode, ours.size) == ("RGB", photo.size)
    assert np.array_equal(ours, image.convert("RGB"))


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "WEBP", "GIF", "PPM", "JPEG"])
def test_files_read_as_pillow_reads_them(photo, tmp_path, kind):
    path = _saved(photo, tmp_path / f"photo.{kind.lower()}", format=kind)
    with Image.open(path) as reference:
        assert np.array_equal(read_image(path), reference.convert("RGB"))
        assert np.array_equal(read_image(str(path)), read_image(path))


def test_a_palette_with_transparency_bytes_is_read_without_pillows_warning(photo, tmp_path):
    image = photo.quantize(8)
    path = _saved(image, tmp_path / "p.png", transparency=bytes([0, 128, 255]))
    assert np.array_equal(read_image(path), image.convert("RGB"))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_exif_orientation_is_applied(photo, tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = _saved(photo, tmp_path / "turned.png", exif=exif)
    with Image.open(path) as image:
        expected = ImageOps.exif_transpose(image).convert("RGB")
        before = image.copy()
        assert np.array_equal(read_image(path), expected)
        assert np.array_equal(read_image(image), expected)
        assert np.array_equal(image, before)


@pytest.mark.parametrize("name", ["grey.png", "grey.tif"])
def test_16_bit_greys_are_scaled_not_clipped(rng, tmp_path, name):
    deep = rng.integers(0, 65536, (9, 7), dtype=np.uint16)
    deep[0, :2] = 0, 65535
    expected = np.repeat(np.round(deep / 257)[..., None], 3, -1)
    path = _saved(Image.fromarray(deep), tmp_path / name)
    for source in (path, Image.fromarray(deep), Image.fromarray(deep.astype(np.int32)), deep):
        assert np.array_equal(read_image(source), expected)


@pytest.mark.filterwarnings("ignore:.*nearly black:segformer_jax.errors.ImageWarning")
def test_a_dark_16_bit_grey_stays_dark():
    dark = np.full((4, 4), 200, np.uint16)
    assert np.array_equal(read_image(dark), read_image(Image.fromarray(dark)))
    assert np.asarray(read_image(dark)).max() == 1


def test_arrays_of_every_kind(rng):
    colours = rng.integers(0, 256, (6, 5, 4), dtype=np.uint8)
    rgb = colours[..., :3]
    assert np.array_equal(read_image(colours), rgb)
    for kind in (np.int64, np.uint32, np.float32, np.float64):
        assert np.array_equal(read_image(rgb.astype(kind)), rgb)
    for grey in (rgb[..., 0], rgb[..., :1]):
        assert np.array_equal(read_image(grey), np.repeat(rgb[..., :1], 3, -1))
    mask = rgb[..., 0] > 128
    assert np.array_equal(read_image(mask), np.repeat(np.where(mask, 255, 0)[..., None], 3, -1))
    fractions = rgb / 255
    assert np.abs(np.asarray(read_image(fractions)).astype(int) - rgb).max() <= 1  # cut, as in HF


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros((3, 8, 9), np.uint8), "NHWC"),
        (np.zeros((1, 3, 8, 9), np.uint8), "NHWC"),
        (np.zeros((8, 9, 2), np.uint8), r"\(8, 9, 2\)"),
        (np.zeros((8, 9, 5, 3), np.uint8), r"\(8, 9, 5, 3\)"),
        (np.zeros((0, 9, 3), np.uint8), "must have pixels"),
        (np.full((4, 4, 3), -1), "-1"),
        (np.full((4, 4, 3), 70000), "70000"),
        (np.full((4, 4, 3), 1.5), "1.5"),
        (np.full((4, 4, 3), np.nan), "nan"),
        (np.zeros((4, 4, 3), complex), "complex"),
        ([[1, 2], [3, 4]], "list"),
        (None, "NoneType"),
    ],
)
def test_arrays_that_are_no_picture_are_refused(array, said):
    with pytest.raises(ImageError, match=said):
        read_image(array)


def test_files_that_are_no_picture_are_refused_in_one_line(photo, tmp_path):
    (tmp_path / "text.jpg").write_text("no picture")
    (tmp_path / "empty.png").touch()
    data = io.BytesIO()
    photo.resize((200, 200)).save(data, "JPEG")
    (tmp_path / "half.jpg").write_bytes(data.getvalue()[:-900])
    for name, said in [
        ("missing.jpg", "no file"),
        (".", "folder"),
        ("text.jpg", "not a picture"),
        ("empty.png", "not a picture"),
        ("half.jpg", "half.jpg is damaged.*truncated"),
    ]:
        with pytest.raises(ImageError, match=said) as caught:
            read_image(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_damaged_files_raise_nothing_but_image_errors(photo, tmp_path, rng):
    path = tmp_path / "damaged"
    refused = 0
    for kind in ("PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP"):
        data = io.BytesIO()
        photo.save(data, kind)
        for _ in range(25):
            broken = bytearray(data.getvalue())
            for place in rng.integers(0, len(broken), 4):
                broken[place] = rng.integers(0, 256)
            path.write_bytes(broken[: rng.integers(1, len(broken) + 1)])
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of odd metadata, by Pillow
                try:
                    read_image(path, max_pixels=10**6)
                except ImageError:
                    refused += 1
    assert refused > 50


def test_the_limit_of_pixels_holds_before_decoding(tmp_path):
    path = _saved(Image.new("1", (20_000, 10_000)), tmp_path / "large.png")  # 200 M pixels, 25 kB
    before = Image.MAX_IMAGE_PIXELS
    with pytest.raises(ImageError, match=r"max_pixels=200000000 \(--max-pixels"):
        read_image(path)
    small = Image.new("L", (10, 10))
    for source in (small, np.asarray(small), _saved(small, tmp_path / "small.png")):
        with pytest.raises(ImageError, match="at most 99 pixels"):
            read_image(source, max_pixels=99)
        assert read_image(source, max_pixels=100).size == (10, 10)
    assert before == Image.MAX_IMAGE_PIXELS


def test_a_raised_limit_needs_no_change_of_pillows(tmp_path, monkeypatch):
    path = _saved(Image.new("L", (30, 30)), tmp_path / "photo.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # 900 pixels raise in Image.open now
    with pytest.raises(Image.DecompressionBombError):
        Image.open(path)
    found = []
    threads = [threading.Thread(target=lambda: found.append(read_image(path))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [image.size for image in found] == [(30, 30)] * 4
    assert Image.MAX_IMAGE_PIXELS == 100


def test_the_callers_image_is_never_changed(photo):
    ours = read_image(photo)
    ours.paste("red", (0, 0, 5, 5))
    assert not np.array_equal(ours, photo)
    array = np.asarray(photo).copy()
    read_image(array).paste("red", (0, 0, 5, 5))
    assert np.array_equal(array, photo)


def test_class_indices_of_palettes_and_files_are_as_stored(rng, tmp_path):
    indices = rng.integers(0, 256, (8, 9), dtype=np.uint8)
    palette = Image.fromarray(indices)
    palette.putpalette(rng.integers(0, 256, 768, dtype=np.uint8).tobytes())
    deep = Image.fromarray(indices.astype(np.uint16) * 200)
    for image, factor in ((palette, 1), (Image.fromarray(indices), 1), (deep, 200)):
        path = _saved(image, tmp_path / "map.png")
        for source in (image, path, np.asarray(image)):
            assert np.array_equal(read_class_indices(source), indices * np.int64(factor))


@pytest.mark.parametrize(
    "source",
    [
        Image.new("RGB", (4, 4)),
        np.zeros((4, 4, 3), int),
        np.full((4, 4), 0.5),
        np.full((4, 4), np.nan),
        np.full((4, 4), 2**31),
        "nowhere.png",
        7,
    ],
    ids=["RGB", "three channels", "fractions", "NaN", "too large", "no file", "a number"],
)
def test_what_is_no_map_of_classes_is_refused(source):
    with pytest.raises(ImageError):
        read_class_indices(source)


def test_a_files_content_is_read_as_the_file(tmp_path):
    file = tmp_path / "grey.png"
    Image.fromarray(np.arange(12, dtype=np.uint16).reshape(3, 4) * 5000).save(file)
    content = file.read_bytes()
    assert np.array_equal(np.asarray(read_image(content)), np.asarray(read_image(file)))
    assert check_image(content) == (4, 3)
    with pytest.raises(ImageError, match="at most 11 pixels"):
        check_image(content, max_pixels=11)
    with pytest.raises(ImageError, match="damaged"):
        read_image(content[:-30])
    with pytest.raises(ImageError, match="not a picture"):
        read_image(b"text")
