"""Reads a data set with all its pictures and masks; the files of COCO and labelme share it."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from segformer_jax.data.formats import open_dataset
from segformer_jax.data.splits import NoSplitError
from segformer_jax.errors import ImageError

SIZE = (12, 16)  # height, width
DOCUMENTED = (ValueError, NoSplitError, ImageError)


def picture() -> bytes:
    """The content of a PNG."""
    file = io.BytesIO()
    Image.fromarray(np.full((*SIZE, 3), 99, np.uint8)).save(file, "PNG")
    return file.getvalue()


def read_all(root: Path, *, format: str, split: str | None) -> None:
    """Opens a data set, and reads its pairs."""
    dataset = open_dataset(root, format=format, split=split)
    for place in (*dataset.pictures, *dataset.masks):
        if isinstance(place, Path) and not place.resolve().is_relative_to(root.resolve()):
            raise PermissionError(f"{place} is outside {root}")
    for index in range(len(dataset)):
        dataset.pair(index)
