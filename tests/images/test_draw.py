import io

import numpy as np
import pytest
from PIL import Image

from segformer_jax.images.draw import colorize, index_png, legend, overlay, side_by_side

PALETTE = np.array([[255, 0, 0], [0, 255, 0], [10, 20, 30]], np.uint8)


@pytest.fixture
def photo(rng) -> Image.Image:
    return Image.fromarray(rng.integers(0, 256, (9, 14, 3), dtype=np.uint8))


@pytest.fixture
def class_map(rng) -> np.ndarray:
    return rng.integers(0, 3, (9, 14), dtype=np.uint8)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int64])
def test_each_class_has_its_colour_and_the_unknown_is_black(class_map, dtype):
    class_map = class_map.astype(dtype)
    class_map[0, 0] = 255
    image = colorize(class_map, PALETTE)
    assert image.mode == "RGB"
    expected = np.where((class_map < 3)[..., None], PALETTE[class_map % 3], 0)
    assert np.array_equal(image, expected)


def test_a_palette_of_more_colours_than_a_byte_counts(rng):
    palette = rng.integers(0, 256, (300, 3), dtype=np.uint8)
    class_map = rng.integers(0, 256, (5, 6), dtype=np.uint8)
    assert np.array_equal(colorize(class_map, palette), palette[class_map])


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 1.0])
def test_the_overlay_is_the_weighted_mean(photo, class_map, alpha):
    drawn = np.asarray(overlay(photo, class_map, PALETTE, alpha=alpha))
    expected = (1 - alpha) * np.asarray(photo) + alpha * PALETTE[class_map].astype(float)
    assert np.abs(drawn - expected).max() <= (1 if 0 < alpha < 1 else 0)  # rounding to 8 bits


def test_ignored_pixels_show_the_photo(photo, class_map):
    class_map[:, 5] = 255
    drawn = np.asarray(overlay(photo, class_map, PALETTE, alpha=1, ignore_index=2))
    bare = (class_map == 255) | (class_map == 2)
    assert np.array_equal(drawn[bare], np.asarray(photo)[bare])
    assert np.array_equal(drawn[~bare], PALETTE[class_map[~bare]])


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan")])
def test_an_alpha_outside_0_to_1_is_refused(photo, class_map, alpha):
    with pytest.raises(ValueError, match="alpha must be"):
        overlay(photo, class_map, PALETTE, alpha=alpha)


def test_a_map_of_another_size_or_below_zero_is_refused(photo, class_map):
    with pytest.raises(ValueError, match=r"must have the same size, got \(9, 14\) and \(14, 9\)"):
        overlay(photo, class_map.T, PALETTE)
    with pytest.raises(ValueError, match=r"must have the same size, got \(9, 14\) and \(8, 14\)"):
        side_by_side(photo, class_map[1:], {}, PALETTE)
    with pytest.raises(ValueError, match="must be at least 0"):
        colorize(class_map.astype(int) - 1, PALETTE)


@pytest.mark.parametrize(
    ("dtype", "top", "mode"),
    [
        (np.uint8, 255, "P"),
        (np.int64, 255, "P"),
        (np.uint16, 2, "I;16"),
        (np.int64, 256, "I;16"),
        (np.uint16, 65535, "I;16"),
    ],
)
def test_an_index_png_gives_the_map_back(class_map, dtype, top, mode):
    class_map = class_map.astype(dtype)
    class_map[0, 0] = top
    data = io.BytesIO()
    index_png(class_map, PALETTE).save(data, "PNG")
    read = Image.open(data)
    assert read.mode == mode
    assert np.array_equal(read, class_map)
    if mode == "P":
        assert np.array_equal(read.convert("RGB"), colorize(class_map, PALETTE))


def test_indices_that_no_png_holds_are_refused(class_map):
    for odd in (class_map.astype(int) - 1, class_map.astype(int) + 65536):
        with pytest.raises(ValueError, match="0…65535"):
            index_png(odd, PALETTE)


def test_the_legend_shows_every_colour_and_grows_with_its_rows():
    rows = [(f"class {i}", colour) for i, colour in enumerate(PALETTE)]
    image = legend(rows)
    shown = {colour for _, colour in image.getcolors(1 << 20)}
    assert {tuple(colour) for colour in PALETTE.tolist()} <= shown
    assert legend(rows * 10).height > 8 * image.height
    assert legend(rows, height=500).height == 500
    assert legend([("a much longer text than before", (1, 2, 3))]).width > image.width
    assert np.array_equal(image, legend(rows))


def test_photo_map_and_legend_stand_side_by_side(photo, class_map):
    class_map[0] = 255
    whole = side_by_side(photo, class_map, {0: "sky", 1: "road"}, PALETTE)
    pixels = np.asarray(whole)
    assert whole.height >= 9
    assert np.array_equal(pixels[:9, :14], photo)
    assert np.array_equal(pixels[:9, 14:28], colorize(class_map, PALETTE))
    there = np.unique(pixels[:, 28:].reshape(-1, 3), axis=0).tolist()
    assert all(colour in there for colour in PALETTE.tolist())
    absent = side_by_side(photo, np.zeros_like(class_map), {0: "sky", 1: "road"}, PALETTE)
    there = np.unique(np.asarray(absent)[:, 28:].reshape(-1, 3), axis=0).tolist()
    assert [0, 255, 0] not in there
