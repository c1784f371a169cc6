import numpy as np
import pytest
from PIL import Image

from segformer_jax import ImageError
from segformer_jax.data.masks import IGNORED, WITHOUT_ZERO, Coding, read_mask

INDICES = np.array([[0, 1, 2], [255, 1, 0]], np.uint8)
RED, GREEN, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 0)


def _palette(mask: np.ndarray) -> Image.Image:
    image = Image.fromarray(mask)
    image.putpalette(np.arange(768, dtype=np.uint8).tobytes())
    return image


@pytest.mark.parametrize(
    "image",
    [Image.fromarray(INDICES), _palette(INDICES), Image.fromarray(INDICES.astype(np.uint16))],
    ids=["L", "P", "I;16"],
)
def test_index_masks_of_every_mode_give_their_indices(image, tmp_path):
    image.save(tmp_path / "mask.png")
    mask = read_mask(tmp_path / "mask.png", coding=Coding(3))
    assert mask.dtype == np.uint8
    assert np.array_equal(mask, INDICES)
    assert np.array_equal(read_mask(image, coding=Coding(3)), INDICES)


OPAQUE = np.full_like(INDICES, 255)


@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(INDICES.astype(np.float32)),
        Image.fromarray(INDICES.astype(np.int32)),
        Image.fromarray(np.dstack([INDICES] * 3)),
        Image.fromarray(np.dstack([INDICES, INDICES, INDICES, OPAQUE])),
        Image.fromarray(np.dstack([INDICES, OPAQUE])),
    ],
    ids=["F", "I", "RGB", "RGBA", "LA"],
)
def test_indices_as_other_tools_write_them(image, tmp_path):
    """GIS tools write floats, OpenCV three equal channels, editors an opaque fourth one."""
    image.save(tmp_path / "mask.tif")
    assert np.array_equal(read_mask(tmp_path / "mask.tif", coding=Coding(3)), INDICES)


def test_black_and_white_is_0_and_1():
    assert np.array_equal(
        read_mask(Image.fromarray(np.array([[True, False]])), coding=Coding(2)), [[1, 0]]
    )


def test_without_zero_0_is_ignored_and_1_is_class_0():
    mask = read_mask(Image.fromarray(INDICES), coding=Coding(2, WITHOUT_ZERO))
    assert np.array_equal(mask, [[IGNORED, 0, 1], [IGNORED, 0, IGNORED]])


def test_colours_give_the_classes_of_the_palette():
    image = Image.fromarray(np.array([[RED, GREEN], [BLACK, RED]], np.uint8))
    coding = Coding(3, colours=((RED, 2), (GREEN, 0), (BLACK, IGNORED)))
    assert np.array_equal(read_mask(image, coding=coding), [[2, 0], [IGNORED, 2]])
    assert np.array_equal(read_mask(image.quantize(3), coding=coding), [[2, 0], [IGNORED, 2]])


def test_all_256_grey_levels_can_be_classes_of_a_palette():
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    colours = tuple(((level, level, level), 255 - level) for level in range(256))
    mask = read_mask(Image.fromarray(grey), coding=Coding(255, colours=colours))
    assert np.array_equal(mask, 255 - grey)


@pytest.mark.parametrize(
    ("array", "coding", "message"),
    [
        (INDICES, Coding(2), r"holds 2; its classes are 0…1, and 255 is ignored"),
        (
            INDICES + np.uint16(299),
            Coding(3),
            r"class indices in a mask must be in 0…254, .*got 299, 300, 301, 554",
        ),
        (INDICES, Coding(1, WITHOUT_ZERO), r"holds 2; its classes are 1,"),
        (np.array([[RED]], np.uint8), Coding(2), r"mode RGB.*palette\.json"),
        (np.array([[0.5]], np.float32), Coding(2), "got fractions"),
        (np.dstack([INDICES, INDICES, INDICES, INDICES]), Coding(3), "mode RGBA"),
        (
            np.array([[RED, (1, 2, 3)]], np.uint8),
            Coding(2, colours=((RED, 0),)),
            r"colours \(1, 2, 3\), which are no class's: .* palette\.json",
        ),
        (np.arange(40, dtype=np.uint8)[None], Coding(5), r"holds 5, 6, .*12 and 27 more"),
    ],
)
def test_pixels_that_are_no_class_are_listed(array, coding, message):
    with pytest.raises(ImageError, match=message):
        read_mask(Image.fromarray(array), coding=coding)
