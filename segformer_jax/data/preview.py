"""Draws augmented samples with their masks, to look at before training."""

import contextlib
import math
from collections.abc import Sequence

import numpy as np
from PIL import Image

from segformer_jax.data.augment import Augmentation
from segformer_jax.data.batches import batches
from segformer_jax.data.dataset import Dataset
from segformer_jax.data.order import Share
from segformer_jax.images.draw import legend, overlay
from segformer_jax.images.labels import palette_for
from segformer_jax.images.picture import as_rgb

GAP = 8
SHEET_WIDTH = 2400  # pixels at most, without the legend


def contact_sheet(
    dataset: Dataset,
    augment: Augmentation,
    *,
    seed: int,
    count: int,
    shares: Sequence[Share] = (),
) -> Image.Image:
    """Draws the first samples of a training run: each crop, and beside it the crop under its mask.

    Ignored pixels show the crop in both. A legend names the classes that occur.

    Args:
        dataset: the pictures.
        augment: the augmentation.
        seed: the seed of the run.
        count: number of samples.
        shares: as in `batches`.

    Raises:
        ValueError: `count` is below 1.
        ImageError: a picture or mask can't be read.
    """
    if count < 1:
        raise ValueError(f"the contact sheet must have at least 1 sample, got {count}")
    with contextlib.closing(
        batches(dataset, batch_size=count, augment=augment, seed=seed, shares=shares)
    ) as stream:
        batch = next(stream)
    labels = dict(dataset.id2label)
    if len(labels) == 1:  # masks hold 1 for the class, 0 for all else
        labels = {0: "all else", 1: labels[0]}
    palette = palette_for(labels)
    height, width = augment.crop
    columns = max(1, round(math.sqrt(count * height / (2 * width))))
    shrink = min(1.0, SHEET_WIDTH / (columns * 2 * width))
    w, h = max(1, round(width * shrink)), max(1, round(height * shrink))
    rows = math.ceil(count / columns)
    present = [int(index) for index in np.unique(batch["mask"]) if index in labels]
    key = legend(
        [(labels[index], palette[index]) for index in present],
        height=rows * (h + GAP) + GAP,
        text_size=max(16, columns * 2 * w // 64),
    )
    sheet = Image.new("RGB", (columns * (2 * w + GAP) + GAP + key.width, key.height), "white")
    for place, (pixels, mask) in enumerate(zip(batch["image"], batch["mask"], strict=True)):
        row, column = divmod(place, columns)
        left, top = GAP + column * (2 * w + GAP), GAP + row * (h + GAP)
        crop = as_rgb(pixels)
        sheet.paste(crop.resize((w, h)), (left, top))
        sheet.paste(overlay(crop, mask, palette).resize((w, h)), (left + w, top))
    sheet.paste(key, (sheet.width - key.width, 0))
    return sheet
