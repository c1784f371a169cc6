"""Counts the bands of a data set's pictures, and computes their mean and deviation."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from segformer_jax.data.dataset import Dataset
from segformer_jax.errors import ImageError
from segformer_jax.images.read import count_channels

SAMPLE = 64  # pictures, evenly spaced


def data_channels(datasets: Sequence[Dataset]) -> int:
    """Returns the number of channels that a network for these pictures needs, by their headers.

    Raises:
        ValueError: the pictures have different numbers of bands.
    """
    first: dict[int, Any] = {}
    for dataset in datasets:
        for place in dataset.pictures:
            first.setdefault(_channels(place), place)
    if len(first) > 1:
        told = ", ".join(f"{count} in {place}" for count, place in first.items())
        raise ValueError(
            f"the pictures must all have the same number of bands, got {told}: leave some out, or "
            "say how many to read (num_channels)"
        )
    return next(iter(first), 3)


def band_statistics(dataset: Dataset) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns the mean and the standard deviation of each band in 0…1, over up to 64 pictures.

    Raises:
        ImageError: none of the pictures can be read.
    """
    count, sums, squares = 0, np.zeros(1), np.zeros(1)
    problem: ImageError | None = None
    chosen = np.unique(np.linspace(0, len(dataset) - 1, min(SAMPLE, len(dataset))).astype(int))
    for index in chosen.tolist():
        try:
            pixels = np.asarray(dataset.image(index), np.float64) / 255
        except ImageError as error:  # training says so, or skips it
            problem = problem or error
            continue
        count += pixels.shape[0] * pixels.shape[1]
        sums = sums + pixels.sum((0, 1))
        squares = squares + np.square(pixels).sum((0, 1))
    if problem is not None and not count:
        raise problem
    mean = sums / count
    deviation = np.sqrt(np.maximum(squares / count - np.square(mean), (1 / 255) ** 2))
    return tuple(mean.round(4).tolist()), tuple(deviation.round(4).tolist())


def _channels(place: Any) -> int:
    """Pictures of a table, and those that can't be read, count as RGB; reading them says more."""
    try:
        return count_channels(place) if isinstance(place, Path) else 3
    except ImageError:
        return 3
