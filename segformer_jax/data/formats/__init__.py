"""`open_dataset`: finds the pictures, masks and classes of a data set; a file per format."""

import contextlib
import functools
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from segformer_jax.data.binary import with_black_and_white
from segformer_jax.data.dataset import Dataset, joined
from segformer_jax.data.formats.ade20k import ADE20K
from segformer_jax.data.formats.asked import Asked, Format
from segformer_jax.data.formats.cityscapes import CITYSCAPES
from segformer_jax.data.formats.coco import COCO
from segformer_jax.data.formats.cvat import CVAT
from segformer_jax.data.formats.folder import FOLDER
from segformer_jax.data.formats.huggingface import HUGGINGFACE
from segformer_jax.data.formats.labelme import LABELME
from segformer_jax.data.formats.labelstudio import LABELSTUDIO
from segformer_jax.data.formats.pascal_voc import VOC
from segformer_jax.data.formats.roboflow import ROBOFLOW
from segformer_jax.data.formats.yolo import YOLO
from segformer_jax.data.splits import NoSplitError, is_split
from segformer_jax.images.read import read_bands

FORMATS: dict[str, Format] = {
    "folder": FOLDER,
    "cvat": CVAT,
    "roboflow": ROBOFLOW,
    "coco": COCO,
    "labelme": LABELME,
    "labelstudio": LABELSTUDIO,
    "yolo": YOLO,
    "ade20k": ADE20K,
    "cityscapes": CITYSCAPES,
    "voc": VOC,
    "huggingface": HUGGINGFACE,
}


def open_dataset(
    path: str | Path,
    *,
    split: str | None = None,
    format: str = "auto",
    reduce_zero_label: bool = False,
    mask_suffix: str = "",
    resize_masks: bool = False,
    teacher: Mapping[int, str] | None = None,
) -> Dataset:
    """Opens the data set in a folder: reads the names of its files, and a few masks.

    Args:
        path: the data folder, or the folder of one split, such as FOLDER/val.
        split: "train", "val" or "test", or a customary synonym; "train+val" joins both. None if
            `path` is the folder of the split, or the data set has no splits.
        format: a name of `FORMATS`; "auto" detects it by what the folder holds.
        reduce_zero_label: ignore value 0 of the masks and lower the others by one.
        mask_suffix: what a mask's name has after its picture's, such as "_mask", in folders of
            one's own; masks may then be beside their pictures.
        resize_masks: give masks of another size than their picture's its size, by the nearest
            pixel, where the ratios of the sides agree.
        teacher: the classes of a model that replaces missing masks; they are the data set's classes
            if it has no list of its own.

    Raises:
        ValueError: there is no data set, or none of that format; the message says what was
            expected. Or it fits two formats.
        NoSplitError: the data set has no such split.
        ImageError: a mask can't be read.
        ImportError: the package to read a Hugging Face data set is missing.
    """
    if format != "auto" and format not in FORMATS:
        raise ValueError(f"format must be one of auto, {', '.join(FORMATS)}, got {format!r}")
    if mask_suffix and format == "auto":
        format = "folder"
    parts = split.split("+") if split else [None]
    found = joined(
        _read(Path(path), Asked(part, reduce_zero_label, teacher, mask_suffix), format=format)
        for part in parts
    )
    found = replace(found, taught=teacher is not None, resize_masks=resize_masks)
    return with_black_and_white(found)


def open_splits(
    path: str | Path, *, split: str | None = None, **options: Any
) -> dict[str, Dataset]:
    """Opens the splits "train" and "val"; a data set without splits is opened whole, as "all".

    Pictures are read with all of their bands.

    Args:
        path: the data folder.
        split: open this split alone.
        options: further options of `open_dataset`.

    Raises:
        ValueError: as `open_dataset`.
    """
    found = {} if split is None else {split: open_dataset(path, split=split, **options)}
    for part in ("train", "val") if split is None else ():
        with contextlib.suppress(NoSplitError):
            found[part] = open_dataset(path, split=part, **options)
    found = found or {"all": open_dataset(path, **options)}
    every_band = functools.partial(read_bands, channels=None)
    return {name: replace(data, read=every_band) for name, data in found.items()}


def _read(root: Path, asked: Asked, *, format: str) -> Dataset:
    """Reads the data set at `root`, or one split of the data set in the folder above.

    Raises:
        ValueError: as `open_dataset`.
    """
    places = [(root, asked)]
    if asked.split is None and is_split(root.resolve().name):
        places.append((root.parent, replace(asked, split=root.resolve().name)))
    for place, part in places:
        if format != "auto":
            beside = format == "folder" and part.mask_suffix
            if FORMATS[format].fits(place) or beside:
                return FORMATS[format].read(place, part)
            continue
        fitting = [n for n, kind in FORMATS.items() if kind.fits(place) and kind.is_certain(place)]
        if len(fitting) > 1:
            raise ValueError(
                f"{place} fits {len(fitting)} formats: choose one with --format NAME\n"
                + _looks(fitting)
            )
        if not fitting and FOLDER.fits(place):  # it says what is missing, or a teacher does without
            fitting = ["folder"]
        if fitting:
            return FORMATS[fitting[0]].read(place, part)
    if not root.is_dir():
        raise ValueError(f"there is no folder {root}: give the folder of a data set")
    there = sorted(entry.name + "/" * entry.is_dir() for entry in root.iterdir())
    shown = ", ".join(there[:8]) + (", …" if len(there) > 8 else "")
    tried = list(FORMATS) if format == "auto" else [format]
    raise ValueError(
        f"{root} holds no data set of a format that is known; it holds {shown or 'nothing'}; "
        f"looked for\n{_looks(tried)}"
    )


def _looks(names: list[str]) -> str:
    return "\n".join(f"  {name}: {FORMATS[name].looks}" for name in names)
