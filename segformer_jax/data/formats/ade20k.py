"""ADEChallengeData2016: value 0 is ignored, 1…150 are the classes."""

from pathlib import Path

from segformer_jax.data.classes import own_classes
from segformer_jax.data.dataset import Dataset
from segformer_jax.data.formats.asked import Asked, Format
from segformer_jax.data.formats.benchmark import benchmark_classes, check_agreement, highest_value
from segformer_jax.data.formats.pairs import by_name, inner, paired, split_folder
from segformer_jax.data.masks import WITHOUT_ZERO, Coding
from segformer_jax.data.splits import is_split

ARCHIVE = "ADEChallengeData2016"
MANY = 100  # classes, which few data sets have but this one


def fits(root: Path) -> bool:
    root = inner(root, ARCHIVE)
    return (root / "annotations").is_dir() and any(
        entry.is_dir() and is_split(entry.name) for entry in (root / "images").glob("*")
    )


def is_certain(root: Path) -> bool:
    """There is no list of other classes, and the files' names or the masks' values are ADE20K's."""
    root = inner(root, ARCHIVE)
    if own_classes(root) is not None:
        return False
    named = next((root / "images").rglob("ADE_*.*"), None) is not None
    return named or MANY <= highest_value(by_name(root / "annotations").values()) <= 150


def read(root: Path, asked: Asked) -> Dataset:
    """Opens a split.

    Raises:
        ValueError: no such split, or masks of other values.
    """
    root = inner(root, ARCHIVE)
    part = split_folder(root / "images", asked.split).name
    classes = own_classes(root) or benchmark_classes("ade20k", "ADE20K")
    masks = by_name(root / "annotations" / part)
    check_agreement(masks.values(), range(len(classes.id2label) + 1), title="ADE20K")
    return paired(
        by_name(root / "images" / part),
        masks,
        classes=classes,
        coding=Coding(len(classes.id2label), WITHOUT_ZERO),
        place=root / "images" / part,
        recognised="ADE20K, value 0 is ignored",
    )


ADE20K = Format(
    fits,
    read,
    "images/{training,validation}/ADE_* and annotations/{training,validation}, no class file",
    is_certain,
)
