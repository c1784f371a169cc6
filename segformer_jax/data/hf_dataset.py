"""Reads a Hugging Face data set saved to disk: a column of pictures and one of masks."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from segformer_jax.data.classes import read_coding, read_id2label
from segformer_jax.data.dataset import Dataset
from segformer_jax.data.splits import NoSplitError, split_name
from segformer_jax.errors import ImageError

IMAGE_COLUMNS = ("image", "img", "picture", "pixel_values")
MASK_COLUMNS = (
    "label", "labels", "annotation", "annotations", "mask", "segmentation", "segmentation_mask",
    "semantic_segmentation", "seg", "ground_truth",
)  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """A picture in a row of a table with one column, not yet read."""

    table: Any
    row: int
    name: str

    def open(self) -> Image.Image | Path:
        """Returns the picture, not yet decoded, or its path.

        Raises:
            ImageError: the cell is empty or does not hold a picture.
        """
        (cell,) = self.table[self.row].values()
        if not cell or not (cell["bytes"] or cell["path"]):
            raise ImageError(f"{self.name} is empty")
        if not cell["bytes"]:
            return Path(cell["path"])
        try:
            return Image.open(io.BytesIO(cell["bytes"]))
        except Exception as error:  # a damaged header can raise almost any exception
            raise ImageError(f"{self.name} is not a picture of a kind that Pillow reads") from error

    def __str__(self) -> str:
        return self.name


def is_saved_dataset(root: Path) -> bool:
    """Whether the folder was written by `save_to_disk`."""
    return (root / "dataset_dict.json").is_file() or (root / "state.json").is_file()


def saved_dataset(root: Path, *, split: str | None, reduce_zero_label: bool) -> Dataset:
    """Opens a saved `datasets.Dataset`, or one split of a saved `datasets.DatasetDict`.

    Raises:
        ValueError: it can't be loaded, there is no such split, it has no rows or no columns of
            pictures and masks, or id2label.json is missing or wrong.
        ImportError: the package datasets is missing.
    """
    try:
        import datasets
    except ImportError as error:
        raise ImportError(
            f"reading the Hugging Face data set {root} needs the package datasets: "
            "pip install 'segformer-jax[hf]'"
        ) from error
    try:
        loaded: Any = datasets.load_from_disk(str(root))
    except Exception as error:  # a damaged table can raise almost any exception
        raise ValueError(f"{root} can't be loaded as a saved data set: {error}") from error
    if isinstance(loaded, datasets.DatasetDict):
        loaded = loaded[split_name(split, map(str, loaded), place=root)]
    elif split is not None:
        raise NoSplitError(f"{root} has one split only: leave out split={split!r}")
    pictures = [name for name, kind in loaded.features.items() if isinstance(kind, datasets.Image)]
    image = next((name for name in IMAGE_COLUMNS if name in pictures), None)
    mask = next((name for name in MASK_COLUMNS if name in pictures), None)
    if image is None or mask is None:
        raise ValueError(
            f"{root} must have two columns of pictures, such as image and label (of "
            f"{', '.join(IMAGE_COLUMNS)} and {', '.join(MASK_COLUMNS)}), got the "
            f"columns {', '.join(loaded.features)}, of which "
            f"{', '.join(pictures) or 'none'} hold pictures"
        )
    if not len(loaded):
        raise ValueError(f"{root} has no rows")
    id2label = read_id2label(root)
    coding = read_coding(root, id2label, reduce_zero_label=reduce_zero_label)

    def cells(column: str) -> tuple[Cell, ...]:
        table = loaded.select_columns([column]).cast_column(column, datasets.Image(decode=False))
        return tuple(Cell(table, row, f"{root}, row {row}, {column}") for row in range(len(table)))

    return Dataset(
        names=tuple(f"row_{row:06d}" for row in range(len(loaded))),
        id2label=id2label,
        pictures=cells(image),
        masks=cells(mask),
        coding=coding,
    )
