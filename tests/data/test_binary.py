"""Masks of 0 and 255: two classes, or one and ignored pixels."""

import numpy as np
import pytest
from data.folders import labels, save, write_folder, write_json
from PIL import Image

from segformer_jax import ImageError
from segformer_jax.data.formats import open_dataset


def black_and_white(root, names=("background", "crack"), convert=lambda mask: mask):
    write_folder(root, count=3, classes=2)
    write_json(dict(enumerate(names)), root / "id2label.json")
    for number, name in enumerate("abc"):
        mask = labels(number, classes=2) * np.uint8(255)
        save(convert(mask), root / "train" / "masks" / f"{name}.png")
    return root


@pytest.mark.parametrize("names", [("background", "crack"), ("crack",)])
@pytest.mark.parametrize("convert", [lambda m: m, lambda m: np.dstack([m] * 3)], ids=["L", "RGB"])
def test_white_is_class_1_and_that_is_said(tmp_path, names, convert):
    dataset = open_dataset(black_and_white(tmp_path, names, convert), split="train")
    for number in range(3):
        assert np.array_equal(dataset.mask(number), labels(number, classes=2))
    assert dataset.recognised.endswith("masks of 0 and 255: 255 is class 1")


def test_255_stays_ignored_where_a_mask_has_1_too(tmp_path):
    root = black_and_white(tmp_path)
    save(labels(2, classes=2), root / "train" / "masks" / "c.png")
    dataset = open_dataset(root, split="train")
    assert set(np.unique(dataset.mask(0))) == {0, 255}
    assert "255" not in dataset.recognised


def test_smoothed_edges_are_named_with_what_to_do(tmp_path):
    black_and_white(tmp_path)
    shape = Image.new("L", (320, 240))
    shape.paste(255, (40, 40, 200, 200))
    smooth = shape.resize((32, 24), Image.Resampling.BICUBIC)
    smooth.save(tmp_path / "train" / "masks" / "b.png")
    with pytest.raises(ImageError, match=r"b\.png: the mask holds .*antialiased edges.*as PNG"):
        open_dataset(tmp_path, split="train").mask(1)
