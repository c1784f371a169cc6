"""Soft targets in files: read by their words, and found at the place where the crop is."""

import re

import numpy as np
import pytest
import torch
from PIL import Image

from segformer_jax import ImageError
from segformer_jax.data.augment import Augmentation, Placement, augment
from segformer_jax.data.soft_targets import SoftClasses, SoftTargets, cells, soft_classes

NAMES = ("sky", "road", "tree")


def write_soft(file, logits, *, classes=NAMES, offset=(1.5, 4.0), **changes):
    """As a teacher writes them: real logits are (logits − 10) / 4."""
    parts = dict(
        logits=logits, scale=0.25, zero_point=10, offset=offset, classes=np.asarray(classes)
    )
    parts = {name: value for name, value in (parts | changes).items() if value is not None}
    file.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(file, **parts)
    return file


def noise(rows: int, columns: int, classes: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (rows, columns, classes)).astype(np.uint8)


def targets(logits: np.ndarray, *, border: float = 0.5, scale: float = 1.0) -> SoftTargets:
    return SoftTargets(logits, tuple(range(logits.shape[-1])), scale, 0.0, border)


def whole(height: int, width: int, *, mirrored: bool = False) -> Placement:
    """The view of a picture that is not cropped."""
    return Placement((height, width), 0, 0, (height, width), mirrored)


def test_logits_are_given_in_the_order_that_is_asked_for(tmp_path):
    logits = noise(5, 7)
    file = write_soft(tmp_path / "a.npz", logits)
    assert soft_classes(file) == NAMES
    read = SoftClasses(("tree", "sky")).read(file)
    found, _ = cells(read, whole(20, 28), crop=(20, 28), classes=2)
    np.testing.assert_allclose(found, (logits[..., [2, 0]].astype(np.float32) - 10) / 4, atol=1e-4)
    assert read.border == 0.5
    assert SoftClasses(("tree",)).read(None) is None


def test_the_offset_is_where_cell_0_lies(tmp_path):
    file = write_soft(tmp_path / "a.npz", noise(4, 4), offset=(0.0, 4.0))
    assert SoftClasses(NAMES).read(file).border == 0.125


def test_a_whole_picture_has_the_files_own_cells():
    soft = targets(noise(6, 8))
    logits, taught = cells(soft, whole(24, 32), crop=(24, 32), classes=3)
    np.testing.assert_allclose(logits, soft.logits, atol=1e-4)
    assert taught.all()
    mirrored, _ = cells(soft, whole(24, 32, mirrored=True), crop=(24, 32), classes=3)
    np.testing.assert_allclose(mirrored, soft.logits[:, ::-1], atol=1e-4)
    turned = Placement((24, 32), 0, 0, (24, 32), mirrored=True, upside_down=True)
    turned, _ = cells(soft, turned, crop=(24, 32), classes=3)
    np.testing.assert_allclose(turned, soft.logits[::-1, ::-1], atol=1e-4)


@pytest.mark.parametrize("size", [(24, 64), (64, 40), (20, 36)])
def test_a_scaled_picture_is_resized_as_torch_does(size):
    soft = targets(noise(8, 12))
    logits, _ = cells(soft, whole(*size), crop=size, classes=3)
    wanted = torch.nn.functional.interpolate(
        torch.from_numpy(soft.logits.astype(np.float32)).permute(2, 0, 1)[None],
        size=(size[0] // 4, size[1] // 4),
        mode="bilinear",
        align_corners=False,
    )
    np.testing.assert_allclose(logits, wanted[0].permute(1, 2, 0).numpy(), atol=2e-4)


def test_a_shifted_file_gives_what_an_unshifted_one_does():
    """A ramp along the picture, sampled at the pixels 0, 4, 8, … and at 1.5, 5.5, 9.5."""

    def ramp(first):
        at = np.uint8(2 * (first + 4 * np.arange(16)))  # pixels, in halves
        return targets(np.tile(at[:, None], (16, 1, 1)), border=(first + 0.5) / 4, scale=0.5)

    shifted, plain = ramp(0), ramp(1.5)
    view = Placement((128, 96), 8, 16, (64, 64), True)
    inner = slice(2, -2)
    one, two = (
        cells(soft, view, crop=(64, 64), classes=1)[0][:, inner] for soft in (shifted, plain)
    )
    np.testing.assert_allclose(one, two, atol=1e-4)


def test_soft_targets_lie_where_the_mask_lies_however_it_was_cropped():
    """A teacher that knows each pixel's class: its best class at a cell is the mask's there."""
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 3, (4, 5)).astype(np.uint8)
    mask = blocks.repeat(24, 0).repeat(24, 1)
    soft = targets(10 * np.eye(3, dtype=np.uint8)[blocks.repeat(12, 0).repeat(12, 1)])
    photo = Image.fromarray(rng.integers(0, 256, (*mask.shape, 3), np.uint8))
    options = Augmentation((80, 64), scale=(0.6, 2.0))
    seen = padded = mirrored = 0
    for seed in range(40):
        _, labels, view = augment(photo, mask, options=options, rng=np.random.default_rng(seed))
        logits, taught = cells(soft, view, crop=options.crop, classes=3)
        assert not logits[~taught].any()
        around = np.stack([labels[y::4, x::4] for y in (0, 1, 2, 3) for x in (0, 1, 2, 3)])
        clear = taught & (around == around[0]).all(0) & (around[0] != 255)
        assert (logits.argmax(-1)[clear] == around[0][clear]).mean() > 0.97  # resized differently
        assert (labels[2::4, 2::4] == 255)[~taught].all()
        seen, padded, mirrored = (
            seen + clear.sum(),
            padded + (~taught).sum(),
            mirrored + view.mirrored,
        )
    assert seen > 5_000
    assert padded > 100
    assert 10 < mirrored < 30


def test_a_picture_without_a_file_has_no_taught_cell():
    logits, taught = cells(None, whole(24, 32), crop=(26, 32), classes=3)
    assert logits.shape == (7, 8, 3)
    assert not taught.any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scale": None}, "it lacks scale"),
        ({"classes": [*NAMES, "sea"]}, "logits (4, 4, 3) are not of 4 classes"),
        ({"classes": ["sky", "sky", "road"]}, "each must be named once"),
        ({"logits": np.zeros((4, 4, 3), np.float32)}, "its logits are float32"),
        ({"logits": np.zeros((4, 4), np.uint8)}, "its logits are uint8 of shape (4, 4)"),
        ({"scale": 0.0}, "scale is 0"),
        ({"offset": (0.0, -4.0)}, "offset (0, -4)"),
        ({"offset": (0.0,)}, "not enough values"),
        ({"classes": ["sky", "road", "sea"]}, "has no class tree; all files"),
        ({"classes": np.array(["sky", None], object)}, "holds objects"),
    ],
)
def test_a_file_that_can_not_be_used_is_named(tmp_path, changes, message):
    logits = changes.pop("logits", noise(4, 4))
    file = write_soft(tmp_path / "a.npz", logits, **changes)
    with pytest.raises(ImageError, match=rf"a\.npz .*{re.escape(message)}.*soft targets are"):
        SoftClasses(NAMES).read(file)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no zip", b"nothing"])
def test_what_is_no_npz_file_is_named(tmp_path, content):
    file = tmp_path / "a.npz"
    file.write_bytes(content)
    with pytest.raises(ImageError, match=r"a\.npz can't be used"):
        soft_classes(file)


def test_a_damaged_file_is_named(tmp_path):
    file = write_soft(tmp_path / "a.npz", noise(40, 40))
    content = bytearray(file.read_bytes())
    content[200:900] = bytes(700)
    file.write_bytes(content)
    with pytest.raises(ImageError, match=r"a\.npz can't be used"):
        SoftClasses(NAMES).read(file)
