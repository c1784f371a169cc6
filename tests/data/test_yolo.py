"""YOLO's polygons, compared with pycocotools."""

import numpy as np
import pytest
from data.folders import photo, save, write_json

from segformer_jax import ImageError
from segformer_jax.data.formats import open_dataset, open_splits

# pycocotools 2.0.11, which NumPy 2 copies for
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
SIZE = (48, 64)
BOX = [20, 10, 49, 10, 49, 29, 20, 29]  # in pixels: x, y, x, y, …
SMALL = [30, 15, 35, 15, 35, 20, 30, 20]
FREE = [3.2, 4.6, 40.2, 9.8, 30.4, 40.2, 12.8, 33.4]  # not where pycocotools rounds halves
NAMES = "names: [crack, spall]\nnc: 2\ntrain: images/train\n"


def line(index, polygon):
    return " ".join([str(index), *(str(c / SIZE[1 - i % 2]) for i, c in enumerate(polygon))])


def yolo(root, lines, *, images="images/train", labels="labels/train", name="a", listed=NAMES):
    save(photo(0, SIZE), root / images / f"{name}.jpg")
    (root / labels).mkdir(parents=True, exist_ok=True)
    (root / labels / f"{name}.txt").write_text("\n".join(lines))
    if listed is not None:
        (root / "data.yaml").write_text(listed)
    return root


@pytest.mark.parametrize("free", [False, True])
def test_polygons_are_drawn_as_pycocotools_draws_them(tmp_path, free):
    api = pytest.importorskip("pycocotools.mask")
    lines = [(0, SMALL), (1, BOX), *([(0, FREE)] if free else [])]
    dataset = open_dataset(yolo(tmp_path, [line(*own) for own in lines]), split="train")
    assert dataset.id2label == {0: "background", 1: "crack", 2: "spall"}
    assert dataset.recognised == "YOLO polygons, 3 classes from data.yaml"
    covered = [api.decode(api.frPyObjects([own], *SIZE))[..., 0] for _, own in lines]
    expected = np.zeros(SIZE, np.uint8)
    for number in sorted(range(len(lines)), key=lambda n: -int(covered[n].sum())):
        expected[covered[number] > 0] = lines[number][0] + 1
    mask = dataset.mask(0)
    assert np.array_equal(mask, expected)
    if not free:
        assert (mask[15:20, 30:35] == 1).all()  # the smaller is above the larger, though before it
        assert (mask[10:15, 20:49] == 2).all()
        assert (mask > 0).sum() == 19 * 29


@pytest.mark.parametrize(
    ("folders", "listed"),
    [
        (("images/{}", "labels/{}"), "names:\n  0: crack\n  1: spall\n"),
        (("images/{}2017", "labels/{}2017"), NAMES),
        (("{}/images", "{}/labels"), NAMES),
        (("images/{}", "labels/{}"), None),
    ],
)
def test_the_customary_folders_and_lists_of_names(tmp_path, folders, listed):
    for split in ("train", "val"):
        images, labels = (folder.format(split) for folder in folders)
        yolo(tmp_path, [line(0, BOX)], images=images, labels=labels, listed=listed)
    if listed is None:
        (tmp_path / "classes.txt").write_text("crack\nspall\n")
    write_json({"categories": [], "info": {}}, tmp_path / "notes.json")  # Label Studio's
    found = open_splits(tmp_path)
    assert list(found) == ["train", "val"]
    for dataset in found.values():
        assert list(dataset.id2label.values()) == ["background", "crack", "spall"]
        assert set(np.unique(dataset.mask(0))) == {0, 1}


def test_a_set_without_splits_and_the_users_own_classes(tmp_path):
    yolo(tmp_path, [line(1, BOX)], images="images", labels="labels")
    assert set(np.unique(open_dataset(tmp_path).mask(0))) == {0, 2}
    assert list(open_splits(tmp_path)) == ["all"]
    write_json({"0": "spall", "1": "background", "2": "crack"}, tmp_path / "id2label.json")
    assert set(np.unique(open_dataset(tmp_path).mask(0))) == {0, 1}


def test_pictures_without_labels_are_background_and_that_is_said(tmp_path):
    yolo(tmp_path, [line(0, BOX)])
    yolo(tmp_path, [], name="b")
    save(photo(1, SIZE), tmp_path / "images/train/c.jpg")
    dataset = open_dataset(tmp_path, split="train")
    assert "YOLO polygons (pictures without labels, all background: 1)" in dataset.recognised
    assert not dataset.mask(1).any()
    assert not dataset.mask(2).any()
    assert dataset.mask(2).shape == SIZE


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("0 0.5 0.5 0.2 0.2", "is a box: export polygons"),
        ("2" + " 0.5 0.1" * 3, "must begin with a class 0…1, got 2"),
        ("0.5" + " 0.5 0.1" * 3, "must begin with a class 0…1, got 0.5"),
        ("0" + " 0.5 0.1" * 2 + " 0.5", "must hold a class and three or more points"),
        ("0" + " 0.5 nan" * 3, "must hold a class and three or more points"),
        ("0" + " 0.5 x" * 3, "must hold a class and three or more points"),
        ("0" + " 10 20" * 3, r"must hold coordinates in \[0, 1\], got 10…20: divide"),
    ],
)
def test_a_line_that_is_no_polygon_is_named(tmp_path, wrong, message):
    dataset = open_dataset(yolo(tmp_path, [line(0, BOX), wrong]), split="train")
    with pytest.raises(ImageError, match=rf"line 2 of .*a\.txt {message}"):
        dataset.mask(0)


@pytest.mark.parametrize(
    ("listed", "message"),
    [
        ("names: [", r"data\.yaml can't be read as YAML"),
        ("names: [crack]\nnc: 2", r"nc in .*data\.yaml must be the number of names, 1, got 2"),
        ("names: {0: a, 2: b}", r"names in .*data\.yaml must be a list"),
        ("names: [a, a]", r"data\.yaml must give each class another name, got 'a' twice"),
        (f"names: {list(range(255))}", r"at most 255 classes .*got 256"),
        ("train: images", "must have a data.yaml with the names of the classes"),
    ],
)
def test_a_damaged_list_of_names_is_named(tmp_path, listed, message):
    with pytest.raises(ValueError, match=message):
        open_dataset(yolo(tmp_path, [line(0, BOX)], listed=listed), split="train")


def test_empty_and_foreign_labels_are_no_yolo(tmp_path):
    with pytest.raises(ValueError, match=r"looked for\n(?s:.*)  yolo: images/\{train,val\}"):
        open_dataset(yolo(tmp_path, ["", "a text"]), format="yolo")
    yolo(tmp_path, [line(0, BOX)], images="images/val", labels="labels/val")
    (tmp_path / "labels/val/a.txt").rename(tmp_path / "labels/val/b.txt")
    with pytest.raises(ValueError, match=r"none of the 1 pictures .* has a mask"):
        open_dataset(tmp_path, split="val")
