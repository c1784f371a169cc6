import numpy as np
import pytest
from data.folders import write_folder, write_json
from PIL import Image

from segformer_jax.data.augment import Augmentation
from segformer_jax.data.batches import batches
from segformer_jax.data.formats import open_dataset
from segformer_jax.data.preview import GAP, contact_sheet
from segformer_jax.images.draw import overlay
from segformer_jax.images.labels import palette_for

OPTIONS = Augmentation((40, 30))


def test_the_sheet_shows_the_first_samples_beside_their_masks(tmp_path):
    dataset = open_dataset(write_folder(tmp_path), split="train")
    sheet = np.asarray(contact_sheet(dataset, OPTIONS, seed=3, count=4))
    stream = batches(dataset, batch_size=4, augment=OPTIONS, seed=3)
    batch = next(stream)
    stream.close()
    for place in range(4):  # in two columns, as 4 × 40 / (2 × 30) is nearest to 2²
        row, column = divmod(place, 2)
        top, left = GAP + row * (40 + GAP), GAP + column * (60 + GAP)
        crop, mask = batch["image"][place], batch["mask"][place]
        assert np.array_equal(sheet[top : top + 40, left : left + 30], crop)
        over = overlay(Image.fromarray(crop), mask, palette_for(dataset.id2label))
        assert np.array_equal(sheet[top : top + 40, left + 30 : left + 60], over)
    legend = sheet[:, 2 * (60 + GAP) + GAP :].reshape(-1, 3)
    for colour in palette_for(dataset.id2label):
        assert (legend == colour).all(1).any()


def test_one_class_alone_has_a_colour_for_all_else(tmp_path):
    write_folder(tmp_path, classes=2)
    write_json({"0": "road"}, tmp_path / "id2label.json")
    sheet = contact_sheet(open_dataset(tmp_path, split="train"), OPTIONS, seed=0, count=1)
    colours = palette_for({0: "all else", 1: "road"})
    pixels = np.asarray(sheet).reshape(-1, 3)
    assert all((pixels == colour).all(1).any() for colour in colours)


def test_a_sheet_of_large_crops_is_made_smaller(tmp_path):
    dataset = open_dataset(write_folder(tmp_path, count=1), split="train")
    sheet = contact_sheet(dataset, Augmentation((1500, 2000)), seed=0, count=2)
    assert sheet.width < 3000


def test_a_sheet_of_nothing_is_refused(tmp_path):
    dataset = open_dataset(write_folder(tmp_path, count=1), split="train")
    with pytest.raises(ValueError, match="at least 1 sample, got 0"):
        contact_sheet(dataset, OPTIONS, seed=0, count=0)
