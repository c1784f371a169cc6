"""CVAT's "Segmentation mask 1.1" and "PASCAL VOC 1.1": VOC's folders with a labelmap.txt."""

from pathlib import Path

from segformer_jax.data.classes import coding_of, own_classes
from segformer_jax.data.dataset import Dataset
from segformer_jax.data.formats.asked import Asked, Format
from segformer_jax.data.formats.voc_folders import masks_folder, read_folders


def fits(root: Path) -> bool:
    return (root / "labelmap.txt").is_file() and masks_folder(root) is not None


def read(root: Path, asked: Asked) -> Dataset:
    """Opens a split; id2label.json and palette.json are used instead of labelmap.txt, if given.

    Raises:
        ValueError: no such split, an export without pictures, or a damaged labelmap.txt.
    """
    classes = own_classes(root)
    assert classes is not None  # labelmap.txt is there
    coding = coding_of(classes, reduce_zero_label=asked.reduce_zero_label)
    return read_folders(
        root, asked, classes=classes, coding=coding, recognised="CVAT segmentation mask"
    )


CVAT = Format(fits, read, "labelmap.txt and SegmentationClass, with JPEGImages")
