"""Formats of shapes: drawn as the tool's own rasteriser draws them, in the tool's order."""

import base64
import io
import json

import numpy as np
import pytest
from data.folders import photo, save, write_json
from PIL import Image, ImageDraw

from segformer_jax import ImageError
from segformer_jax.data.formats import open_dataset

# pycocotools 2.0.11, which NumPy 2 copies for
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
SIZE = (48, 64)
FREE = [(3.2, 4.7), (40.1, 9.9), (30.5, 40.25), (12.75, 33.3)]
BOX = [(20, 10), (49, 10), (49, 29), (20, 29)]


def labelme(root, shapes, name="a", **more):
    save(photo(0, SIZE), root / f"{name}.jpg")
    content = {"version": "6.3.1", "flags": {}, "shapes": shapes, "imagePath": f"{name}.jpg"}
    content |= {"imageData": None, "imageHeight": SIZE[0], "imageWidth": SIZE[1]}
    write_json(content | more, root / f"{name}.json")
    return root


def shape(label, points, kind="polygon", **more):
    return {"label": label, "points": points, "shape_type": kind, "flags": {}} | more


def test_labelmes_shapes_are_drawn_as_labelme_draws_them(tmp_path):
    labelme(tmp_path, [shape("dog", FREE), shape("cat", [[49, 29], [20, 10]], "rectangle")])
    dataset = open_dataset(tmp_path)
    assert dataset.id2label == {0: "_background_", 1: "cat", 2: "dog"}
    assert dataset.recognised == "labelme's JSON files, 3 classes from the labels of all files"
    expected = Image.new("L", SIZE[::-1])  # labelme's shape_to_mask: Pillow, with an outline
    ImageDraw.Draw(expected).polygon(FREE, fill=2, outline=2)
    ImageDraw.Draw(expected).rectangle([20, 10, 49, 29], fill=1, outline=1)
    assert np.array_equal(dataset.mask(0), expected)


def test_labelmes_other_shapes_and_what_is_ignored(tmp_path):
    brush = np.zeros((4, 5), np.uint8)
    brush[1:3, 1:] = 255
    png = io.BytesIO()
    Image.fromarray(brush).save(png, "PNG")
    text = base64.b64encode(png.getvalue()).decode()
    shapes = [
        shape("a", [[10, 10], [13, 14]], "circle"),
        shape("__ignore__", [[40, 40], [60, 40]], "line"),
        shape("b", [[30, 20], [34, 23]], "mask", mask=text),
        shape("b", [[55, 8]], "point"),
    ]
    mask = open_dataset(labelme(tmp_path, shapes)).mask(0)
    assert (mask[10, 5:16] == 1).all()
    assert mask[10, 4] == mask[10, 16] == 0
    assert (mask[40, 41:59] == 255).all()
    assert np.array_equal(mask[20:24, 30:35], np.where(brush, 2, 0))
    assert (mask[8, 50:61] == 2).all()


def test_labelmes_classes_are_those_of_all_splits_or_of_the_users_list(tmp_path):
    labelme(tmp_path / "train", [shape("b", BOX)])
    labelme(tmp_path / "val", [shape("a", BOX)])
    assert list(open_dataset(tmp_path, split="train").id2label.values())[1:] == ["a", "b"]
    assert list(open_dataset(tmp_path / "val").id2label.values())[1:] == ["a", "b"]
    write_json({"0": "background", "1": "b", "2": "a"}, tmp_path / "id2label.json")
    assert set(np.unique(open_dataset(tmp_path, split="val").mask(0))) == {0, 2}
    write_json({"0": "background", "1": "b"}, tmp_path / "id2label.json")
    with pytest.raises(ValueError, match=r"has the class 'a', which id2label\.json does not have"):
        open_dataset(tmp_path, split="val")


@pytest.mark.parametrize(
    ("shapes", "more", "message"),
    [
        ([shape("a", [[1, 2]], "rectangle")], {}, "not one of labelme's files.*1 points"),
        ([shape("a", [[1, "x"]], "point")], {}, "not one of labelme's files"),
        ([shape("a", [[8, 2**32], [9, 6]], "circle")], {}, "not one of .*over 1,000,000 pixels"),
        ([{"label": "a"}], {}, "not one of labelme's files"),
        ([shape("a", BOX[:2], "mask", mask=7)], {}, "not one of labelme's files: .*its picture"),
        ([shape("a", BOX)], {"imageWidth": 10**9}, "not one of labelme's files: .*1000000000×48"),
    ],
)
def test_damaged_files_of_labelme_are_named(tmp_path, shapes, more, message):
    with pytest.raises(ValueError, match=rf"a\.json is {message}"):
        open_dataset(labelme(tmp_path, shapes, **more))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (shape("a", [[1, 2], [3, 4]]), "a polygon of a that can't be drawn: it has 2 points"),
        (shape("a", BOX, "star"), "a star of a that can't be drawn"),
        (shape("a", [[1, 2], [3, 4]], "mask", mask="?"), "a mask of a that can't be drawn"),
    ],
)
def test_a_shape_that_cannot_be_drawn_is_named(tmp_path, wrong, message):
    with pytest.raises(ImageError, match=rf"a\.json has {message}"):
        open_dataset(labelme(tmp_path, [wrong])).mask(0)


def flat(points):
    return [[number for point in points for number in point]]


def coco(root, annotations, *, file="annotations/instances_train2017.json", pictures="train2017"):
    save(photo(0, SIZE), root / pictures / "x.jpg")
    listed = [
        {"id": number, "image_id": 7, "iscrowd": 0} | entry
        for number, entry in enumerate(annotations)
    ]
    content = {
        "info": {},
        "licenses": [],
        "images": [{"id": 7, "file_name": "x.jpg", "height": SIZE[0], "width": SIZE[1]}],
        "categories": [{"id": 9, "name": "dog"}, {"id": 4, "name": "cat"}],
        "annotations": listed,
    }
    write_json(content, root / file)
    return root


@pytest.mark.parametrize(
    ("file", "pictures"),
    [
        ("annotations/instances_train2017.json", "train2017"),
        ("annotations/train.json", "images/train"),
        ("train/_annotations.coco.json", "train"),
    ],
)
def test_cocos_instances_become_classes_as_pycocotools_draws_them(tmp_path, file, pictures):
    api = pytest.importorskip("pycocotools.mask")
    runs = np.zeros(SIZE, np.uint8)
    runs[2:9, 50:60] = 1
    packed = api.encode(np.asfortranarray(runs))
    entries = [
        {"category_id": 9, "segmentation": flat(FREE)},
        {"category_id": 4, "segmentation": flat(BOX) + flat([(0, 0), (5, 0), (5, 5), (0, 5)])},
        {
            "category_id": 9,
            "segmentation": {"size": SIZE, "counts": packed["counts"].decode()},
            "iscrowd": 1,
        },
    ]
    dataset = open_dataset(coco(tmp_path, entries, file=file, pictures=pictures), split="train")
    assert dataset.id2label == {0: "background", 1: "cat", 2: "dog"}  # by the numbers of theirs
    expected = np.zeros(SIZE, np.uint8)
    for value, entry in zip((2, 1, 2), entries, strict=True):
        region = entry["segmentation"]
        if isinstance(region, list):
            region = api.merge(api.frPyObjects(region, *SIZE))
        expected[api.decode(region) > 0] = value
    assert np.array_equal(dataset.mask(0), expected)
    assert (expected[10:29, 20:49] == 1).all()  # half-open, as pycocotools has it


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"category_id": 9, "segmentation": []}, r"without a segmentation \(a box\)"),
        ({"category_id": 9, "segmentation": {"size": [2, 2], "counts": [1, 3]}}, "damaged seg"),
        ({"category_id": 9, "segmentation": [["x"] * 8]}, "damaged segmentation"),
        ({"category_id": 9, "segmentation": {"counts": [[]]}}, "damaged segmentation"),
        *(  # at which pycocotools ends the process
            ({"category_id": 9, "segmentation": [[2, 2, 9, far, 9, 8]]}, "damaged .* coordinate")
            for far in (float("nan"), 1e308, -(2**31))
        ),
    ],
)
def test_a_segmentation_that_is_none_is_named(tmp_path, entry, message):
    pytest.importorskip("pycocotools.mask")
    dataset = open_dataset(coco(tmp_path, [entry]), split="train")
    with pytest.raises(ImageError, match=rf"instances_train2017\.json, x\.jpg has .*{message}"):
        dataset.mask(0)


def test_damaged_files_of_coco_are_named(tmp_path):
    pytest.importorskip("pycocotools.mask")
    coco(tmp_path, [{"category_id": 3, "segmentation": flat(BOX)}])
    with pytest.raises(ValueError, match=r"train2017\.json is not valid COCO: KeyError\(3\)"):
        open_dataset(tmp_path, split="train")
    file = tmp_path / "annotations" / "instances_train2017.json"
    content = json.loads(file.read_text())
    content["annotations"] = []
    content["images"][0]["height"] = 10**9
    write_json(content, file)
    with pytest.raises(ValueError, match=r"not valid COCO: .*64×1000000000 pixels"):
        open_dataset(tmp_path, split="train")
    for name in ("../secret.jpg", "/etc/passwd", "C:\\x.jpg", "", 3, "a" * 300):
        content["images"][0]["file_name"] = name
        write_json(content, file)
        with pytest.raises(ValueError, match=r"must name pictures in its own folder|none of"):
            open_dataset(tmp_path, split="train")
    file.write_text(file.read_text()[:100])
    with pytest.raises(ValueError, match=r"train2017\.json can't be read as JSON"):
        open_dataset(tmp_path, split="train")


def test_panoptic_pictures_are_read_by_their_segments(tmp_path):
    segments = [{"id": 65536 * 3 + 256 + 2, "category_id": 9}, {"id": 5, "category_id": 4}]
    coco(
        tmp_path,
        [{"file_name": "x.png", "segments_info": segments}],
        file="annotations/panoptic_val2017.json",
        pictures="val2017",
    )
    numbers = np.zeros((*SIZE, 3), np.uint8)
    numbers[:20], numbers[30:] = (2, 1, 3), (5, 0, 0)
    png = tmp_path / "annotations" / "panoptic_val2017" / "x.png"
    save(numbers, png)
    dataset = open_dataset(tmp_path, split="val")
    mask = dataset.mask(0)
    name = dict(dataset.id2label)
    assert name == {0: "cat", 1: "dog"}
    assert {name[int(v)] for v in np.unique(mask[:20])} == {"dog"}
    assert {name[int(v)] for v in np.unique(mask[30:])} == {"cat"}
    assert (mask[20:30] == 255).all()
    numbers[0, 0] = 77
    save(numbers, png)
    with pytest.raises(ImageError, match=r"x\.png has the segment \d+, which is not listed"):
        dataset.mask(0)


def test_without_pycocotools_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pycocotools", None)
    monkeypatch.setitem(__import__("sys").modules, "pycocotools.mask", None)
    coco(tmp_path, [])
    with pytest.raises(ImportError, match=r"pip install 'segformer-jax\[coco\]'"):
        open_dataset(tmp_path, split="train")
