"""`open_dataset`: finds the pictures, masks and classes of a data set in any known layout."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from segformer_jax.data.classes import read_coding, read_id2label
from segformer_jax.data.dataset import Dataset, joined
from segformer_jax.data.hf_dataset import is_saved_dataset, saved_dataset
from segformer_jax.data.masks import AS_THEY_ARE, IGNORED, WITHOUT_ZERO, Coding
from segformer_jax.data.splits import is_split, split_name
from segformer_jax.images.labels import CLASS_SETS

PICTURES = {
    ".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pbm",
    ".jp2", ".avif",
}  # fmt: skip
CITYSCAPES = {  # values in labelIds of the 19 trained classes, from cityscapesScripts
    7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10, 24: 11, 25: 12,
    26: 13, 27: 14, 28: 15, 31: 16, 32: 17, 33: 18,
}  # fmt: skip


@dataclass(frozen=True)
class Layout:
    """A layout of data sets: how to detect it, how to read it, and its description for messages."""

    is_at: Callable[[Path], bool]
    read: Callable[..., Dataset]
    looks: str


def open_dataset(
    path: str | Path,
    *,
    split: str | None = None,
    layout: str = "auto",
    reduce_zero_label: bool = False,
    teacher: Mapping[int, str] | None = None,
) -> Dataset:
    """Opens the data set in a folder; reads only the names of its files.

    Args:
        path: the data folder, or the folder of one split, such as FOLDER/val.
        split: "train", "val" or "test", or a customary synonym; "train+val" joins both. None if
            `path` is the folder of the split.
        layout: "folder", "ade20k", "cityscapes", "voc" or "huggingface"; "auto" detects it.
        reduce_zero_label: ignore value 0 of the masks and lower the others by one.
        teacher: the classes of a model that replaces missing masks; they are the data set's classes
            if it has no id2label.json.

    Raises:
        ValueError: there is no data set, or none of that layout; the message says what was
            expected.
        NoSplitError: the data set has no such split.
        ImportError: the package to read a Hugging Face data set is missing.
    """
    return joined(
        _read(
            Path(path),
            split=part,
            layout=layout,
            reduce_zero_label=reduce_zero_label,
            teacher=teacher,
        )
        for part in (split.split("+") if split else [None])
    )


def _read(
    root: Path,
    *,
    split: str | None,
    layout: str,
    reduce_zero_label: bool,
    teacher: Mapping[int, str] | None,
) -> Dataset:
    """Reads the data set at `root`, or one split of the data set in the folder above.

    Raises:
        ValueError: as `open_dataset`.
    """
    if layout != "auto" and layout not in LAYOUTS:
        raise ValueError(f"layout must be one of auto, {', '.join(LAYOUTS)}, got {layout!r}")
    tried = LAYOUTS if layout == "auto" else {layout: LAYOUTS[layout]}
    places = [(root, split)]
    if split is None and is_split(root.name):
        places.append((root.parent, root.name))
    for place, part in places:
        for kind in tried.values():
            if kind.is_at(place):
                options: dict[str, Any] = {"reduce_zero_label": reduce_zero_label}
                if kind.read is folder:
                    options["teacher"] = teacher
                found = kind.read(place, split=part, **options)
                return found if teacher is None else replace(found, taught=True)
    if not root.is_dir():
        raise ValueError(f"there is no folder {root}: give the folder of a data set")
    there = sorted(entry.name + "/" * entry.is_dir() for entry in root.iterdir())
    shown = ", ".join(there[:8]) + (", …" if len(there) > 8 else "")
    looked = "\n".join(f"  {name}: {kind.looks}" for name, kind in tried.items())
    raise ValueError(
        f"{root} holds no data set of a layout that is known; it holds "
        f"{shown or 'nothing'}\nlooked for\n{looked}"
    )


def folder(
    root: Path,
    *,
    split: str | None,
    reduce_zero_label: bool,
    teacher: Mapping[int, str] | None = None,
) -> Dataset:
    """Opens a folder with `images/` and `masks/`, or with one such folder per split.

    Pictures and masks are paired by their names without the ending. `soft/NAME.npz` beside them are
    soft targets.
    """
    place = root if split is None else _split_folder(root, split)
    if split is None and not (place / "images").is_dir():
        splits = [entry.name for entry in sorted(root.iterdir()) if (entry / "images").is_dir()]
        raise ValueError(f"{root} has several splits: choose one, {' or '.join(splits)}")
    id2label = read_id2label(place, otherwise=teacher)
    pictures, masks = _by_stem(place / "images"), place / "masks"
    found = _paired(
        pictures,
        {} if teacher is not None and not masks.is_dir() else _by_stem(masks),
        id2label=id2label,
        coding=read_coding(place, id2label, reduce_zero_label=reduce_zero_label),
        place=place,
        may_lack=teacher is not None,
    )
    soft = {path.stem: path for path in (place / "soft").glob("*.npz")}
    return replace(found, soft=tuple(soft.get(name) for name in pictures)) if soft else found


def ade20k(root: Path, *, split: str | None, reduce_zero_label: bool = True) -> Dataset:
    """Opens ADEChallengeData2016: value 0 is ignored, 1…150 are the classes."""
    del reduce_zero_label  # always true here
    root = _inner(root, "ADEChallengeData2016")
    part = _split_folder(root / "images", split).name
    return _paired(
        _by_stem(root / "images" / part),
        _by_stem(root / "annotations" / part),
        id2label=dict(enumerate(CLASS_SETS["ade20k"].names)),
        coding=Coding(150, WITHOUT_ZERO),
        place=root / "images" / part,
    )


def cityscapes(root: Path, *, split: str | None, reduce_zero_label: bool = False) -> Dataset:
    """Opens Cityscapes: uses `*_labelTrainIds` if every picture has one, else `*_labelIds`."""
    _check_zero(reduce_zero_label, "Cityscapes")
    part = _split_folder(root / "leftImg8bit", split)
    ending = "_leftImg8bit.png"
    pictures = {path.name.removesuffix(ending): path for path in sorted(part.glob(f"*/*{ending}"))}
    annotations = root / "gtFine" / part.name
    train_ids, label_ids = (
        {path.name.removesuffix(tail): path for path in sorted(annotations.glob(f"*/*{tail}"))}
        for tail in ("_gtFine_labelTrainIds.png", "_gtFine_labelIds.png")
    )
    converted = bool(train_ids) and train_ids.keys() >= pictures.keys()
    table = tuple(
        CITYSCAPES.get(value, IGNORED if value < 34 or value == 255 else 254)  # 254: an error
        for value in range(256)
    )
    return _paired(
        pictures,
        train_ids if converted else label_ids,
        id2label=dict(enumerate(CLASS_SETS["cityscapes"].names)),
        coding=Coding(19, AS_THEY_ARE if converted else table),
        place=part,
    )


def pascal_voc(root: Path, *, split: str | None, reduce_zero_label: bool = False) -> Dataset:
    """Opens Pascal VOC: the names in ImageSets/Segmentation/SPLIT.txt; 21 classes, 255 ignored."""
    _check_zero(reduce_zero_label, "Pascal VOC")
    root = _inner(root, "VOC2012", "VOCdevkit/VOC2012")
    lists = {path.stem: path for path in (root / "ImageSets" / "Segmentation").glob("*.txt")}
    part = split_name(split, lists, place=root / "ImageSets/Segmentation")
    pictures, masks = {}, {}
    for name in sorted(set(lists[part].read_text(encoding="utf-8-sig").split())):
        pictures[name] = root / "JPEGImages" / f"{name}.jpg"
        masks[name] = root / "SegmentationClass" / f"{name}.png"
    id2label = dict(enumerate(CLASS_SETS["pascal_voc"].names))
    return _paired(pictures, masks, id2label=id2label, coding=Coding(21), place=lists[part])


def _paired(
    pictures: dict[str, Path],
    masks: dict[str, Path],
    *,
    id2label: dict[int, str],
    coding: Coding,
    place: Path,
    may_lack: bool = False,
) -> Dataset:
    """Pairs pictures and masks by name; with `may_lack`, all masks may be missing.

    `place` is for messages.
    """
    if not pictures:
        raise ValueError(f"there is no picture in {place}")
    if not pictures.keys() & masks.keys() and (masks or not may_lack):
        raise ValueError(
            f"none of the {len(pictures)} pictures in {place} has a mask: the first is "
            f"{next(iter(pictures))}, the first of {len(masks)} masks {next(iter(masks), 'none')}"
        )
    return Dataset(
        names=tuple(pictures),
        id2label=id2label,
        pictures=tuple(pictures.values()),
        masks=tuple(masks.get(name) for name in pictures),
        coding=coding,
        strays=tuple(path for name, path in masks.items() if name not in pictures),
    )


def _by_stem(place: Path) -> dict[str, Path]:
    """Returns the pictures in a folder by their names without the ending, sorted."""
    if not place.is_dir():
        raise ValueError(f"there is no folder {place}")
    found: dict[str, Path] = {}
    for path in sorted(place.iterdir()):
        if path.suffix.lower() not in PICTURES or path.name.startswith("."):
            continue
        if path.stem in found:
            raise ValueError(
                f"{place} has two files of one name, {found[path.stem].name} and "
                f"{path.name}: keep one"
            )
        found[path.stem] = path
    return found


def _split_folder(root: Path, split: str | None) -> Path:
    entries = [entry.name for entry in sorted(root.iterdir()) if entry.is_dir()]
    return root / split_name(split, entries, place=root)


def _inner(root: Path, *inside: str) -> Path:
    """Returns the folder, or the folder inside it that unpacking the download creates."""
    return next((root / name for name in inside if (root / name).is_dir()), root)


def _check_zero(reduce_zero_label: bool, name: str) -> None:
    if reduce_zero_label:
        raise ValueError(
            f"reduce_zero_label must not be used with {name}, which defines the "
            "value 0: leave it out"
        )


def _is_cityscapes(root: Path) -> bool:
    return (root / "leftImg8bit").is_dir()


def _is_ade20k(root: Path) -> bool:
    root = _inner(root, "ADEChallengeData2016")
    return (root / "annotations").is_dir() and any(
        entry.is_dir() and is_split(entry.name) for entry in (root / "images").glob("*")
    )


def _is_pascal_voc(root: Path) -> bool:
    root = _inner(root, "VOC2012", "VOCdevkit/VOC2012")
    return (root / "JPEGImages").is_dir() and (root / "SegmentationClass").is_dir()


def _is_folder(root: Path) -> bool:
    return root.is_dir() and (
        (root / "images").is_dir() or any((entry / "images").is_dir() for entry in root.iterdir())
    )


LAYOUTS = {
    "cityscapes": Layout(
        _is_cityscapes, cityscapes, "leftImg8bit/{train,val}/CITY and gtFine/{train,val}/CITY"
    ),
    "ade20k": Layout(
        _is_ade20k, ade20k, "images/{training,validation} and annotations/{training,validation}"
    ),
    "voc": Layout(
        _is_pascal_voc, pascal_voc, "JPEGImages, SegmentationClass and ImageSets/Segmentation"
    ),
    "huggingface": Layout(
        is_saved_dataset, saved_dataset, "dataset_dict.json or state.json, of save_to_disk"
    ),
    "folder": Layout(
        _is_folder, folder, "{train,val}/images and {train,val}/masks, with id2label.json"
    ),
}
