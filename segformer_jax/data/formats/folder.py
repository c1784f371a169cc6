"""Folders of one's own: pictures and masks in folders apart, or together with a suffix.

{train,val}/images and {train,val}/masks, images/{train,val} and masks/{train,val}, as
mmsegmentation's img_dir and ann_dir, or without splits; subfolders are searched. `soft/NAME.npz`
beside the folder of the pictures are soft targets.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from segformer_jax.data.classes import coding_of, some_classes
from segformer_jax.data.dataset import Dataset
from segformer_jax.data.formats.ade20k import ADE20K
from segformer_jax.data.formats.asked import Asked, Format
from segformer_jax.data.formats.pairs import (
    by_name,
    folders,
    has_pictures,
    paired,
    split_folder,
    without,
    without_suffix,
)
from segformer_jax.data.splits import NoSplitError, is_split, split_name

PICTURES = ("images", "image", "imgs", "img", "img_dir")
MASKS = ("masks", "mask", "labels", "label", "annotations", "annotation", "ann_dir", "gt")


@dataclass(frozen=True)
class Place:
    """The folders of the pictures and the masks of a split; None if there is no folder of masks."""

    pictures: Path
    masks: Path | None


def fits(root: Path) -> bool:
    return _pictures_in(root) is not None or any(
        _pictures_in(root / name) is not None for name in folders(root)
    )


def is_certain(root: Path) -> bool:
    """There are pictures where masks belong, and the files are not ADE20K's."""
    places = [root, *(root / name for name in folders(root) if _pictures_in(root / name))]
    masks = any(has_pictures(place / name) for place in places for name in MASKS)
    return masks and not (ADE20K.fits(root) and ADE20K.is_certain(root))


def read(root: Path, asked: Asked) -> Dataset:
    """Opens a split, or the folder itself.

    Raises:
        ValueError: no such split, no folder of masks, several, or no list of the classes.
    """
    if asked.mask_suffix and not fits(root):
        place = _together(root, asked.split)
        found = by_name(place)
        masks = without_suffix(found, asked.mask_suffix)
        pictures = without(found, masks)
        here, recognised = place, f"pictures and masks with {asked.mask_suffix} in one folder"
    else:
        at = _apart(root, asked.split)
        place, here = at.pictures, at.pictures.parent
        lacks = asked.teacher is not None and at.masks is None
        if at.masks is None and not lacks:
            raise ValueError(
                f"there is no folder of masks beside {place}: call it masks (or one of "
                f"{', '.join(MASKS[1:])}), and put a picture of class indices into it for each"
            )
        pictures = by_name(place)
        masks = {} if at.masks is None else by_name(at.masks)
        if asked.mask_suffix:
            masks = without_suffix(masks, asked.mask_suffix)
        shown = [path.relative_to(root).as_posix() for path in (place, at.masks) if path]
        recognised = " and ".join(shown)
    classes = some_classes(here, teacher=asked.teacher)
    found_pairs = paired(
        pictures,
        masks,
        classes=classes,
        coding=coding_of(classes, reduce_zero_label=asked.reduce_zero_label),
        place=place,
        recognised=recognised,
        may_lack=asked.teacher is not None,
    )
    soft = {path.stem: path for path in (here / "soft").glob("*.npz")}
    if not soft:
        return found_pairs
    return replace(found_pairs, soft=tuple(soft.get(Path(name).name) for name in pictures))


def _apart(root: Path, split: str | None) -> Place:
    """Finds the folders of a split's pictures and masks."""
    pictures = _pictures_in(root)
    if pictures is None:  # {train,val}/images
        parts = [name for name in folders(root) if _pictures_in(root / name) is not None]
        here = root / split_name(split, parts, place=root)
        inside = _pictures_in(here)
        assert inside is not None  # it is one of `parts`
        return Place(inside, _masks_in(here, has_pictures))
    parts = [name for name in folders(pictures) if is_split(name)]
    if not parts:
        if split is not None:
            raise NoSplitError(f"{root} has no split {split}: its pictures are all in {pictures}")
        return Place(pictures, _masks_in(root, has_pictures))
    if split is not None and split not in folders(pictures):
        split = split_folder(pictures, split).name
    part = split_name(split, folders(pictures), place=pictures)
    masks = _masks_in(root, lambda masks: has_pictures(masks / part))
    return Place(pictures / part, None if masks is None else masks / part)


def _together(root: Path, split: str | None) -> Path:
    parts = [name for name in folders(root) if is_split(name)]
    return root if not parts and split is None else root / split_name(split, parts, place=root)


def _pictures_in(root: Path) -> Path | None:
    return next((root / name for name in PICTURES if (root / name).is_dir()), None)


def _masks_in(root: Path, holds_masks: Callable[[Path], bool]) -> Path | None:
    """Finds the folder of masks.

    Raises:
        ValueError: there are two.
    """
    there = [root / name for name in MASKS if (root / name).is_dir()]
    filled = [place for place in there if holds_masks(place)]
    if len(filled) > 1:
        raise ValueError(
            f"{root} must hold one folder of masks, got {filled[0].name} and {filled[1].name}: "
            "move one elsewhere"
        )
    return next(iter(filled or there), None)


FOLDER = Format(
    fits,
    read,
    "{train,val}/images and masks, or images/{train,val} and masks/{train,val}, with id2label.json",
    is_certain,
)
