"""Small data sets on disk, for the tests of this folder."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (24, 32)  # height, width


def save(array, path: Path, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(array)).save(path, **options)
    return path


def write_json(content, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def photo(number: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (*size, 3), dtype=np.uint8)


def labels(number: int, size: tuple[int, int] = SIZE, classes: int = 3) -> np.ndarray:
    return np.random.default_rng(1000 + number).integers(0, classes, size, dtype=np.uint8)


def write_folder(root: Path, *, split: str = "train", count: int = 5, classes: int = 3) -> Path:
    """`count` pictures a, b, c, … of noise, their masks, and id2label.json above them."""
    for number in range(count):
        name = chr(ord("a") + number)
        save(photo(number), root / split / "images" / f"{name}.png")
        save(labels(number, classes=classes), root / split / "masks" / f"{name}.png")
    write_json({str(i): f"class {i}" for i in range(classes)}, root / "id2label.json")
    return root
