"""Checks a data set before the first training step, and counts its sizes and classes."""

import functools
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int
from PIL import Image

from segformer_jax.data.dataset import IGNORED, Dataset, same_ratio
from segformer_jax.data.masks import Colour
from segformer_jax.errors import ImageError
from segformer_jax.images.read import UPRIGHT, is_sideways, upright_header

LISTED = 20
Palettes = dict[Colour, tuple[int, Any]]  # each colour's value in the first mask that has it


@dataclass(frozen=True, eq=False)
class Examined:
    """The problems of one pair of picture and mask, its size, and its pixels by class.

    Attributes:
        problems: one line each.
        size: (height, width) of the picture; None if it can't be read.
        counts: (256,) number of pixels of each class index, the last of ignored pixels. All pixels
            count as ignored if a teacher replaces the mask; zeros if the mask can't be read.
        unreadable: whether the file of the picture or of the mask can't be read.
        turned: whether EXIF turns the picture but not the mask, and the sizes do not tell whether
            the mask was drawn on the turned picture.
        palette: the colours and values of a palette mask, without colours that two values have.
    """

    problems: tuple[str, ...]
    size: tuple[int, int] | None
    counts: Int[np.ndarray, "256"]
    unreadable: bool = False
    turned: bool = False
    palette: tuple[tuple[Colour, int], ...] = ()


@dataclass(frozen=True)
class Survey:
    """The sizes and classes of a data set.

    Attributes:
        sizes: (height, width) of each picture, in the data set's order.
        class_pixels: number of pixels of each class; for a single class, of the background and the
            class.
        ignored_pixels: number of ignored pixels.
        parts: number of pictures of each data set if there are several; empty for one.
        image_mean: mean of each band in 0…1 if the pictures are not RGB; else empty.
        image_std: standard deviation of each band, likewise.
    """

    sizes: tuple[tuple[int, int], ...]
    class_pixels: tuple[int, ...]
    ignored_pixels: int
    parts: tuple[int, ...] = ()
    image_mean: tuple[float, ...] = ()
    image_std: tuple[float, ...] = ()


@dataclass(frozen=True)
class Findings:
    """The results of a check.

    Attributes:
        problems: a line each.
        survey: of the pairs that can be read.
        turned: the pictures of which `Examined.turned` is true.
    """

    problems: tuple[str, ...]
    survey: Survey
    turned: tuple[Any, ...]


def check(
    dataset: Dataset,
    *,
    whole: bool = False,
    threads: int | None = None,
    progress: Callable[[Iterable[Examined]], Iterable[Examined]] = iter,
    palettes: Palettes | None = None,
) -> Survey:
    """Reads every mask and every picture's header, and warns where EXIF turns pictures alone.

    Args:
        dataset: the data to check.
        whole: decode the pictures too, which finds those that are cut off.
        threads: number of reading threads; by default one per processor.
        progress: wraps the loop over the pairs, like tqdm.
        palettes: of the splits of this data set that were checked before; those of this one are
            added. A colour must have one value in all of them.

    Raises:
        ValueError: with every problem of every pair, a line each (the first 20).
    """
    found = findings(dataset, whole=whole, threads=threads, progress=progress, palettes=palettes)
    if found.problems:
        raise ValueError(listed(found.problems, of="the data set"))
    if found.turned:
        warnings.warn(turned_note(found.turned), stacklevel=2)
    return found.survey


def findings(
    dataset: Dataset,
    *,
    whole: bool = False,
    threads: int | None = None,
    progress: Callable[[Iterable[Examined]], Iterable[Examined]] = iter,
    palettes: Palettes | None = None,
) -> Findings:
    """Returns all that `check` finds, also if there are problems; the arguments are the same."""
    problems, sizes, turned, counts = [], [], [], np.zeros(IGNORED + 1, np.int64)
    palettes = {} if palettes is None else palettes
    pairs = progress(examine(dataset, whole=whole, threads=threads))
    for pair, picture, mask in zip(pairs, dataset.pictures, dataset.masks, strict=True):
        problems += [*pair.problems, *_other_palette(pair.palette, mask, palettes)]
        counts += pair.counts
        if pair.size is not None:
            sizes.append(pair.size)
        if pair.turned:
            turned.append(picture)
    problems += [f"{stray} has no picture" for stray in dataset.strays]
    if not problems and not dataset.taught and not counts[:IGNORED].any():
        problems.append(f"every pixel of the {len(dataset)} masks is {IGNORED}, which is ignored")
    survey = Survey(
        sizes=tuple(sizes),
        class_pixels=tuple(counts[: dataset.coding.num_values].tolist()),
        ignored_pixels=int(counts[IGNORED]),
    )
    return Findings(tuple(problems), survey, tuple(turned))


def turned_note(turned: Sequence[Any]) -> str:
    """Returns the warning about pictures that EXIF turns without their masks."""
    return (
        f"{len(turned)} picture{'s are' if len(turned) > 1 else ' is'} turned upright by EXIF "
        f"orientation, and the masks, which have none, are not (the first is {turned[0]}): look "
        "with --preview whether they fit; if the masks were drawn on the unturned pixels, remove "
        "the orientation (exiftool -Orientation= FILE)"
    )


def readable(dataset: Dataset, *, whole: bool, threads: int | None = None) -> Dataset:
    """Leaves out pairs whose files can't be read, with a warning that has a line for each.

    Args:
        dataset: the data.
        whole: decode the pictures too, not their headers alone.
        threads: as `check`.

    Raises:
        ValueError: no pair can be read.
    """
    pairs = list(examine(dataset, whole=whole, threads=threads))
    bad = [problem for pair in pairs if pair.unreadable for problem in pair.problems]
    if not bad:
        return dataset
    kept = [index for index, pair in enumerate(pairs) if not pair.unreadable]
    if not kept:
        raise ValueError(listed(bad, of="no pair can be read: the data set"))
    warnings.warn(
        "\n".join([f"left out, {len(pairs) - len(kept)} of {len(pairs)} pairs:", *_lines(bad)]),
        stacklevel=2,
    )
    return replace(dataset.only(kept), strays=dataset.strays)


def examine(
    dataset: Dataset, *, whole: bool = False, threads: int | None = None
) -> Iterator[Examined]:
    """Yields the result of every pair in order; `whole` and `threads` are as in `check`."""
    pool = ThreadPoolExecutor(threads or os.cpu_count())
    try:
        examined = functools.partial(_examine, dataset, whole)
        yield from pool.map(examined, range(len(dataset)))
    finally:  # so that Ctrl-C does not wait for the rest
        pool.shutdown(cancel_futures=True)


def _examine(dataset: Dataset, whole: bool, index: int) -> Examined:
    problems = []
    size, orientation, counts = None, UPRIGHT, np.zeros(IGNORED + 1, np.int64)
    unreadable = False
    try:
        size, orientation = _header(dataset.pictures[index])
        if whole:
            dataset.image(index)
    except ImageError as error:
        problems.append(str(error))
        unreadable = True
    if not dataset.has_mask(index):
        counts[IGNORED] = 0 if size is None else size[0] * size[1]
        return Examined(tuple(problems), size, counts, unreadable)
    turned, palette = False, ()
    try:
        image = dataset.open_mask(index)
    except ImageError as error:
        problems.append(str(error))
        unreadable = unreadable or dataset.masks[index] is not None
        return Examined(tuple(problems), size, counts, unreadable)
    try:
        mask = dataset.mask(index)
    except ImageError as error:
        problems.append(str(error))
    else:
        counts = np.bincount(mask.ravel(), minlength=IGNORED + 1)
        palette = () if dataset.coding.colours else _palette(image)
        alone = orientation != UPRIGHT and _header(dataset.masks[index])[1] == UPRIGHT
        turned = alone and (not is_sideways(orientation) or mask.shape[0] == mask.shape[1])
        resized = dataset.resize_masks and size is not None and same_ratio(size, mask.shape)
        if size is not None and size != mask.shape and not resized:
            problem = dataset.sizes_differ(index, image=size, mask=mask.shape)
            if alone and size[::-1] == mask.shape:
                problem += (
                    f"; it fits the picture before EXIF orientation {orientation} turns it: remove "
                    "the orientation (exiftool -Orientation= FILE), or turn the mask"
                )
            problems.append(problem)
    return Examined(tuple(problems), size, counts, unreadable, turned, palette)


def _header(place: Any) -> tuple[tuple[int, int], int]:
    """Returns (height, width) of the upright picture and its EXIF orientation, from its header."""
    return upright_header(place if isinstance(place, Path) else place.open())


def _palette(image: Image.Image) -> tuple[tuple[Colour, int], ...]:
    """Returns the colours of the values in a palette mask, without colours that two values have."""
    if image.mode != "P":
        return ()
    table = np.array(image.getpalette("RGB")).reshape(-1, 3).tolist()
    there = [value for value in np.unique(np.asarray(image)).tolist() if value < len(table)]
    colours = [(*table[value],) for value in there]
    return tuple(
        (colour, value)
        for colour, value in zip(colours, there, strict=True)
        if colours.count(colour) == 1
    )


def _other_palette(
    palette: tuple[tuple[Colour, int], ...], place: Any, first: Palettes
) -> list[str]:
    """Returns a problem if the palette has a colour at another value than an earlier mask's.

    Args:
        palette: its colours and their values.
        place: where the mask is.
        first: the value of each colour in the first mask that has it, and that mask; added to.
    """
    for colour, value in palette:
        before, other = first.setdefault(colour, (value, place))
        if before != value:
            return [
                f"{place} has the colour {colour} at {value} of its palette, {other} at {before}: "
                "the palettes are in another order; say which class a colour is in palette.json "
                "beside id2label.json"
            ]
    return []


def listed(problems: Sequence[str], *, of: str) -> str:
    """Returns a message with a line for each of the first problems and the number of the others."""
    count = f"{len(problems)} problems" if len(problems) > 1 else "a problem"
    have = "have" if of.endswith("s") else "has"
    return "\n".join([f"{of} {have} {count}", *_lines(problems)])


def _lines(problems: Sequence[str]) -> list[str]:
    more = [f"  … and {len(problems) - LISTED} more"] if len(problems) > LISTED else []
    return [f"  {problem}" for problem in problems[:LISTED]] + more
