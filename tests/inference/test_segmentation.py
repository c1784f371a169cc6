import json

import numpy as np
import pytest
from PIL import Image

from segformer_jax import Segmentation

NAMES = {0: "sky", 1: "building", 2: "pole", 3: "road"}


@pytest.fixture
def result():
    class_map = np.array([[0, 0, 0, 1], [3, 3, 1, 1]], np.uint8)
    return Segmentation(class_map, NAMES, Image.new("RGB", (4, 2), (100, 110, 120)))


def test_areas_are_shares_largest_first(result):
    assert result.areas() == {"sky": 3 / 8, "building": 3 / 8, "road": 2 / 8}
    assert list(result.areas()) == ["sky", "building", "road"]


def test_masks_go_by_name_or_index(result):
    assert np.array_equal(result.mask("road"), [[0, 0, 0, 0], [1, 1, 0, 0]])
    assert np.array_equal(result.mask(3), result.mask("road"))
    assert not result.mask("pole").any()
    with pytest.raises(
        ValueError,
        match="must be a class of the model, got 'tree': it has sky, building, pole, road",
    ):
        result.mask("tree")


def test_classes_of_one_name_are_told_apart():
    names = {0: "other", 1: "road", 2: "other"}
    class_map = np.array([[0, 0, 1, 2]], np.uint8)
    result = Segmentation(class_map, names, Image.new("RGB", (4, 1)))
    assert result.areas() == {"other (0)": 0.5, "road": 0.25, "other (2)": 0.25}
    assert [row["label"] for row in result.to_dict()["classes"]] == list(result.areas())
    assert np.array_equal(result.mask("other"), [[True, True, False, True]])
    assert np.array_equal(result.mask("other (2)"), [[False, False, False, True]])


def test_the_list_is_that_of_the_pipeline(result):
    entries = result.to_list()
    assert [(entry["label"], entry["score"]) for entry in entries] == [
        ("sky", None), ("building", None), ("road", None),
    ]  # fmt: skip
    assert entries[2]["mask"].mode == "L"
    assert np.array_equal(np.asarray(entries[2]["mask"]) == 255, result.mask("road"))


def test_an_overlay_goes_from_the_photo_to_the_colours(result):
    photo, colours = (np.asarray(result.overlay(alpha=alpha), int) for alpha in (0.0, 1.0))
    assert np.array_equal(photo, np.asarray(result.image))
    middle = np.asarray(result.overlay(alpha=0.5), int)
    assert np.abs(middle - (photo + colours) / 2).max() <= 1
    assert len(np.unique(colours.reshape(-1, 3), axis=0)) == 3
    with pytest.raises(ValueError, match="alpha"):
        result.overlay(alpha=1.5)


def test_every_ending_holds_what_it_says(result, tmp_path):
    for name in ("a.png", "a.overlay.png", "a.jpg", "a.npy", "a.json"):
        result.save(tmp_path / "new" / name)
    folder = tmp_path / "new"
    with Image.open(folder / "a.png") as mask:
        assert mask.mode == "P"
        assert np.array_equal(np.asarray(mask), result.class_map)
    with Image.open(folder / "a.overlay.png") as overlay:
        assert np.array_equal(np.asarray(overlay), result.overlay())
    with Image.open(folder / "a.jpg") as picture:
        assert picture.format == "JPEG"
    assert np.array_equal(np.load(folder / "a.npy"), result.class_map)
    saved = json.loads((folder / "a.json").read_text())
    assert saved["classes"][0] == {"id": 0, "label": "sky", "share": 0.375, "pixels": 3}
    assert sorted(file.name for file in folder.iterdir()) == sorted(
        ["a.png", "a.overlay.png", "a.jpg", "a.npy", "a.json"]
    )


def test_an_unknown_ending_leaves_nothing_behind(result, tmp_path):
    with pytest.raises(ValueError, match=r"must end in \.overlay\.png"):
        result.save(tmp_path / "a.gif")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_takes_no_files_is_a_value_error(result, tmp_path):
    (tmp_path / "file.jpg").touch()
    for folder in (tmp_path / "file.jpg", "/proc/x/x"):
        with pytest.raises(ValueError, match=f"the output folder .*{folder}"):
            result.save(f"{folder}/x.png")


def test_a_label_without_a_name_has_its_number():
    result = Segmentation(np.full((2, 2), 9, np.uint8), NAMES, Image.new("RGB", (2, 2)))
    assert result.areas() == {"LABEL_9": 1.0}
