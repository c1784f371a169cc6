import numpy as np
import pytest
from data.folders import labels, photo, save, write_folder, write_json
from PIL import Image

from segformer_jax.data.dataset import IGNORED
from segformer_jax.data.formats import open_dataset


def test_a_folder_is_read_in_the_order_of_its_names(tmp_path):
    dataset = open_dataset(write_folder(tmp_path), split="train")
    assert dataset.names == ("a", "b", "c", "d", "e")
    assert dataset.id2label == {0: "class 0", 1: "class 1", 2: "class 2"}
    for index in range(len(dataset)):
        image, mask = dataset.pair(index)
        assert np.array_equal(image, photo(index))
        assert np.array_equal(mask, labels(index))


def test_the_folder_of_one_split_is_a_data_set_too(tmp_path):
    write_folder(tmp_path, split="holdout", count=2)
    assert open_dataset(tmp_path / "holdout").names == ("a", "b")
    assert open_dataset(str(tmp_path / "holdout"), layout="folder").names == ("a", "b")


@pytest.mark.parametrize(("there", "asked"), [("validation", "val"), ("train", "training")])
def test_splits_go_by_their_customary_names(tmp_path, there, asked):
    write_folder(tmp_path, split=there, count=1)
    assert len(open_dataset(tmp_path, split=asked)) == 1
    assert len(open_dataset(tmp_path / there)) == 1


def test_two_splits_are_read_one_after_the_other(tmp_path):
    write_folder(tmp_path, split="train", count=2)
    write_folder(tmp_path, split="val", count=1)
    dataset = open_dataset(tmp_path, split="train+val")
    assert len(dataset) == len(set(dataset.names)) == 3
    assert [path.parent.parent.name for path in dataset.pictures] == ["train", "train", "val"]


def test_pictures_of_other_kinds_pair_by_stem_and_other_files_are_left_out(tmp_path):
    write_folder(tmp_path, count=1)
    images = tmp_path / "train" / "images"
    save(photo(7), images / "z.JPG", format="JPEG")
    save(labels(7), tmp_path / "train" / "masks" / "z.tif")
    (images / "Thumbs.db").write_bytes(b"")
    (images / "._a.png").write_bytes(b"")
    assert open_dataset(tmp_path, split="train").names == ("a", "z")


def test_a_picture_turned_by_its_exif_fits_an_upright_mask(tmp_path):
    write_folder(tmp_path, count=1)
    exif = Image.Exif()
    exif[0x0112] = 6
    save(photo(0).transpose(1, 0, 2), tmp_path / "train" / "images" / "a.png", exif=exif)
    assert open_dataset(tmp_path, split="train").pair(0)[1].shape == (24, 32)


def test_ignored_zero_and_colours_work_in_a_folder(tmp_path):
    write_folder(tmp_path, count=1, classes=3)
    write_json({"0": "one", "1": "two"}, tmp_path / "id2label.json")
    mask = open_dataset(tmp_path, split="train", reduce_zero_label=True).mask(0)
    assert np.array_equal(mask, np.where(labels(0) == 0, IGNORED, labels(0).astype(int) - 1))
    colours = np.array([[9, 9, 9], [200, 0, 0], [0, 200, 0]], np.uint8)
    save(colours[labels(0)], tmp_path / "train" / "masks" / "a.png")
    palette = {"ignore": [9, 9, 9], "one": [200, 0, 0], "two": [0, 200, 0]}
    write_json(palette, tmp_path / "palette.json")
    assert np.array_equal(open_dataset(tmp_path, split="train").mask(0), mask)


def test_ade20k_ignores_zero(tmp_path):
    root = tmp_path / "ADEChallengeData2016"
    for split, name in (("training", "t"), ("validation", "v")):
        save(photo(0), root / "images" / split / f"{name}.jpg")
        save(np.full((24, 32), 150, np.uint8), root / "annotations" / split / f"{name}.png")
    for path, split in ((tmp_path, "val"), (root, "validation"), (root / "val", None)):
        dataset = open_dataset(path, split=split)
        assert dataset.names == ("v",)
    assert (dataset.id2label[0], dataset.id2label[149]) == ("wall", "flag")
    assert np.unique(dataset.mask(0)).tolist() == [149]
    again = open_dataset(root, split="train", layout="ade20k", reduce_zero_label=True)
    assert np.unique(again.mask(0)).tolist() == [149]


def test_cityscapes_label_ids_become_train_ids(tmp_path):
    save(photo(0), tmp_path / "leftImg8bit" / "val" / "ulm" / "ulm_0_0_leftImg8bit.png")
    values = np.array([[0, 7, 8, 33, 4, 29, 255, 23]], np.uint8)
    stem = tmp_path / "gtFine" / "val" / "ulm" / "ulm_0_0_gtFine"
    save(values, stem.with_name(stem.name + "_labelIds.png"))
    dataset = open_dataset(tmp_path, split="val")
    assert dataset.names == ("ulm_0_0",)
    assert dataset.mask(0).tolist() == [[255, 0, 1, 18, 255, 255, 255, 10]]
    assert (dataset.id2label[10], len(dataset.id2label)) == ("sky", 19)
    save(np.array([[18, 255]], np.uint8), stem.with_name(stem.name + "_labelTrainIds.png"))
    assert open_dataset(tmp_path, split="val").mask(0).tolist() == [[18, 255]]
    save(np.full((1, 1), 40, np.uint8), stem.with_name(stem.name + "_labelIds.png"))
    stem.with_name(stem.name + "_labelTrainIds.png").unlink()
    with pytest.raises(ValueError, match=r"labelIds\.png: the mask holds 40"):
        open_dataset(tmp_path, split="val").mask(0)


def test_pascal_voc_reads_the_listed_names(tmp_path):
    root = tmp_path / "VOCdevkit" / "VOC2012"
    for number, name in enumerate(("2007_1", "2007_2", "2007_3")):
        save(photo(number), root / "JPEGImages" / f"{name}.jpg")
        save(labels(number, classes=21), root / "SegmentationClass" / f"{name}.png")
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("2007_3\n2007_1\n")
    (lists / "val.txt").write_text("2007_2\n")
    dataset = open_dataset(tmp_path, split="train")
    assert dataset.names == ("2007_1", "2007_3")
    assert dataset.id2label[20] == "tvmonitor"
    assert np.array_equal(dataset.mask(1), labels(2, classes=21))
    with pytest.raises(ValueError, match="must not be used with Pascal VOC"):
        open_dataset(tmp_path, split="train", reduce_zero_label=True)


def test_what_is_no_data_set_is_told_what_was_looked_for(tmp_path):
    (tmp_path / "pictures").mkdir()
    with pytest.raises(ValueError, match=r"holds pictures/\nlooked for\n.*leftImg8bit(.|\n)*id2la"):
        open_dataset(tmp_path, split="train")
    with pytest.raises(ValueError, match=r"there is no folder .*nowhere"):
        open_dataset(tmp_path / "nowhere", split="train")
    with pytest.raises(
        ValueError, match=r"layout must be one of auto, cityscapes, ade20k.*, got 'coco'"
    ):
        open_dataset(tmp_path, layout="coco")
    with pytest.raises(ValueError, match="looked for\n  voc: JPEGImages"):
        open_dataset(tmp_path, layout="voc", split="train")


def test_a_wrong_split_is_told_what_there_is(tmp_path):
    write_folder(tmp_path, split="train")
    with pytest.raises(ValueError, match="has no split val or valid or validation; it has train"):
        open_dataset(tmp_path, split="val")
    with pytest.raises(ValueError, match="has several splits: choose one, train"):
        open_dataset(tmp_path)


def test_incomplete_folders_are_told_what_is_missing(tmp_path):
    write_folder(tmp_path, count=1)
    masks = tmp_path / "train" / "masks"
    masks.rename(tmp_path / "train" / "labels")
    with pytest.raises(ValueError, match=r"no folder .*masks"):
        open_dataset(tmp_path, split="train")
    masks.mkdir()
    with pytest.raises(
        ValueError, match=r"none of the 1 pictures in .* has a mask: the first is a"
    ):
        open_dataset(tmp_path, split="train")
    (tmp_path / "train" / "images" / "a.png").rename(tmp_path / "a.png")
    with pytest.raises(ValueError, match="there is no picture in"):
        open_dataset(tmp_path, split="train")


def test_two_pictures_of_one_name_are_refused(tmp_path):
    write_folder(tmp_path, count=1)
    save(photo(1), tmp_path / "train" / "images" / "a.jpg")
    with pytest.raises(ValueError, match=r"two files of one name, a\.jpg and a\.png: keep one"):
        open_dataset(tmp_path, split="train")


@pytest.mark.parametrize(
    ("name", "counts", "classes"), [("camvid", (367, 101, 233), 11), ("aerial", (54, 9), 5)]
)
def test_real_data_sets_open(shared, name, counts, classes):
    for split, count in zip(("train", "val", "test"), counts, strict=False):
        dataset = open_dataset(shared / "data" / name, split=split)
        assert (len(dataset), len(dataset.id2label)) == (count, classes)
        image, mask = dataset.pair(count - 1)
        assert image.size[::-1] == mask.shape
