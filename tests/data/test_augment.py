import colorsys
from pathlib import Path

import numpy as np
import pytest
from data.folders import labels, photo
from PIL import Image

from segformer_jax.data.augment import (
    PADDING,
    Augmentation,
    augment,
    distort,
    draw_colours,
    scaled_size,
    turn_colours,
)

PLAIN = dict(flip=0.0, photometric=False)


def _blocks(height: int, width: int, *, block: int = 24) -> np.ndarray:
    """A mask of blocks of five classes."""
    rng = np.random.default_rng(3)
    small = rng.integers(0, 5, (-(-height // block), -(-width // block)), dtype=np.uint8)
    return small.repeat(block, 0).repeat(block, 1)[:height, :width]


def _clear(size: int, scaled: int) -> np.ndarray:
    """Where a scaled axis has one nearest pixel."""
    return (2 * np.arange(scaled) + 1) * size % (2 * scaled) != 0


@pytest.mark.parametrize("size", [(37, 53), (120, 90), (64, 64)])
@pytest.mark.parametrize("short_side", [None, 40, 111])
def test_a_crop_is_pillows_resize_and_then_crop(size, short_side):
    image, mask = Image.fromarray(photo(1, size)), labels(1, size)
    options = Augmentation((48, 56), short_side=short_side, cat_max_ratio=1, **PLAIN)
    for seed in range(20):
        picture, classes, _ = augment(image, mask, options=options, rng=np.random.default_rng(seed))
        draws = np.random.default_rng(seed)
        factor = draws.uniform(0.5, 2) * (short_side / min(size) if short_side else 1)
        height, width = round(size[0] * factor), round(size[1] * factor)
        h, w = min(48, height), min(56, width)
        top, left = draws.integers(height - h + 1), draws.integers(width - w + 1)
        box = (left, top, left + w, top + h)
        whole = image.resize((width, height), Image.Resampling.BILINEAR)
        near = Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST)
        # Pillow adds up its steps, so that the middle between two pixels may be either's.
        clear = (
            _clear(size[0], height)[top : top + h, None] & _clear(size[1], width)[left : left + w]
        )
        assert np.array_equal(classes[:h, :w][clear], np.asarray(near.crop(box))[clear])
        # Pillow keeps the box in float32: each of its two passes may round a half either way.
        difference = picture[:h, :w].astype(int) - np.asarray(whole.crop(box))
        assert np.abs(difference).max() <= 2
        assert (classes[h:] == 255).all()
        assert (classes[:, w:] == 255).all()
        assert (picture[h:] == PADDING).all()
        assert (picture[:, w:] == PADDING).all()


def test_a_draft_gives_the_same_crop_from_fewer_pixels():
    street = Path(__file__).resolve().parents[2] / "examples" / "street.jpg"
    with Image.open(street) as image:
        whole = image.convert("RGB")
    draft = whole.reduce(4)
    mask = labels(1, whole.size[::-1])
    how = dict(short_side=whole.height // 8, cat_max_ratio=1, **PLAIN)
    for seed in range(10):
        exact, classes, view = augment(
            whole, mask, options=Augmentation((48, 56), **how), rng=np.random.default_rng(seed)
        )
        options = Augmentation((48, 56), jpeg_draft=True, **how)
        rng = np.random.default_rng(seed)
        near, same_classes, same_view = augment(draft, mask, options=options, rng=rng)
        assert view == same_view
        assert view.scaled == scaled_size(
            mask.shape, options=options, rng=np.random.default_rng(seed)
        )
        assert np.array_equal(classes, same_classes)
        assert np.abs(near.astype(int) - exact).mean() < 3
        assert np.abs(near[1:].astype(int) - exact[:-1]).mean() > 5  # shifted by a pixel
    with pytest.raises(ValueError, match="must have the same size"):
        augment(draft, mask, options=Augmentation((48, 56), **how), rng=rng)


def test_picture_and_mask_stay_aligned():
    mask = _blocks(150, 200)
    grey = mask * np.uint8(50) + np.uint8(20)
    image = Image.fromarray(np.stack([grey] * 3, -1))
    options = Augmentation((96, 128), photometric=False)
    flipped = 0
    for seed in range(30):
        picture, classes, _ = augment(image, mask, options=options, rng=np.random.default_rng(seed))
        labelled = classes != 255
        told = np.round((picture[..., 0].astype(float) - 20) / 50)
        around = np.lib.stride_tricks.sliding_window_view(classes, (5, 5))
        inside = around.min((2, 3)) == around.max((2, 3))  # bilinear mixes 2 pixels at the edges
        inside &= labelled[2:-2, 2:-2]
        assert inside.any()
        assert np.array_equal(told[2:-2, 2:-2][inside], classes[2:-2, 2:-2][inside])
        options_unflipped = Augmentation((96, 128), photometric=False, flip=0)
        unflipped, _, _ = augment(
            image, mask, options=options_unflipped, rng=np.random.default_rng(seed)
        )
        w = labelled[0].sum()
        if not np.array_equal(picture, unflipped):
            flipped += 1
            assert np.array_equal(picture[:, :w], unflipped[:, :w][:, ::-1])
    assert 8 <= flipped <= 22  # of 30 at one half: 3 standard deviations are 8


@pytest.mark.parametrize(
    ("directions", "turns"),
    [
        (("vertical",), [np.flipud]),
        (("diagonal",), [lambda x: x[::-1, ::-1]]),
        (
            ("horizontal", "vertical", "diagonal"),
            [np.fliplr, np.flipud, lambda x: x[::-1, ::-1]],
        ),
    ],
)
def test_directions_are_drawn_alike(directions, turns):
    image, mask = Image.fromarray(photo(1, (64, 80))), labels(1, (64, 80))
    usual = dict(crop=(48, 56), photometric=False)
    counts = np.zeros(1 + len(turns), int)
    for seed in range(120):
        (picture, classes, view), (plain, own, _) = (
            augment(image, mask, options=options, rng=np.random.default_rng(seed))
            for options in (
                Augmentation(**usual, flip=0.6, flip_direction=directions),
                Augmentation(**usual, flip=0),
            )
        )
        h, w = view.size
        flipped = [np.array_equal(turn(plain[:h, :w]), picture[:h, :w]) for turn in turns]
        same = np.array_equal(plain, picture)
        assert [same, *flipped].count(True) == 1
        turn = [lambda x: x, *turns][[same, *flipped].index(True)]
        assert np.array_equal(turn(own[:h, :w]), classes[:h, :w])
        assert same == (not view.mirrored and not view.upside_down)
        counts += [same, *flipped]
    expected = np.array([0.4, *[0.6 / len(turns)] * len(turns)]) * 120
    assert (np.abs(counts - expected) < 3.5 * np.sqrt(expected)).all()


def _is_mixed(crop: np.ndarray) -> bool:
    return 0.25 < crop.mean() < 0.75


def test_crops_of_one_class_are_drawn_anew():
    mask = np.zeros((200, 200), np.uint8)
    mask[:60, :60] = 1
    image = Image.fromarray(photo(2, (200, 200)))

    def mixed(ratio: float) -> int:
        options = Augmentation((50, 50), scale=(1, 1), cat_max_ratio=ratio, **PLAIN)
        rng = np.random.default_rng(0)
        return sum(_is_mixed(augment(image, mask, options=options, rng=rng)[1]) for _ in range(200))

    chance = np.mean(
        [_is_mixed(mask[y : y + 50, x : x + 50]) for y in range(151) for x in range(151)]
    )
    expected = 200 * (1 - (1 - chance) ** 11)  # ten tries, and the one that is taken anyhow
    assert abs(mixed(0.75) - expected) < 25  # 3.5 standard deviations
    assert abs(mixed(1) - 200 * chance) < 15


def test_ignored_pixels_do_not_count_as_a_class():
    mask = np.full((100, 100), 255, np.uint8)
    mask[:, 50:52], mask[:, 52:54] = 0, 1
    image = Image.fromarray(photo(2, (100, 100)))
    options = Augmentation((100, 20), scale=(1, 1), **PLAIN)
    rng = np.random.default_rng(0)
    found = [set(np.unique(augment(image, mask, options=options, rng=rng)[1])) for _ in range(50)]
    assert sum({0, 1} <= classes for classes in found) > 40  # 0.3 alone, 0.98 in eleven tries


@pytest.mark.parametrize("saturation", [0.5, 1.0, 1.5])
@pytest.mark.parametrize("hue", [-36.0, 0.0, 17.0])
def test_colours_turn_as_colorsys_turns_them(saturation, hue):
    pixels = np.concatenate([photo(4, (8, 8)), np.full((1, 8, 3), 77), np.zeros((1, 8, 3))])
    expected = np.empty(pixels.shape)
    for place in np.ndindex(pixels.shape[:2]):
        h, s, v = colorsys.rgb_to_hsv(*(pixels[place] / 255))
        rgb = colorsys.hsv_to_rgb((h + hue / 360) % 1, min(1, s * saturation), v)
        expected[place] = 255 * np.array(rgb)
    turned = turn_colours(
        pixels.astype(np.float32).transpose(2, 0, 1), saturation=saturation, hue=hue
    )
    # float32 of values to 255, times a slope of at most 1 per sixth of the circle
    np.testing.assert_allclose(turned.transpose(1, 2, 0), expected, atol=1e-3)


def test_each_distortion_comes_half_of_the_time():
    def distorted(pixels, seed):
        return distort(pixels, draw_colours(np.random.default_rng(seed)))

    pixels = np.full((1, 2, 3), (60, 90, 120), np.uint8)
    same = sum(np.array_equal(distorted(pixels, seed), pixels) for seed in range(800))
    assert 25 <= same <= 85  # all four left out: 1/16 of 800 = 50, within 3.5 deviations, or nearly

    grey = np.full((1, 1, 3), 100, np.uint8)
    out = np.array([distorted(grey, seed)[0, 0] for seed in range(800)])
    assert (out == out[:, :1]).all()  # greys stay grey
    assert (out.min(), out.max()) >= ((100 - 32) // 2, 150)
    assert out.max() <= (100 + 32) * 1.5
    assert 150 <= (out[:, 0] == 100).sum() <= 250  # without brightness and contrast: a quarter


def test_the_numbers_are_the_papers():
    options = Augmentation((512, 512), short_side=512)
    assert (options.scale, options.cat_max_ratio, options.flip) == ((0.5, 2.0), 0.75, 0.5)


@pytest.mark.parametrize(
    "changes",
    [
        dict(crop=(0, 5)),
        dict(short_side=0),
        dict(scale=(2.0, 1.0)),
        dict(scale=(0.0, 1.0)),
        dict(cat_max_ratio=0.0),
        dict(flip=1.5),
        dict(flip_direction=()),
        dict(flip_direction=("vertical", "vertical")),
    ],
)
def test_impossible_options_are_refused(changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        Augmentation(**dict(crop=(8, 8)) | changes)


def test_a_mask_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"must have the same size, got \(8, 9\) and \(9, 8\)"):
        augment(
            Image.fromarray(photo(0, (8, 9))),
            labels(0, (9, 8)),
            options=Augmentation((4, 4)),
            rng=np.random.default_rng(0),
        )


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (3, 2)])
def test_tiny_pictures_are_padded(size):
    image, mask = Image.fromarray(photo(0, size)), labels(0, size)
    rng = np.random.default_rng(0)
    for _ in range(20):
        picture, classes, _ = augment(image, mask, options=Augmentation((16, 16)), rng=rng)
        assert (picture.shape, classes.shape) == ((16, 16, 3), (16, 16))
        assert (classes != 255).any()
