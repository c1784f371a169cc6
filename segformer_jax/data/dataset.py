"""Data sets of pictures with masks; `formats.open_dataset` opens them."""

import contextlib
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from segformer_jax.data.masks import IGNORED, Coding, read_mask
from segformer_jax.errors import ImageError
from segformer_jax.images.picture import Picture, size_of
from segformer_jax.images.read import is_jpeg, open_image, opened_draft, read_image

__all__ = ["IGNORED", "Dataset", "joined"]

Size = tuple[int, int]  # height and width


@dataclass(frozen=True, eq=False)
class Dataset:
    """Pictures with their masks, in a fixed order.

    Attributes:
        names: a unique name for each pair, for messages and output files.
        id2label: class names by index, 0, 1, 2, …
        pictures: where each picture is: a path, or an object with `open()`.
        masks: where each mask is, likewise; None for a picture without a mask.
        coding: what the pixels of a mask mean.
        strays: masks that have no picture.
        soft: the file of each picture's soft targets, None if it has none; empty if the data set
            has none at all.
        recognised: the detected format and the source of the classes, for messages.
        resize_masks: whether a mask of another size is resized to its picture's size if the ratios
            of the sides agree.
        taught: whether a teacher replaces missing masks; all pixels of such a mask are ignored.
        read: reads a picture; by default as RGB, by `read_image`.
    """

    names: tuple[str, ...]
    id2label: Mapping[int, str]
    pictures: tuple[Any, ...]
    masks: tuple[Any, ...]
    coding: Coding
    strays: tuple[Any, ...] = ()
    soft: tuple[Path | None, ...] = ()
    recognised: str = ""
    resize_masks: bool = False
    taught: bool = False
    read: Callable[[Any], Picture] = read_image

    def __len__(self) -> int:
        return len(self.names)

    def image(self, index: int) -> Picture:
        """Reads a picture, as RGB and upright.

        Raises:
            ImageError: it can't be read; the message names it.
        """
        place = self.pictures[index]
        with _named(str(place)):
            return self.read(_source(place))

    def mask(self, index: int) -> UInt8[np.ndarray, "h w"]:
        """Reads a mask: the class index of each pixel, or 255 for ignored pixels.

        If `id2label` has a single class, 1 is the class and 0 is everything else.

        Raises:
            ImageError: the mask is missing, can't be read, or holds values that are not classes;
                the message names it.
        """
        image = self.open_mask(index)
        with _named(str(self.masks[index])):
            return read_mask(image, coding=self.coding)

    def open_mask(self, index: int) -> Image.Image:
        """Reads a mask as a decoded picture, in the mode of its file.

        Raises:
            ImageError: there is none, or it can't be read; the message names it.
        """
        place = self.masks[index]
        if place is None:
            raise ImageError(f"{self.pictures[index]} has no mask")
        with _named(str(place)):
            source = _source(place)
            return source if isinstance(source, Image.Image) else open_image(source)

    def has_mask(self, index: int) -> bool:
        """Whether the picture has a mask or needs one; False if a teacher replaces its mask."""
        return not self.taught or self.masks[index] is not None

    def pair(
        self, index: int, *, needed: Callable[[Size], Size] | None = None
    ) -> tuple[Picture, UInt8[np.ndarray, "h w"]]:
        """Reads a picture and its mask, which is 255 everywhere if a teacher replaces it.

        Args:
            index: of the pair.
            needed: gives the height and width that suffice for a picture's own. If it is given, a
                JPEG is decoded at the smallest of 1, 1/2, 1/4 and 1/8 of its size that suffices;
                its mask keeps the whole size.

        Raises:
            ImageError: as `image` and `mask`, or their sizes differ.
        """
        if needed is None:
            image = self.image(index)
            size = size_of(image)
        else:
            image, size = self._draft(index, needed)
        if not self.has_mask(index):
            return image, np.full(size, IGNORED, np.uint8)
        mask = self.mask(index)
        if size != mask.shape:
            if not (self.resize_masks and same_ratio(size, mask.shape)):
                raise ImageError(self.sizes_differ(index, image=size, mask=mask.shape))
            resized = Image.fromarray(mask).resize(size[::-1], Image.Resampling.NEAREST)
            mask = np.asarray(resized)
        return image, mask

    def _draft(self, index: int, needed: Callable[[Size], Size]) -> tuple[Picture, Size]:
        """Reads a picture for `pair`; also returns the size that it has as a whole."""
        place = self.pictures[index]
        with _named(str(place)):
            if not isinstance(place, Path) or not is_jpeg(place):
                image = self.image(index)
                return image, size_of(image)
            with opened_draft(place, needed) as (draft, size):
                return self.read(draft), size

    def only(self, indices: Iterable[int]) -> "Dataset":
        """Returns a data set of the pairs of these indices, without strays."""
        chosen = tuple(indices)
        return replace(
            self,
            names=tuple(self.names[index] for index in chosen),
            pictures=tuple(self.pictures[index] for index in chosen),
            masks=tuple(self.masks[index] for index in chosen),
            strays=(),
            soft=tuple(self.soft[index] for index in chosen) if self.soft else (),
        )

    def sizes_differ(self, index: int, *, image: tuple[int, ...], mask: tuple[int, ...]) -> str:
        """Returns the error message for a mask of another size; both sizes are (height, width)."""
        advice = "" if self.resize_masks or not same_ratio(image, mask) else ": --resize-masks"
        return (
            f"{self.masks[index]} is {mask[1]}×{mask[0]}, its picture {image[1]}×{image[0]} "
            f"(width × height){advice}"
        )


def same_ratio(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Whether two sizes, (height, width), have the same ratio up to the rounding of a side."""
    return abs(one[0] * other[1] - one[1] * other[0]) <= max(min(one), min(other))


def joined(datasets: Iterable[Dataset]) -> Dataset:
    """Joins data sets of the same classes, one after the other.

    Raises:
        ValueError: their classes differ, or their masks are coded differently.
    """
    first, *others = datasets
    for other in others:
        if (other.id2label, other.coding) != (first.id2label, first.coding):
            raise ValueError(
                "data sets must have the same classes and mask values to be joined, "
                f"got {list(first.id2label.values())} and "
                f"{list(other.id2label.values())}"
            )
        names = first.names + other.names
        if len(set(names)) < len(names):
            names = tuple(f"{place:06d}_{name}" for place, name in enumerate(names))
        first = replace(
            first,
            names=names,
            pictures=first.pictures + other.pictures,
            masks=first.masks + other.masks,
            strays=first.strays + other.strays,
            soft=_soft(first) + _soft(other) if first.soft or other.soft else (),
            taught=first.taught or other.taught,
        )
    return first


def _soft(dataset: Dataset) -> tuple[Path | None, ...]:
    return dataset.soft or (None,) * len(dataset)


def _source(place: Any) -> Any:
    return place if isinstance(place, Path) else place.open()


@contextlib.contextmanager
def _named(name: str) -> Generator[None]:
    """Adds a picture's name to an ImageError that does not contain it."""
    try:
        yield
    except ImageError as error:
        if name in str(error):
            raise
        raise ImageError(f"{name}: {error}") from error
