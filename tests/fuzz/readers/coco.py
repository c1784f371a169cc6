"""COCO's JSON: polygons, runs of both kinds, and panoptic sets."""

import json
from pathlib import Path
from typing import Any

from tests.fuzz.damage import damaged_json
from tests.fuzz.kinds import Reader, Sample
from tests.fuzz.readers.data_sets import DOCUMENTED, SIZE, picture, read_all


def _samples() -> list[Sample]:
    height, width = SIZE
    square = [2, 2, 9, 2, 9, 8, 2, 8]
    regions: list[Any] = [
        [square, [0.5, 0.5, 5, 0.5, 2, 5]],
        {"size": [height, width], "counts": [30, 5, height * width - 35]},
        {"size": [height, width], "counts": "n0500`5"},
    ]
    entry = {"image_id": 1, "iscrowd": 0, "area": 9, "bbox": [2, 2, 7, 6]}
    content = {
        "info": {},
        "images": [{"id": 1, "file_name": "a.png", "height": height, "width": width}],
        "categories": [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}],
        "annotations": [
            entry | {"id": place, "category_id": (3, 7)[place % 2], "segmentation": region}
            for place, region in enumerate(regions)
        ],
    }
    segments = [{"id": 99 * 0x10101, "category_id": 3}]
    panoptic = content | {
        "annotations": [{"image_id": 1, "file_name": "a.png", "segments_info": segments}]
    }
    return [_sample("instances", content), _sample("panoptic", panoptic)]


def _sample(kind: str, content: dict[str, Any]) -> Sample:
    file = f"annotations/{kind}_train.json"
    pictures = {"train/a.png": picture(), f"annotations/{kind}_train/a.png": picture()}
    return Sample({file: json.dumps(content).encode(), **pictures}, file)


def _read(folder: Path) -> None:
    read_all(folder, format="coco", split="train")


COCO = Reader("coco", _samples, damaged_json, _read, DOCUMENTED)
