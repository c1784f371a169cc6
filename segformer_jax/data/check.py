"""Checks a data set before the first training step, and counts its sizes and classes."""

import functools
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from segformer_jax.data.dataset import IGNORED, Dataset
from segformer_jax.errors import ImageError
from segformer_jax.images.read import upright_size

LISTED = 20


@dataclass(frozen=True, eq=False)
class Examined:
    """The problems of one pair of picture and mask, its size, and its pixels by class.

    Attributes:
        problems: one line each.
        size: (height, width) of the picture; None if it can't be read.
        counts: (256,) number of pixels of each class index, the last of ignored pixels. All pixels
            count as ignored if a teacher replaces the mask; zeros if the mask can't be read.
    """

    problems: tuple[str, ...]
    size: tuple[int, int] | None
    counts: Int[np.ndarray, "256"]


@dataclass(frozen=True)
class Survey:
    """The sizes and classes of a data set.

    Attributes:
        sizes: (height, width) of each picture, in the data set's order.
        class_pixels: number of pixels of each class; for a single class, of the background and the
            class.
        ignored_pixels: number of ignored pixels.
        parts: number of pictures of each data set if there are several; empty for one.
    """

    sizes: tuple[tuple[int, int], ...]
    class_pixels: tuple[int, ...]
    ignored_pixels: int
    parts: tuple[int, ...] = ()
    image_mean: tuple[float, ...] = ()
    image_std: tuple[float, ...] = ()


def check(
    dataset: Dataset,
    *,
    threads: int | None = None,
    progress: Callable[[Iterable[Examined]], Iterable[Examined]] = iter,
) -> Survey:
    """Reads every mask and every picture's header.

    Args:
        dataset: the data to check.
        threads: number of reading threads; by default one per processor.
        progress: wraps the loop over the pairs, like tqdm.

    Raises:
        ValueError: with every problem of every pair, a line each (the first 20).
    """
    problems, sizes, counts = [], [], np.zeros(IGNORED + 1, np.int64)
    for pair in progress(examine(dataset, threads=threads)):
        problems += pair.problems
        sizes.append(pair.size)
        counts += pair.counts
    problems += [f"{stray} has no picture" for stray in dataset.strays]
    if not problems and not dataset.taught:
        problems += _one_class_only(dataset, counts)
    if problems:
        raise ValueError(listed(problems, of="the data set"))
    return Survey(
        sizes=tuple(sizes),
        class_pixels=tuple(counts[: dataset.coding.num_values].tolist()),
        ignored_pixels=int(counts[IGNORED]),
    )


def examine(dataset: Dataset, *, threads: int | None = None) -> Iterator[Examined]:
    """Yields the result of every pair in order, each as soon as it is there."""
    pool = ThreadPoolExecutor(threads or os.cpu_count())
    try:
        yield from pool.map(functools.partial(_examine, dataset), range(len(dataset)))
    finally:  # so that Ctrl-C does not wait for the rest
        pool.shutdown(cancel_futures=True)


def _examine(dataset: Dataset, index: int) -> Examined:
    problems = []
    size, counts = None, np.zeros(IGNORED + 1, np.int64)
    try:
        size = _size(dataset, index)
    except ImageError as error:
        problems.append(str(error))
    if not dataset.has_mask(index):
        counts[IGNORED] = 0 if size is None else size[0] * size[1]
        return Examined(tuple(problems), size, counts)
    try:
        mask = dataset.mask(index)
    except ImageError as error:
        problems.append(str(error))
    else:
        counts = np.bincount(mask.ravel(), minlength=IGNORED + 1)
        if size is not None and size != mask.shape:
            problems.append(dataset.sizes_differ(index, image=size, mask=mask.shape))
    return Examined(tuple(problems), size, counts)


def _size(dataset: Dataset, index: int) -> tuple[int, int]:
    """Reads the height and width of the upright picture, from its header."""
    place: Any = dataset.pictures[index]
    return upright_size(place if isinstance(place, Path) else place.open())


def _one_class_only(dataset: Dataset, counts: Int[np.ndarray, "256"]) -> list[str]:
    """Finds masks of 255 alone, or of one class and 255 that were probably meant as two classes."""
    present = np.flatnonzero(counts[:IGNORED])
    if len(present) == 0:
        return [f"every pixel of the {len(dataset)} masks is {IGNORED}, which is ignored"]
    if len(present) == 1 and counts[IGNORED] and dataset.coding.num_values == 2:
        return [
            f"the masks hold {present[0]} and {IGNORED} alone, and {IGNORED} is ignored: if it is "
            "your second class, write palette.json beside id2label.json, "
            '{"0": [0, 0, 0], "1": [255, 255, 255]}'
        ]
    return []


def listed(problems: list[str], *, of: str) -> str:
    """Returns a message with a line for each of the first problems and the number of the others."""
    count = f"{len(problems)} problems" if len(problems) > 1 else "a problem"
    have = "have" if of.endswith("s") else "has"
    lines = [f"{of} {have} {count}", *(f"  {problem}" for problem in problems[:LISTED])]
    if len(problems) > LISTED:
        lines.append(f"  … and {len(problems) - LISTED} more")
    return "\n".join(lines)
