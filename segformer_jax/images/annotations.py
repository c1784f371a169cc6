"""Writes polygons in the formats of annotation tools, COCO's and labelme's.

Neither format has holes: a hole is joined to its outline by a cut of no width.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Shaped

from segformer_jax.images.polygons import Polygon

LABELME = "5.5.0"  # version of the format


def coco(
    polygons: Iterable[Polygon], names: Mapping[int, str], *, file_name: str, size: tuple[int, int]
) -> dict[str, Any]:
    """Returns a COCO data set of one picture; the ids of categories are the classes' + 1.

    Args:
        polygons: of the picture's class map.
        names: class names by index, each once.
        file_name: of the picture.
        size: its height and width.
    """
    return {
        "images": [{"id": 1, "file_name": file_name, "height": size[0], "width": size[1]}],
        "annotations": [
            {
                "id": number,
                "image_id": 1,
                "category_id": polygon.index + 1,
                "segmentation": [without_holes(polygon).reshape(-1).tolist()],
                "area": polygon.pixels,
                "bbox": _box(polygon),
                "iscrowd": 0,
            }
            for number, polygon in enumerate(polygons, 1)
        ],
        "categories": [
            {"id": index + 1, "name": name, "supercategory": ""} for index, name in names.items()
        ],
    }


def labelme(
    polygons: Iterable[Polygon], names: Mapping[int, str], *, file_name: str, size: tuple[int, int]
) -> dict[str, Any]:
    """Returns the content of a labelme file; `file_name` is relative to the file's folder."""
    return {
        "version": LABELME,
        "flags": {},
        "shapes": [
            {
                "label": names.get(polygon.index, f"LABEL_{polygon.index}"),
                "points": without_holes(polygon).tolist(),
                "group_id": None,
                "description": "",
                "shape_type": "polygon",
                "flags": {},
            }
            for polygon in polygons
        ],
        "imagePath": file_name,
        "imageData": None,
        "imageHeight": size[0],
        "imageWidth": size[1],
    }


def without_holes(polygon: Polygon) -> Shaped[np.ndarray, "_ 2"]:
    """Returns one ring that covers a polygon: there and back between the outline and each hole.

    Holes are joined from left to right, each from its leftmost corner straight to the left, where
    nothing but what is joined already can be.
    """
    whole, *holes = polygon.rings
    for hole in sorted(holes, key=lambda ring: ring[:, 0].min()):
        hole = np.roll(hole, -np.lexsort(hole.T[::-1])[0], 0)
        x, y = hole[0]
        (x1, y1), (x2, y2) = whole.T, np.roll(whole, -1, 0).T
        level = y1 == y2
        across = x1 + (y - y1) / np.where(level, 1, y2 - y1) * (x2 - x1)
        meets = ~level & (np.minimum(y1, y2) <= y) & (y <= np.maximum(y1, y2)) & (across <= x)
        place = int(np.where(meets, across, -np.inf).argmax())
        # simplified rings may cross, and leave nothing on the left
        cut = np.array([[across[place], y]]) if meets[place] else whole[:1]
        if (cut == cut.astype(np.int64)).all():
            cut = cut.astype(np.int64)
        whole = np.concatenate([whole[: place + 1], cut, hole, hole[:1], cut, whole[place + 1 :]])
    return whole


def _box(polygon: Polygon) -> list[int]:
    """Left, top, width and height."""
    low, high = polygon.rings[0].min(0), polygon.rings[0].max(0)
    return [*low.tolist(), *(high - low).tolist()]
