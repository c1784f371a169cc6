"""Pascal VOC, and its folders with classes of one's own, such as those of labelme2voc."""

import re
from pathlib import Path

from segformer_jax.data.classes import coding_of, own_classes, refuse_zero
from segformer_jax.data.dataset import Dataset
from segformer_jax.data.formats.asked import Asked, Format
from segformer_jax.data.formats.benchmark import benchmark_classes, check_agreement
from segformer_jax.data.formats.pairs import by_name
from segformer_jax.data.formats.voc_folders import masks_folder, read_folders, voc_root
from segformer_jax.data.masks import IGNORED, Coding

VOC_NAME = re.compile(r"\d{4}_\d+")  # the year and a number


def fits(root: Path) -> bool:
    root = voc_root(root)
    return (
        (root / "JPEGImages").is_dir()
        and masks_folder(root) is not None
        and not (root / "labelmap.txt").is_file()
    )


def is_certain(root: Path) -> bool:
    """There is a list of classes, or files are named as the benchmark names them."""
    root = voc_root(root)
    masks = masks_folder(root)
    return own_classes(root) is not None or (
        masks is not None and any(VOC_NAME.fullmatch(name) for name in by_name(masks))
    )


def read(root: Path, asked: Asked) -> Dataset:
    """Opens a split; without a class file, the classes are the 21 of the benchmark.

    Raises:
        ValueError: no such split, masks of other values, or `reduce_zero_label` with the benchmark,
            where value 0 has a meaning.
    """
    root = voc_root(root)
    own = own_classes(root)
    if own is not None:
        coding = coding_of(own, reduce_zero_label=asked.reduce_zero_label)
        return read_folders(
            root, asked, classes=own, coding=coding, recognised="Pascal VOC's folders"
        )
    if asked.reduce_zero_label:
        refuse_zero("Pascal VOC")
    classes = benchmark_classes("pascal_voc", "Pascal VOC")
    data = read_folders(root, asked, classes=classes, coding=Coding(21), recognised="Pascal VOC")
    masks = [mask for mask in data.masks if mask is not None]
    check_agreement(masks, (*range(21), IGNORED), title="Pascal VOC")
    return data


VOC = Format(
    fits,
    read,
    "JPEGImages and SegmentationClass, with a class file or files of the benchmark's names",
    is_certain,
)
