"""One data set of boxes, as each tool would export it: `WRITERS` by name.

All have the same pictures in the same order, and the classes background, crack and spall. There is
no split but train, or none at all.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from data.folders import save, write_json

NAMES = {"0": "background", "1": "crack", "2": "spall"}
SIDE = 64
COLOURS = np.array([[0, 0, 0], [250, 50, 83], [61, 61, 245]], np.uint8)


@dataclass(frozen=True)
class Example:
    """A picture and its boxes: class, left, top, right, bottom, without the last column and row."""

    name: str
    picture: np.ndarray
    boxes: tuple[tuple[int, int, int, int, int], ...]

    @property
    def mask(self) -> np.ndarray:
        mask = np.zeros((SIDE, SIDE), np.uint8)
        for value, left, top, right, bottom in self.boxes:
            mask[top:bottom, left:right] = value
        return mask


def examples(count: int) -> list[Example]:
    made = []
    for number in range(count):
        rng = np.random.default_rng(number)
        left, top, right, bottom = rng.integers(2, 12, 4).tolist()
        boxes = (
            (1, left, top, left + 24, top + 20),
            (2, 30 + right, 34 + bottom, 44 + right, 50 + bottom),
        )
        picture = rng.integers(60, 90, (SIDE, SIDE, 3)).astype(np.uint8)
        example = Example(f"p{number}", picture, boxes)
        picture[example.mask == 1], picture[example.mask == 2] = (200, 60, 40), (40, 80, 220)
        made.append(example)
    return made


def _save(made: list[Example], root: Path, pictures: str, masks: str, palette=None):
    """Saves pictures and masks, of class indices or colours, under names with a {} in them."""
    for one in made:
        save(one.picture, root / pictures.format(one.name))
        save(one.mask if palette is None else palette[one.mask], root / masks.format(one.name))


def folder(root: Path, made: list[Example], palette=None):
    _save(made, root, "train/images/{}.png", "train/masks/{}.png", palette)
    write_json(NAMES, root / "id2label.json")


def mmsegmentation(root: Path, made: list[Example]):
    _save(made, root, "img_dir/train/{}.png", "ann_dir/train/{}.png")
    (root / "classes.txt").write_text("\n".join(NAMES.values()))


def colours(root: Path, made: list[Example]):
    folder(root, made, COLOURS)
    write_json(dict(zip(NAMES.values(), COLOURS.tolist(), strict=True)), root / "palette.json")


def cvat(root: Path, made: list[Example]):
    _save(made, root, "JPEGImages/{}.png", "SegmentationClass/{}.png", COLOURS)
    pairs = zip(NAMES.values(), COLOURS.tolist(), strict=True)
    rows = [f"{name}:{','.join(map(str, colour))}::" for name, colour in pairs]
    (root / "labelmap.txt").write_text("\n".join(["# label:color_rgb:parts:actions", *rows]))


def voc(root: Path, made: list[Example]):
    _save(made, root, "JPEGImages/{}.png", "SegmentationClass/{}.png")
    (root / "class_names.txt").write_text("\n".join(NAMES.values()))


def roboflow(root: Path, made: list[Example]):
    _save(made, root, "train/{}_jpg.rf.0a.png", "train/{}_jpg.rf.0a_mask.png")
    rows = [f"{value}, {name}" for value, name in NAMES.items()]
    (root / "train" / "_classes.csv").write_text("\n".join(["Pixel Value, Class", *rows]))


def coco(root: Path, made: list[Example]):
    for one in made:
        save(one.picture, root / "train" / f"{one.name}.png")
    content = {
        "images": [
            {"id": i, "file_name": f"{one.name}.png", "height": SIDE, "width": SIDE}
            for i, one in enumerate(made)
        ],
        "categories": [{"id": 1, "name": "crack"}, {"id": 2, "name": "spall"}],
        "annotations": [
            {"id": 10 * i + v, "image_id": i, "iscrowd": 0, "category_id": v, "segmentation": [
                _corners(box)]}
            for i, one in enumerate(made)
            for v, *box in one.boxes
        ],
    }  # fmt: skip
    write_json(content, root / "train" / "_annotations.coco.json")


def labelme(root: Path, made: list[Example]):
    for one in made:
        save(one.picture, root / f"{one.name}.png")
        shapes = [
            {"label": NAMES[str(v)], "shape_type": "rectangle", "flags": {},
             "points": [[left, top], [right - 1, bottom - 1]]}
            for v, left, top, right, bottom in one.boxes
        ]  # fmt: skip
        content = {"version": "5.5.0", "flags": {}, "shapes": shapes, "imageData": None}
        content |= {"imagePath": f"{one.name}.png", "imageHeight": SIDE, "imageWidth": SIDE}
        write_json(content, root / f"{one.name}.json")


def labelstudio(root: Path, made: list[Example]):
    tasks = []
    for number, one in enumerate(made):
        save(one.picture, root / f"{one.name}.png")
        regions = [
            {"type": "rectanglelabels", "original_width": SIDE, "original_height": SIDE,
             "image_rotation": 0,
             "value": {"x": 100 * left / SIDE, "y": 100 * top / SIDE,
                       "width": 100 * (right - left) / SIDE,
                       "height": 100 * (bottom - top) / SIDE,
                       "rotation": 0, "rectanglelabels": [NAMES[str(v)]]}}
            for v, left, top, right, bottom in one.boxes
        ]  # fmt: skip
        annotation = {"id": number, "result": regions, "was_cancelled": False}
        data = {"image": f"/data/upload/1/{one.name}.png"}
        tasks.append({"id": number, "annotations": [annotation], "data": data})
    write_json(tasks, root / "project.json")


def yolo(root: Path, made: list[Example]):
    for one in made:
        save(one.picture, root / "images" / "train" / f"{one.name}.png")
        lines = [
            " ".join([str(v - 1), *(str(c / SIDE) for c in _corners(box))]) for v, *box in one.boxes
        ]
        file = root / "labels" / "train" / f"{one.name}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("\n".join(lines))
    (root / "data.yaml").write_text("names: [crack, spall]\nnc: 2\ntrain: images/train\n")


def ade20k(root: Path, made: list[Example]):
    _save(made, root, "images/training/ADE_train_{}.png", "annotations/training/ADE_train_{}.png")
    write_json(NAMES, root / "id2label.json")


def cityscapes(root: Path, made: list[Example]):
    pictures = "leftImg8bit/train/ulm/ulm_{}_0_leftImg8bit.png"
    _save(made, root, pictures, "gtFine/train/ulm/ulm_{}_0_gtFine_labelTrainIds.png")
    write_json(NAMES, root / "id2label.json")


def huggingface(root: Path, made: list[Example]):
    import datasets
    from PIL import Image

    features = datasets.Features({"image": datasets.Image(), "label": datasets.Image()})
    columns = {
        "image": [Image.fromarray(one.picture) for one in made],
        "label": [Image.fromarray(one.mask) for one in made],
    }
    table = datasets.Dataset.from_dict(columns, features=features)
    datasets.DatasetDict({"train": table}).save_to_disk(root)
    write_json(NAMES, root / "id2label.json")


def _corners(box: list[int]) -> list[int]:
    left, top, right, bottom = box
    return [left, top, right, top, right, bottom, left, bottom]


WRITERS: dict[str, Callable[[Path, list[Example]], None]] = {
    writer.__name__: writer
    for writer in (
        *(folder, mmsegmentation, colours, cvat, voc, roboflow, coco, labelme, labelstudio, yolo),
        *(ade20k, cityscapes, huggingface),
    )
}


WITHOUT_SPLITS = ("cvat", "voc", "labelme", "labelstudio")


def write(name: str, root: Path, made: list[Example]) -> Path:
    """Writes the data set in a format, into a folder of its name, and returns that."""
    place = root / name
    place.mkdir()
    WRITERS[name](place, made)
    return place
