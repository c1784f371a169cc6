"""Reads a Hugging Face data set, of save_to_disk or parquet: columns of pictures and of masks."""

import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from segformer_jax.data.classes import coding_of, some_classes
from segformer_jax.data.dataset import Dataset
from segformer_jax.data.formats.asked import Asked, Format
from segformer_jax.data.splits import NoSplitError, is_split, split_name
from segformer_jax.errors import ImageError

SHARD = re.compile(r"-\d+-of-\d+")
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


def fits(root: Path) -> bool:
    return _is_saved(root) or bool(_parquet_files(root))


def _is_saved(root: Path) -> bool:
    return (root / "dataset_dict.json").is_file() or (root / "state.json").is_file()


def _parquet_files(root: Path) -> dict[str, list[Any]]:
    """Returns the parquet files by split, which the name of a file or of its folder gives."""
    found: dict[str, list[Any]] = {}
    for file in sorted([*root.glob("*.parquet"), *root.glob("*/*.parquet")]):
        name = SHARD.split(file.stem)[0]
        inside = file.parent.name if file.parent != root and is_split(file.parent.name) else name
        found.setdefault(name if is_split(name) else inside, []).append(str(file))
    return found


def saved_dataset(root: Path, asked: Asked) -> Dataset:
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
        if _is_saved(root):
            loaded: Any = datasets.load_from_disk(str(root))
        else:
            files = _parquet_files(root)
            loaded = datasets.DatasetDict()
            for part, own in files.items():
                loaded[part] = _of_pictures(datasets.Dataset.from_parquet(own))
    except Exception as error:  # a damaged table can raise almost any exception
        raise ValueError(f"{root} can't be loaded as a data set: {error}") from error
    if isinstance(loaded, datasets.DatasetDict) and (asked.split or len(loaded) > 1):
        loaded = loaded[split_name(asked.split, map(str, loaded), place=root)]
    elif isinstance(loaded, datasets.DatasetDict):
        loaded = next(iter(loaded.values()))
    elif asked.split is not None:
        raise NoSplitError(f"{root} has one split only: leave out split={asked.split!r}")
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
    classes = some_classes(root, teacher=asked.teacher)

    def cells(column: str) -> tuple[Cell, ...]:
        table = loaded.select_columns([column]).cast_column(column, datasets.Image(decode=False))
        return tuple(Cell(table, row, f"{root}, row {row}, {column}") for row in range(len(table)))

    return Dataset(
        names=tuple(f"row_{row:06d}" for row in range(len(loaded))),
        id2label=classes.id2label,
        pictures=cells(image),
        masks=cells(mask),
        coding=coding_of(classes, reduce_zero_label=asked.reduce_zero_label),
        recognised=f"Hugging Face data set, columns {image} and {mask}, {classes}",
    )


def _of_pictures(table: Any) -> Any:
    """Marks columns of (bytes, path) as pictures, which only the package datasets does itself."""
    import datasets

    for name, kind in table.features.items():
        if isinstance(kind, dict) and kind.keys() == {"bytes", "path"}:
            table = table.cast_column(name, datasets.Image())
    return table


HUGGINGFACE = Format(
    fits,
    saved_dataset,
    "dataset_dict.json or state.json, of save_to_disk, or parquet files named by their split",
)
