"""labelme's JSON, with every kind of shape."""

import base64
import json
from pathlib import Path

from tests.fuzz.damage import damaged_json
from tests.fuzz.kinds import Reader, Sample
from tests.fuzz.readers.data_sets import DOCUMENTED, SIZE, picture, read_all


def _samples() -> list[Sample]:
    points = {
        "polygon": [[2, 2], [9, 2.5], [5, 8]],
        "rectangle": [[1, 1], [6, 4]],
        "circle": [[8, 6], [10, 6]],
        "line": [[0, 0], [15, 11]],
        "linestrip": [[0, 5], [4, 5], [4, 9]],
        "point": [[7, 7]],
        "mask": [[0, 0], [15, 11]],
    }
    mask = base64.b64encode(picture()).decode()
    labels = ("cat", "dog", "__ignore__")
    shapes = [
        {"label": labels[place % 3], "points": own, "shape_type": kind, "mask": mask}
        for place, (kind, own) in enumerate(points.items())
    ]
    content = {"version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": "a.png"}
    content |= {"imageHeight": SIZE[0], "imageWidth": SIZE[1], "imageData": None}
    return [Sample({"a.json": json.dumps(content).encode(), "a.png": picture()}, "a.json")]


def _read(folder: Path) -> None:
    read_all(folder, format="labelme", split=None)


LABELME = Reader("labelme", _samples, damaged_json, _read, DOCUMENTED)
