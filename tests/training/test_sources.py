"""Several data sets are one: names decide, and every kind of mask arrives at the right class."""

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from data.folders import labels, photo, save, write_folder, write_json
from PIL import Image

from segformer_jax import ImageError
from segformer_jax.data.dataset import Dataset
from segformer_jax.data.formats import open_dataset
from segformer_jax.data.masks import Coding
from segformer_jax.images.labels import CLASS_SETS
from segformer_jax.training.settings import TrainSettings
from segformer_jax.training.sources import Source, open_run_data, union

COLOURS = [[10, 20, 30], [40, 50, 60], [70, 80, 90]]


def write(root: Path, *names: str, train: int = 3, val: int = 2, number: int = 0) -> Path:
    """A folder of the classes named, every one of them in every mask."""
    for split, count, first in (("train", train, number), ("val", val, number + 50)):
        for place in range(first, first + count):
            save(photo(place), root / split / "images" / f"{place}.png")
            mask = labels(place, classes=max(len(names), 2))
            save(mask, root / split / "masks" / f"{place}.png")
    write_json({str(index): name for index, name in enumerate(names)}, root / "id2label.json")
    return root


def write_ade20k(root: Path) -> Path:
    """One picture a split, half wall (1), half sky (3), a column of nothing (0)."""
    mask = np.full((24, 32), 1, np.uint8)
    mask[12:], mask[:, 0] = 3, 0
    for split in ("training", "validation"):
        save(photo(7), root / "images" / split / "ADE_1.jpg")
        save(mask, root / "annotations" / split / "ADE_1.png")
    return root


def run_data(*folders: Path, **settings):
    return open_run_data(TrainSettings(data=tuple(map(str, folders)), **settings))


def names_in(data: Dataset, index: int) -> np.ndarray:
    """The name of each pixel's class."""
    unused = ["?"] * (255 - len(data.id2label))
    return np.array([*data.id2label.values(), *unused, "ignored"])[data.mask(index)]


def iter_all(pairs):
    return pairs


def test_one_data_set_is_left_as_it_is(tmp_path):
    root = write(tmp_path / "a", "road", "sky")
    for data in (str(root), (str(root),)):
        opened = open_run_data(TrainSettings(data=data, data_weights=(3.0,)))
        alone = open_dataset(root, split="train")
        assert opened.training.masks == alone.masks
        assert (opened.training.names, opened.training.coding) == (alone.names, alone.coding)
        assert (opened.parts, opened.shares, opened.val_share) == ((), (), None)
        assert opened.notes == (
            f"{root}: train/images and train/masks, 2 classes from id2label.json",
        )
        assert opened.check(progress=iter_all).parts == ()


def test_classes_are_matched_by_name_in_the_order_of_first_appearance(tmp_path):
    first = write(tmp_path / "a", "Road", "sky", "car", train=2)
    second = write(tmp_path / "b", "tree", " CAR", "road ", train=2, number=10)
    data = run_data(first, second).training
    assert data.id2label == {0: "Road", 1: "sky", 2: "car", 3: "tree"}
    assert len(data) == 4
    for index, number in enumerate((0, 1)):
        assert (data.mask(index) == labels(number)).all()
    for index, number in enumerate((10, 11), 2):
        wanted = np.array(["tree", "car", "Road"])[labels(number)]
        assert (names_in(data, index) == wanted).all()
    assert run_data(second, first).training.id2label == {0: "tree", 1: " CAR", 2: "road ", 3: "sky"}


def test_a_list_that_holds_all_others_keeps_its_order(tmp_path):
    whole = write(tmp_path / "a", "sky", "road", "car")
    part = write(tmp_path / "b", "car", "sky")
    opened = run_data(whole, part)
    assert list(opened.training.id2label.values()) == ["sky", "road", "car"]
    assert opened.notes[2:] == (f"{part} lacks road",)


def test_255_stays_ignored_and_a_value_beyond_a_sources_own_classes_is_named(tmp_path):
    first = write(tmp_path / "a", "road", "sky", "car")
    second = write(tmp_path / "b", "car", "road")
    mask = labels(0, classes=2)
    mask[0] = 255
    save(mask, second / "train" / "masks" / "0.png")
    save(labels(1, classes=3), second / "train" / "masks" / "1.png")
    data = run_data(first, second).training
    wanted = np.array([2, 0], np.uint8)[mask.clip(max=1)]
    wanted[0] = 255
    assert (data.mask(3) == wanted).all()
    with pytest.raises(ImageError, match=r"b/train/masks/1\.png: the mask holds 2; .* are 0…1,"):
        data.mask(4)


def test_masks_in_colours_arrive_at_the_classes_of_all(tmp_path):
    first = write(tmp_path / "a", "road", "sky")
    second = write(tmp_path / "b", "tree", "sky", "road", train=1)
    palette = dict(zip(("tree", "sky", "road"), COLOURS, strict=True)) | {"ignore": [0, 0, 0]}
    write_json(palette, second / "palette.json")
    coloured = np.array(COLOURS, np.uint8)[labels(0)]
    coloured[0] = 0
    for split, number in (("train", 0), ("val", 50), ("val", 51)):
        save(coloured, second / split / "masks" / f"{number}.png")
    data = run_data(first, second).training
    assert data.id2label == {0: "road", 1: "sky", 2: "tree"}
    wanted = np.array([2, 1, 0], np.uint8)[labels(0)]
    wanted[0] = 255
    assert (data.mask(3) == wanted).all()


def test_other_layouts_and_reduced_labels_mix(tmp_path):
    first = write(tmp_path / "a", "sky", "lawn")
    second = write_ade20k(tmp_path / "ade")
    data = run_data(first, second).training
    assert list(data.id2label.values())[:2] == ["sky", "lawn"]
    assert len(data.id2label) == 151
    found = names_in(data, 3)
    assert (found[:, 0] == "ignored").all()
    assert (found[:12, 1:] == "wall").all()
    assert (found[12:, 1:] == "sky").all()
    opened = run_data(second, first)
    assert tuple(opened.training.id2label.values())[:150] == CLASS_SETS["ade20k"].names
    assert opened.notes[2] == f"{second} lacks lawn"


def test_a_saved_data_set_and_a_mask_in_a_table_mix(tmp_path):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Image()})
    row = {"image": Image.fromarray(photo(0)), "label": Image.fromarray(labels(0))}
    one = datasets.Dataset.from_list([row], features=features)
    datasets.DatasetDict({"train": one}).save_to_disk(tmp_path / "saved")
    write_json({"0": "c", "1": "b", "2": "a"}, tmp_path / "saved" / "id2label.json")
    opened = run_data(write(tmp_path / "a", "a", "b"), tmp_path / "saved")
    assert (opened.training.mask(3) == np.array([2, 1, 0])[labels(0)]).all()
    assert "not evaluated on" in opened.notes[-1]


def test_single_classes_of_one_name_stay_a_single_class(tmp_path):
    first, second = write(tmp_path / "a", "crack"), write(tmp_path / "b", "Crack", number=10)
    data = run_data(first, second).training
    assert (data.id2label, data.coding) == ({0: "crack"}, Coding(2))
    assert (data.mask(0) == labels(0, classes=2)).all()
    assert (data.mask(3) == labels(10, classes=2)).all()


@pytest.mark.parametrize("names", [("dent",), ("background", "crack"), ("road", "sky", "crack")])
def test_a_class_told_from_everything_else_does_not_mix_with_others(names, tmp_path):
    single, other = write(tmp_path / "a", "crack"), write(tmp_path / "b", *names)
    message = r"the class '\w+' alone, .* can't be matched with .*\"0\": \"background\", \"1\": \""
    for folders in ((single, other), (other, single)):
        with pytest.raises(ValueError, match=message):
            run_data(*folders)
    write_json({"0": "background", "1": "crack"}, single / "id2label.json")  # as it says
    if len(names) > 1:
        assert "background" in run_data(single, other).training.id2label.values()


def test_names_of_pairs_stay_unique_and_errors_name_files(tmp_path):
    first, second = write(tmp_path / "a", "road", "sky"), write(tmp_path / "b", "sky", "road")
    (second / "train" / "masks" / "0.png").unlink()
    save(labels(1, (24, 31), classes=2), second / "train" / "masks" / "1.png")
    data = run_data(first, second).training
    assert len(set(data.names)) == len(data) == 6
    with pytest.raises(ImageError, match=r"b/train/images/0\.png has no mask"):
        data.pair(3)
    with pytest.raises(ImageError, match=r"b/train/masks/1\.png is 31×24, its picture 32×24"):
        data.pair(4)


def test_it_travels_to_another_process(tmp_path):
    data = run_data(write(tmp_path / "a", "b", "a"), write(tmp_path / "b", "a", "b")).training
    copy = pickle.loads(pickle.dumps(data))
    assert (copy.mask(4) == data.mask(4)).all()


def test_more_than_255_classes_are_refused_and_255_are_not(tmp_path):
    def source(first: int, count: int) -> Source:
        id2label = {index: f"class {first + index}" for index in range(count)}
        return Source("x", Dataset((), id2label, (), (), Coding(count)))

    assert len(union([source(0, 200), source(100, 155)])) == 255
    with pytest.raises(
        ValueError, match=r"the 2 data sets must have at most 255 classes together, .* got 256"
    ):
        union([source(0, 200), source(100, 156)])


def test_a_name_twice_in_one_data_set_is_refused(tmp_path):
    folders = write(tmp_path / "a", "road", "sky"), write(tmp_path / "b", "sky", "Sky ")
    with pytest.raises(ValueError, match=r"b has two classes of the name 'sky'.*rename one"):
        run_data(*folders)
    run_data(folders[1])  # alone it is as it was


def test_a_missing_training_split_names_its_data_set(tmp_path):
    first, second = write(tmp_path / "a", "road", "sky"), write(tmp_path / "b", "sky", "road")
    (second / "train").rename(second / "test")
    with pytest.raises(ValueError, match=r"/b has no split train .*it has test, val"):
        run_data(first, second)


def test_a_data_set_without_the_validation_split_is_left_out_and_that_is_said(tmp_path):
    first = write(tmp_path / "a", "road", "sky", val=0)
    second = write(tmp_path / "b", "sky", "tree", number=10)
    opened = run_data(first, second)
    assert (len(opened.training), len(opened.validation)) == (6, 2)
    assert opened.validation.id2label == opened.training.id2label  # the model's
    assert (
        names_in(opened.validation, 0) == np.array(["sky", "tree"])[labels(60, classes=2)]
    ).all()
    assert opened.notes[2:] == (
        f"{first} lacks tree",
        f"{second} lacks road",
        f"not evaluated on {first}: {first} has no split val or valid or validation; it has train",
    )
    with pytest.raises(ValueError, match=r"/a has no split holdout"):
        run_data(first, second, val_split="holdout")


def test_without_a_validation_split_a_fifth_is_kept_for_it_and_that_is_said(tmp_path):
    root = write(tmp_path / "a", "road", "sky", train=10, val=0)
    opened = run_data(root)
    assert (len(opened.training), len(opened.validation), opened.val_share) == (8, 2, 0.2)
    assert not set(opened.training.names) & set(opened.validation.names)
    assert "2 of its 10 pictures are kept for that (--val-share 0.2, --seed 0)" in opened.notes[1]
    assert run_data(root).validation.names == opened.validation.names
    other = run_data(root, seed=1, val_share=0.5).validation.names
    assert len(other) == 5
    with pytest.raises(ValueError, match=r"must have at least 2 pictures.*got 1"):
        run_data(write(tmp_path / "b", "road", "sky", train=1, val=0))


def test_a_share_is_for_data_without_the_split(tmp_path):
    first = write(tmp_path / "a", "road", "sky", val=0)
    second = write(tmp_path / "b", "road", "sky", number=10)
    opened = run_data(first, second, val_share=0.4)
    assert (len(opened.training), len(opened.validation)) == (2 + 3, 1 + 2)
    with pytest.raises(ValueError, match=r"val_share must be left out where .* a split val .*got"):
        run_data(second, val_share=0.4)


def test_a_data_set_without_splits_is_all_to_train_on(tmp_path):
    root = write(tmp_path / "a", "road", "sky", train=5) / "train"
    opened = run_data(root)
    assert (len(opened.training), len(opened.validation)) == (4, 1)


def test_unreadable_files_are_left_out_of_both_splits(tmp_path):
    root = write(tmp_path / "a", "road", "sky")
    whole = (root / "val" / "images" / "50.png").read_bytes()
    (root / "val" / "images" / "50.png").write_bytes(whole[:1500])
    (root / "train" / "masks" / "1.png").write_bytes(b"")
    with pytest.warns(UserWarning, match="left out") as told:
        opened = run_data(root, skip_unreadable=True)
    assert len(told) == 2
    assert (opened.training.names, opened.validation.names) == (("0", "2"), ("51",))
    opened = run_data(root)
    with pytest.raises(ValueError, match=r"a problem\n.*1\.png is not a picture"):
        opened.check(progress=iter_all)
    (root / "train" / "masks" / "1.png").write_bytes((root / "train/masks/0.png").read_bytes())
    with pytest.raises(ValueError, match=r"a problem\n.*50\.png is damaged"):
        run_data(root).check(progress=iter_all)


def test_a_class_that_is_only_evaluated_is_refused(tmp_path):
    first, second = write(tmp_path / "a", "road", "sky"), write(tmp_path / "b", "sky", "road")
    write_json({"0": "sky", "1": "street"}, second / "val" / "id2label.json")
    with pytest.raises(ValueError, match="b has pictures to evaluate on with the classes street"):
        run_data(first, second)


def test_a_limit_takes_the_first_of_every_data_set(tmp_path):
    first = write(tmp_path / "a", "road", "sky", val=6)
    second = write(tmp_path / "b", "sky", "road", val=2, number=10)
    data = run_data(first, second, eval_limit=4).validation
    assert [Path(str(place)).parts[-4:-3] for place in data.pictures] == [("a",)] * 3 + [("b",)]
    assert len(run_data(first, second, eval_limit=100).validation) == 8
    assert len(run_data(first, second, eval_limit=1).validation) == 2


def test_the_survey_is_of_all_and_counts_as_often_as_pictures_are_drawn(tmp_path):
    first = write(tmp_path / "a", "road", "sky", train=1)
    second = write(tmp_path / "b", "sky", "tree", train=4, number=10)
    mask = labels(0, classes=2)
    mask[0] = 255
    save(mask, first / "train" / "masks" / "0.png")
    opened = run_data(first, second)
    survey = opened.check(progress=iter_all)
    one = np.bincount(mask.ravel(), minlength=256)
    two = sum(np.bincount(labels(10 + n, classes=2).ravel()) for n in range(4))
    assert (survey.sizes, survey.parts) == (((24, 32),) * 5, (1, 4))
    assert survey.class_pixels == (one[0], one[1] + two[0], two[1])
    assert survey.ignored_pixels == 32
    weighted = replace(opened, weights=(3.0, 1.0)).check(progress=iter_all)
    often = 5 * 3 / 4, 5 * 1 / 4 / 4  # of a picture of each while five are drawn
    wanted = (often[0] * one[0], often[0] * one[1] + often[1] * two[0], often[1] * two[1])
    np.testing.assert_allclose(weighted.class_pixels, wanted, atol=1)  # whole pixels
    assert weighted.ignored_pixels == often[0] * 32
    total = sum(weighted.class_pixels) + weighted.ignored_pixels
    assert total == pytest.approx(5 * 24 * 32, abs=4)


def test_single_classes_are_surveyed_as_everything_else_and_the_class(tmp_path):
    folders = write(tmp_path / "a", "crack"), write(tmp_path / "b", "crack", number=10)
    survey = run_data(*folders).check(progress=iter_all)
    masks = [labels(number, classes=2) for number in (0, 1, 2, 10, 11, 12)]
    assert survey.class_pixels == tuple(np.bincount(np.ravel(masks)))


def test_the_problems_of_all_data_sets_are_listed(tmp_path):
    first, second = write(tmp_path / "a", "road", "sky"), write(tmp_path / "b", "sky", "road")
    (first / "train" / "masks" / "0.png").unlink()
    for number in range(3):
        save(np.full((24, 32), 255, np.uint8), second / "train" / "masks" / f"{number}.png")
    with pytest.raises(ValueError, match=r"a: the data set has a problem") as raised:
        run_data(first, second).check(progress=iter_all)
    assert "a/train/images/0.png has no mask" in str(raised.value)
    assert f"{second}: the data set has a problem\n    every pixel of the 3 masks" in str(
        raised.value
    )


def test_weights_become_shares_and_are_said(tmp_path):
    first = write_folder(tmp_path / "a", count=2)
    second = write_folder(tmp_path / "b", count=3)
    for root in (first, second):
        write_folder(root, split="val", count=1)
    opened = run_data(first, second, data_weights=(1.0, 3.0))
    assert [(share.pictures, share.weight) for share in opened.shares] == [(2, 1), (3, 3)]
    assert opened.notes[2:] == (f"samples: 25.0% from {first}, 75.0% from {second}",)
    assert run_data(first, second).shares == ()
