"""A benchmark's own list of classes: used where the masks' values agree with it."""

from collections.abc import Collection, Iterable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from segformer_jax.data.classes import Classes
from segformer_jax.errors import ImageError
from segformer_jax.images.labels import CLASS_SETS
from segformer_jax.images.read import read_class_indices

LOOKED_AT = 8  # masks, from all over the data set


def benchmark_classes(name: str, title: str) -> Classes:
    """Returns the classes of one of `CLASS_SETS`."""
    return Classes(dict(enumerate(CLASS_SETS[name].names)), f"{title}'s own list")


def check_agreement(masks: Collection[Path], values: Iterable[int], *, title: str) -> None:
    """Compares the values of some masks with those that a benchmark has.

    Raises:
        ValueError: a mask holds another value.
        ImageError: a mask that can't be read as class indices.
    """
    known = np.array(sorted(values))
    for path in _some(masks):
        others = np.setdiff1d(read_class_indices(path), known)
        if others.size:
            raise ValueError(
                f"{path} holds {others[0]}, which {title} does not have: if these are classes of "
                "your own, name them in an id2label.json in the data folder"
            )


def highest_value(masks: Collection[Path]) -> int:
    """Returns the largest value in some masks; 0 if one does not hold class indices."""
    try:
        return max((int(read_class_indices(path).max()) for path in _some(masks)), default=0)
    except ImageError:
        return 0


def _some(masks: Collection[Path]) -> Iterator[Path]:
    step = max(1, len(masks) // LOOKED_AT)
    return (path for path in islice(masks, 0, None, step) if path.is_file())
