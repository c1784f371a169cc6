"""Writes a data set as folders of class indices, or as COCO with masks of runs of pixels."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from segformer_jax.atomic import atomic_folder
from segformer_jax.data.dataset import IGNORED, Dataset
from segformer_jax.data.formats.coco import import_pycocotools
from segformer_jax.data.formats.shapes_json import BACKGROUNDS
from segformer_jax.images.picture import as_rgb
from segformer_jax.json_text import json_bytes


def write_folders(splits: Mapping[str, Dataset], out: str | Path) -> None:
    """Writes SPLIT/images, SPLIT/masks and id2label.json; files of pictures are copied as they are.

    Args:
        splits: the data by the names of the splits, of the same classes.
        out: the folder to be, which must not hold anything.

    Raises:
        ValueError: `out` holds something, or a name twice.
        ImageError: as `Dataset.pair`.
    """
    with atomic_folder(out) as folder:
        _write_classes(next(iter(splits.values())), folder)
        for split, dataset in splits.items():
            for index, name in enumerate(dataset.names):
                _copy_picture(dataset, index, folder / split / "images")
                mask = folder / split / "masks" / f"{name}.png"
                mask.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(dataset.pair(index)[1]).save(mask)


def write_coco(splits: Mapping[str, Dataset], out: str | Path) -> int:
    """Writes images/SPLIT, annotations/instances_SPLIT.json and id2label.json.

    A class of a picture is one annotation, whose segmentation is runs of pixels, as pycocotools
    encodes them; so is the background, if there is one.

    Args:
        splits: as in `write_folders`.
        out: likewise.

    Returns:
        The number of ignored pixels that become background, which COCO can't tell apart; 0 where
        the data have no class of that name.

    Raises:
        ValueError: as `write_folders`.
        ImageError: as `Dataset.pair`.
        ImportError: pycocotools is missing.
    """
    import_pycocotools("COCO")
    lost = 0
    with atomic_folder(out) as folder:
        labels = _write_classes(next(iter(splits.values())), folder)
        for split, dataset in splits.items():
            images, annotations = [], []
            for index in range(len(dataset)):
                picture = _copy_picture(dataset, index, folder / "images" / split)
                mask = dataset.pair(index)[1]
                lost += int((mask == IGNORED).sum())
                height, width = mask.shape
                entry = {"id": index, "file_name": picture.name, "height": height, "width": width}
                images.append(entry)
                for value in np.unique(mask[mask != IGNORED]).tolist():
                    number = len(annotations) + 1
                    annotations.append(_annotation(mask == value, value, index, number))
            content = {
                "info": {},
                "licenses": [],
                "images": images,
                "categories": [{"id": index, "name": name} for index, name in labels.items()],
                "annotations": annotations,
            }
            file = folder / "annotations" / f"instances_{split}.json"
            file.parent.mkdir(exist_ok=True)
            file.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return lost if any(name in BACKGROUNDS for name in labels.values()) else 0


def _annotation(covered: np.ndarray, value: int, image: int, number: int) -> dict[str, Any]:
    from pycocotools import mask as coco

    runs: Any = coco.encode(np.asfortranarray(covered, np.uint8))
    return {
        "id": number,
        "image_id": image,
        "category_id": value,
        "segmentation": {"size": list(covered.shape), "counts": runs["counts"].decode("ascii")},
        "area": int(covered.sum()),
        "bbox": coco.toBbox(runs).tolist(),
        "iscrowd": 1,  # which COCO says of runs of pixels
    }


def _write_classes(dataset: Dataset, folder: Path) -> dict[int, str]:
    """Writes id2label.json, and returns the name of each value of the masks."""
    labels = dict(dataset.id2label)
    if len(labels) == 1:  # masks tell the class, 1, from all else
        labels = {0: BACKGROUNDS[0], 1: labels[0]}
    (folder / "id2label.json").write_bytes(json_bytes(labels))
    return labels


def _copy_picture(dataset: Dataset, index: int, folder: Path) -> Path:
    """Copies a picture under the name of its pair; one without a file of its own becomes a PNG."""
    folder.mkdir(parents=True, exist_ok=True)
    place = dataset.pictures[index]
    own = isinstance(place, Path)
    file = folder / f"{dataset.names[index]}{place.suffix if own else '.png'}"
    if own:
        shutil.copyfile(place, file)
    else:
        as_rgb(dataset.image(index)).save(file)
    return file
