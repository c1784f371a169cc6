"""Pascal VOC's folders, which CVAT and labelme2voc write too."""

from pathlib import Path

from segformer_jax.data.classes import Classes
from segformer_jax.data.dataset import Dataset
from segformer_jax.data.formats.asked import Asked
from segformer_jax.data.formats.pairs import by_name, inner, paired
from segformer_jax.data.masks import Coding
from segformer_jax.data.splits import NoSplitError, split_name

LISTS = Path("ImageSets", "Segmentation")
MASKS = ("SegmentationClass", "SegmentationClassPNG")  # the second: older labelme2voc


def voc_root(root: Path) -> Path:
    """Returns the folder, or the folder inside it that unpacking VOC2012 creates."""
    return inner(root, "VOC2012", "VOCdevkit/VOC2012")


def masks_folder(root: Path) -> Path | None:
    """Returns the folder of the masks of classes; None if there is none."""
    return next((root / name for name in MASKS if (root / name).is_dir()), None)


def read_folders(
    root: Path, asked: Asked, *, classes: Classes, coding: Coding, recognised: str
) -> Dataset:
    """Opens the pairs that a list in ImageSets/Segmentation names; all pairs if there are no lists.

    Raises:
        ValueError: no such list; no pictures; a list that is no text.
    """
    masks_at = masks_folder(root)
    if masks_at is None or not (root / "JPEGImages").is_dir():
        raise ValueError(
            f"{root} must hold JPEGImages and SegmentationClass: export it with its pictures"
        )
    pictures, masks = by_name(root / "JPEGImages"), by_name(masks_at)
    lists = {path.stem: path for path in sorted((root / LISTS).glob("*.txt"))}
    place = root / "JPEGImages"
    if lists:
        whole = asked.split is None and len(lists) == 1
        part = next(iter(lists)) if whole else split_name(asked.split, lists, place=root / LISTS)
        place, names = lists[part], listed_names(lists[part])
        pictures = {n: pictures.get(n, root / "JPEGImages" / f"{n}.jpg") for n in names}
        masks = {n: masks.get(n, masks_at / f"{n}.png") for n in names}
    elif asked.split is not None:
        raise NoSplitError(f"{root} has no split {asked.split}, for it has no {LISTS.as_posix()}")
    return paired(
        pictures, masks, classes=classes, coding=coding, place=place, recognised=recognised
    )


def listed_names(file: Path) -> list[str]:
    """Reads the names in a list, one per line; CVAT puts names with blanks into quotes.

    Raises:
        ValueError: the file is no text.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} can't be read as UTF-8 text: {error}") from error
    return sorted({line.strip().strip('"') for line in lines} - {""})
