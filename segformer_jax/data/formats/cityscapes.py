"""Cityscapes: uses `*_labelTrainIds` if every picture has one, else `*_labelIds`."""

from pathlib import Path

from segformer_jax.data.classes import own_classes, refuse_zero
from segformer_jax.data.dataset import Dataset
from segformer_jax.data.formats.asked import Asked, Format
from segformer_jax.data.formats.benchmark import benchmark_classes
from segformer_jax.data.formats.pairs import paired, split_folder
from segformer_jax.data.masks import AS_THEY_ARE, IGNORED, NO_CLASS, Coding

CITYSCAPES_IDS = {  # values in labelIds of the 19 trained classes, from cityscapesScripts
    7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10, 24: 11, 25: 12,
    26: 13, 27: 14, 28: 15, 31: 16, 32: 17, 33: 18,
}  # fmt: skip
TRAIN_IDS = tuple(
    CITYSCAPES_IDS.get(value, IGNORED if value < 34 or value == 255 else NO_CLASS)
    for value in range(256)
)
ENDING = "_leftImg8bit.png"


def fits(root: Path) -> bool:
    pictures = (root / "leftImg8bit").glob(f"*/*/*{ENDING}")
    return (root / "gtFine").is_dir() and next(pictures, None) is not None


def read(root: Path, asked: Asked) -> Dataset:
    """Opens a split; with a class file, the values of the masks are used unchanged.

    Raises:
        ValueError: no such split, or `reduce_zero_label`, for value 0 has a meaning.
    """
    if asked.reduce_zero_label:
        refuse_zero("Cityscapes")
    part = split_folder(root / "leftImg8bit", asked.split)
    pictures = {path.name.removesuffix(ENDING): path for path in sorted(part.glob(f"*/*{ENDING}"))}
    annotations = root / "gtFine" / part.name
    train_ids, label_ids = (
        {path.name.removesuffix(tail): path for path in sorted(annotations.glob(f"*/*{tail}"))}
        for tail in ("_gtFine_labelTrainIds.png", "_gtFine_labelIds.png")
    )
    converted = bool(train_ids) and train_ids.keys() >= pictures.keys()
    own = own_classes(root)
    table = AS_THEY_ARE if converted or own is not None else TRAIN_IDS
    classes = own or benchmark_classes("cityscapes", "Cityscapes")
    return paired(
        pictures,
        train_ids if converted else label_ids,
        classes=classes,
        coding=Coding(max(len(classes.id2label), 2), table),
        place=part,
        recognised=f"Cityscapes, {'labelTrainIds' if converted else 'labelIds'}",
    )


CITYSCAPES = Format(fits, read, "leftImg8bit/{train,val}/CITY/*_leftImg8bit.png and gtFine")
