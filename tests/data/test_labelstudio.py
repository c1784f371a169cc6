"""Label Studio's JSON export: polygons compared with pycocotools, brushes with its own encoder."""

import math
from pathlib import Path

import numpy as np
import pytest
from data.folders import photo, save, write_json

from segformer_jax import ImageError
from segformer_jax.data.formats import open_dataset
from segformer_jax.data.formats.brush_rle import decode_brush

# pycocotools 2.0.11, which NumPy 2 copies for
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
SIZE = (48, 64)
BOX = [20, 10, 49, 10, 49, 29, 20, 29]  # in pixels: x, y, x, y, …
FREE = [3.2, 4.6, 40.2, 9.8, 30.4, 40.2, 12.8, 33.4]  # not where pycocotools rounds halves

# encode_rle of label-studio-converter 0.0.59, of 4×5 pixels: [1:3, 1:] is 255, [0, 2] is 100
BRUSH = [0, 0, 0, 80, 57, 27, 252, 224, 17, 178, 91, 0, 191, 255, 24, 5, 255, 252, 38, 0]
# likewise, of 2×2 pixels: [0, 1] is (9, 8, 7, 255), which makes single values
COLOURS = [0, 0, 0, 16, 57, 27, 252, 96, 0, 4, 128, 16, 0, 56, 31, 243, 128, 0]


def region(kind, value, label="crack", **more):
    whole = {"original_width": SIZE[1], "original_height": SIZE[0], "image_rotation": 0}
    return {"type": kind, "value": value | {kind: [label]}} | whole | more


def polygon(points, label="crack", **more):
    pairs = zip(points[::2], points[1::2], strict=True)
    percent = [[100 * x / SIZE[1], 100 * y / SIZE[0]] for x, y in pairs]
    return region("polygonlabels", {"points": percent, "closed": True}, label, **more)


def task(regions, image="/data/upload/1/0a1b2c3d-a%20b.jpg", **more):
    annotation = {"id": 1, "completed_by": 1, "result": regions, "was_cancelled": False}
    return {"id": 7, "annotations": [annotation], "data": {"image": image}} | more


def labelstudio(root, tasks, *, name="a b.jpg", file="project-1.json"):
    save(photo(0, SIZE), root / name)
    write_json(tasks, root / file)
    return root


def test_polygons_are_drawn_as_pycocotools_draws_them(tmp_path):
    api = pytest.importorskip("pycocotools.mask")
    regions = [polygon(FREE, "wall"), polygon(BOX)]
    dataset = open_dataset(labelstudio(tmp_path, [task(regions)]))
    assert dataset.id2label == {0: "background", 1: "crack", 2: "wall"}
    assert dataset.recognised == "Label Studio's JSON, 3 classes from the labels of all tasks"
    expected = np.zeros(SIZE, np.uint8)
    for value, points in ((2, FREE), (1, BOX)):
        expected[api.decode(api.frPyObjects([points], *SIZE))[..., 0] > 0] = value
    assert np.array_equal(dataset.mask(0), expected)
    assert (expected[10:29, 20:49] == 1).all()  # half-open, as pycocotools has it


def test_rectangles_turned_or_not(tmp_path):
    wide = {"x": 0, "y": 25, "width": 50, "height": 25}  # 32×12 pixels at (0, 12)
    high = {"x": 100, "y": 0, "width": 75, "height": 12.5, "rotation": 90}  # 48×6, turned: 6×48
    regions = [region("rectanglelabels", wide), region("rectanglelabels", high, "wall")]
    mask = open_dataset(labelstudio(tmp_path, [task(regions)])).mask(0)
    expected = np.zeros(SIZE, np.uint8)
    expected[12:24, :32] = 1
    expected[:, 58:] = 2
    assert np.array_equal(mask, expected)


def test_brushes_are_decoded_as_label_studio_encodes_them(tmp_path):
    brush = np.zeros((4, 5), np.uint8)
    brush[1:3, 1:] = 255
    brush[0, 2] = 100  # a soft edge, below half of the opacity
    assert np.array_equal(decode_brush(BRUSH, size=(4, 5)), brush)
    assert decode_brush(COLOURS, size=(2, 2)).tolist() == [[0, 255], [0, 0]]
    whole = {"original_width": 5, "original_height": 4}
    drawn = region("brushlabels", {"format": "rle", "rle": BRUSH}, **whole)
    mask = open_dataset(labelstudio(tmp_path, [task([drawn])])).mask(0)
    assert np.array_equal(mask, brush == 255)


def test_a_run_of_different_values():
    values = [10, 20, 30, 40, 50, 60, 70, 80]  # two pixels in one run: 0, its length, its values
    bits = f"{8:032b}{7:05b}" + "0010" * 4 + "0" + "00" + f"{7:03b}"
    bits += "".join(f"{value:08b}" for value in values)
    stream = int(bits.ljust(8 * math.ceil(len(bits) / 8), "0"), 2).to_bytes(-(-len(bits) // 8))
    assert decode_brush(list(stream), size=(1, 2)).tolist() == [[40, 80]]


@pytest.mark.parametrize(
    ("rle", "message"),
    [
        ([], "its run lengths are cut off"),
        (BRUSH[:-3], "its run lengths are cut off"),
        ([0, 0, 0, 81, *BRUSH[4:]], "it has 81 values, but its picture 80"),
        ([*BRUSH[:4], 0, *BRUSH[5:]], "its values have 1 bits instead of 8"),
        ([*BRUSH[:7], *[255] * 9], "its runs are longer than its picture"),
        ([300], "must be in range"),
        (10**12, "its run lengths must be a list, got int"),
    ],
)
def test_a_damaged_brush_is_named(tmp_path, rle, message):
    drawn = region("brushlabels", {"rle": rle}, original_width=5, original_height=4)
    dataset = open_dataset(labelstudio(tmp_path, [task([drawn])]))
    with pytest.raises(ImageError, match=rf"1\.json, a b\.jpg: region 1, brushlabels, .*{message}"):
        dataset.mask(0)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (polygon(BOX[:4]), "three or more points"),
        (region("polygonlabels", {"points": [["x", 1]] * 3}), "could not convert"),
        (polygon(BOX, image_rotation=90), "its picture was turned in Label Studio"),
        (polygon(BOX, original_width=10**9), "a picture of 1000000000×48 pixels"),
        (polygon(BOX, original_width=65), "another size"),
        (region("ellipselabels", {"x": 1, "y": 1, "radiusX": 5, "radiusY": 5}), "only polygons"),
        ({**polygon(BOX), "value": {"points": []}}, "it must have one label, got none"),
        ({"type": "polygonlabels", "value": polygon(BOX)["value"]}, "it has no 'original_height'"),
    ],
)
def test_a_region_that_cannot_be_drawn_is_named(tmp_path, wrong, message):
    dataset = open_dataset(labelstudio(tmp_path, [task([polygon(BOX), wrong])]))
    with pytest.raises(
        ImageError, match=rf"1\.json, a b\.jpg: region 2, .*can't be.*: .*{message}"
    ):
        dataset.mask(0)


def test_the_first_annotation_that_is_not_cancelled_counts(tmp_path):
    both = task([polygon(FREE, "other")])
    both["annotations"][0]["was_cancelled"] = True
    choice = {"type": "choices", "value": {"choices": ["good"]}}
    both["annotations"] += [{"result": [choice, polygon(BOX)]}, {"result": []}]
    cancelled = task([polygon(BOX)], annotations=[{"result": [], "was_cancelled": True}])
    empty = task([])
    dataset = open_dataset(labelstudio(tmp_path, [both, cancelled, empty]))
    assert dataset.recognised.startswith(
        "Label Studio's JSON (tasks of several annotations, of which the first counts: 1), "
    )
    assert list(dataset.id2label.values()) == ["background", "crack"]
    assert dataset.mask(0).sum() == 19 * 29
    with pytest.raises(ImageError, match="has no mask"):
        dataset.mask(1)
    assert not dataset.mask(2).any()
    assert dataset.mask(2).shape == SIZE


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("/data/upload/1/0a1b2c3d-a.jpg", "0a1b2c3d-a.jpg"),
        ("/data/local-files/?d=photos/a%20b.jpg", "photos/a b.jpg"),
        ("s3://bucket/a.jpg?x=1", "a.jpg"),
        ("C:\\photos\\a.jpg", "a.jpg"),
    ],
)
def test_pictures_are_found_by_their_file_names(tmp_path, address, name):
    labelstudio(tmp_path, [task([polygon(BOX)], address)], name=name)
    assert open_dataset(tmp_path).pictures == (tmp_path / name,)
    save(photo(1, SIZE), tmp_path / "c" / Path(name).name)
    if "photos/" in name:  # the address has its folder too
        assert open_dataset(tmp_path).pictures == (tmp_path / name,)
    else:
        with pytest.raises(ValueError, match=r"must hold one .*a\.jpg, got several"):
            open_dataset(tmp_path)


def test_splits_share_their_classes_and_the_users_list_wins(tmp_path):
    labelstudio(tmp_path / "train", [task([polygon(BOX, "b")])])
    labelstudio(tmp_path / "val", [task([polygon(BOX, "a")])])
    for dataset in (open_dataset(tmp_path, split="val"), open_dataset(tmp_path / "val")):
        assert list(dataset.id2label.values()) == ["background", "a", "b"]
    write_json({"0": "b", "1": "background", "2": "a"}, tmp_path / "id2label.json")
    assert set(np.unique(open_dataset(tmp_path, split="val").mask(0))) == {1, 2}


def test_damaged_exports_are_named(tmp_path):
    for wrong, message in [
        ([task([{"value": {}}])], "not an export of Label Studio: KeyError"),
        ([{"annotations": None, "data": {}}], "not an export of Label Studio"),
        ([task([], "no picture")], r"task 7 names no picture"),
        ([task([], "../../secret.jpg")], r"must hold the pictures that .* names.*secret\.jpg"),
        ([task([region("polygonlabels", {}, 3)])], "labels must be a list of names"),
    ]:
        with pytest.raises(ValueError, match=message):
            open_dataset(labelstudio(tmp_path, wrong))
    file = tmp_path / "project-1.json"
    file.write_text(file.read_text()[:-5])
    with pytest.raises(ValueError, match=r"project-1\.json can't be read as JSON"):
        open_dataset(tmp_path)
