"""Masks of 0 and 255 alone are two classes, black and white, if there are two classes."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from jaxtyping import Int

from segformer_jax.data.dataset import Dataset
from segformer_jax.data.masks import AS_THEY_ARE, IGNORED, NO_CLASS, Coding, index_image
from segformer_jax.errors import ImageError
from segformer_jax.images.read import read_class_indices

ENOUGH = 32  # masks with 255 and without 1
BLACK_AND_WHITE = (0, *[NO_CLASS] * 254, 1)


def with_black_and_white(dataset: Dataset) -> Dataset:
    """Returns the data set with 255 as class 1, if it has two classes and masks of 0 and 255 alone.

    Masks are looked at until one holds 1, or enough hold 255. Another value than 0 and 255 in a
    mask that was not looked at is an error when it is read.
    """
    coding = dataset.coding
    if coding.num_values != 2 or coding.table != AS_THEY_ARE or coding.colours:
        return dataset
    white, black = 0, False
    for values in _values(dataset):
        if np.setdiff1d(values, (0, IGNORED)).size:
            return dataset
        white += IGNORED in values
        black = black or 0 in values
        if white == ENOUGH:
            break
    if not (white and black):
        return dataset
    said = f"{dataset.recognised}; masks of 0 and 255: 255 is class 1"
    return replace(dataset, coding=Coding(2, BLACK_AND_WHITE), recognised=said)


def _values(dataset: Dataset) -> Iterator[Int[np.ndarray, " _"]]:
    """Yields the values of each mask, in a random order."""
    masks = [index for index, mask in enumerate(dataset.masks) if mask is not None]
    for index in np.random.default_rng(0).permutation(masks):
        try:
            image = dataset.open_mask(int(index))
            yield np.unique(read_class_indices(index_image(image)))
        except ImageError:  # told by the check, with all others
            continue
