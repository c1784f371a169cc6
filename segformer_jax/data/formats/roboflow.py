"""Roboflow's "Semantic Segmentation Masks": NAME.jpg, NAME_mask.png and _classes.csv together."""

from pathlib import Path

from segformer_jax.data.classes import coding_of, own_classes
from segformer_jax.data.dataset import Dataset
from segformer_jax.data.formats.asked import Asked, Format
from segformer_jax.data.formats.pairs import by_name, folders, paired, without, without_suffix
from segformer_jax.data.splits import split_name

MASK, CLASSES = "_mask", "_classes.csv"


def fits(root: Path) -> bool:
    return (root / CLASSES).is_file() or bool(_splits(root))


def read(root: Path, asked: Asked) -> Dataset:
    """Opens a split, or the folder itself.

    Raises:
        ValueError: no such split, or a damaged _classes.csv.
    """
    whole = asked.split is None and (root / CLASSES).is_file()
    place = root if whole else root / split_name(asked.split, _splits(root), place=root)
    found = by_name(place)
    masks = without_suffix(found, MASK)
    classes = own_classes(place)
    assert classes is not None  # _classes.csv is there
    return paired(
        without(found, masks),
        masks,
        classes=classes,
        coding=coding_of(classes, reduce_zero_label=asked.reduce_zero_label),
        place=place,
        recognised="Roboflow semantic segmentation masks",
    )


def _splits(root: Path) -> list[str]:
    return [name for name in folders(root) if (root / name / CLASSES).is_file()]


ROBOFLOW = Format(fits, read, "_classes.csv beside NAME.jpg and NAME_mask.png, in a folder a split")
