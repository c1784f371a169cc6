"""Draws pictures with their masks, augmented or as they are, to look at before training."""

import contextlib
import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from segformer_jax.data.augment import Augmentation
from segformer_jax.data.batches import batches
from segformer_jax.data.dataset import IGNORED, Dataset
from segformer_jax.data.order import Share
from segformer_jax.errors import ImageError
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
    augment = dataclasses.replace(augment, device_colours=False)
    with contextlib.closing(
        batches(dataset, batch_size=count, augment=augment, seed=seed, shares=shares)
    ) as stream:
        batch = next(stream)
    return _sheet(list(zip(batch["image"], batch["mask"], strict=True)), dataset, augment.crop)


def overview(datasets: Sequence[Dataset], *, count: int, side: int = 384) -> Image.Image | None:
    """Draws random pictures of data sets without augmentation, each beside itself under its mask.

    Pictures that can't be read, or have no mask that fits, are passed over; None if all are.

    Args:
        datasets: the pictures, of the same classes.
        count: of pictures, at most, from one data set after the other in turn.
        side: of the square that each is fitted into, in pixels; the rest of it is grey.
    """
    streams = [_readable_pairs(dataset, side) for dataset in datasets]
    in_turn = (pair for row in itertools.zip_longest(*streams) for pair in row if pair is not None)
    pairs = list(itertools.islice(in_turn, count))
    return _sheet(pairs, datasets[0], (side, side)) if pairs else None


Pair = tuple[UInt8[np.ndarray, "h w 3"], UInt8[np.ndarray, "h w"]]


def _readable_pairs(dataset: Dataset, side: int) -> Iterator[Pair]:
    for index in np.random.default_rng(0).permutation(len(dataset)).tolist():
        try:
            picture, mask = dataset.pair(index)
        except ImageError:  # `examine` tells of it
            continue
        image = as_rgb(picture)
        shrink = side / max(image.size)
        size = [max(1, round(length * shrink)) for length in image.size]
        pixels = np.full((side, side, 3), 128, np.uint8)
        labels = np.full((side, side), IGNORED, np.uint8)
        pixels[: size[1], : size[0]] = np.asarray(image.resize(size))
        small = Image.fromarray(mask).resize(size, Image.Resampling.NEAREST)
        labels[: size[1], : size[0]] = np.asarray(small)
        yield pixels, labels


def _sheet(pairs: Sequence[Pair], dataset: Dataset, size: tuple[int, int]) -> Image.Image:
    """Draws pictures of one size, (height, width), beside themselves under their masks."""
    labels = dict(dataset.id2label)
    if len(labels) == 1:  # masks hold 1 for the class, 0 for all else
        labels = {0: "all else", 1: labels[0]}
    palette = palette_for(labels)
    height, width = size
    count = len(pairs)
    columns = max(1, round(math.sqrt(count * height / (2 * width))))
    shrink = min(1.0, SHEET_WIDTH / (columns * 2 * width))
    w, h = max(1, round(width * shrink)), max(1, round(height * shrink))
    rows = math.ceil(count / columns)
    present = [index for index in labels if any((mask == index).any() for _, mask in pairs)]
    key = legend(
        [(labels[index], palette[index]) for index in present],
        height=rows * (h + GAP) + GAP,
        text_size=max(16, columns * 2 * w // 64),
    )
    sheet = Image.new("RGB", (columns * (2 * w + GAP) + GAP + key.width, key.height), "white")
    for place, (pixels, mask) in enumerate(pairs):
        row, column = divmod(place, columns)
        left, top = GAP + column * (2 * w + GAP), GAP + row * (h + GAP)
        crop = as_rgb(pixels)
        sheet.paste(crop.resize((w, h)), (left, top))
        sheet.paste(overlay(crop, mask, palette).resize((w, h)), (left + w, top))
    sheet.paste(key, (sheet.width - key.width, 0))
    return sheet
