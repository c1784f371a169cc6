import shutil
from typing import get_args

import numpy as np
import pytest
from data.folders import labels, photo, save, write_folder, write_json
from PIL import Image

from segformer_jax import ImageError
from segformer_jax.data.check import check
from segformer_jax.data.dataset import IGNORED
from segformer_jax.data.formats import FORMATS, open_dataset
from segformer_jax.data.splits import NoSplitError
from segformer_jax.training import settings


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
    assert open_dataset(str(tmp_path / "holdout"), format="folder").names == ("a", "b")


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
    again = open_dataset(root, split="train", format="ade20k", reduce_zero_label=True)
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


@pytest.mark.parametrize("masks", ["annotations", "masks", "labels"])
@pytest.mark.parametrize("folder", ["training", "train"])
def test_own_classes_in_the_folders_of_ade20k_are_not_taken_for_its(tmp_path, masks, folder):
    save(photo(0), tmp_path / "images" / folder / "a.jpg")
    save(labels(0, classes=2), tmp_path / masks / folder / "a.png")
    with pytest.raises(ValueError, match=r"there is no id2label\.json"):
        open_dataset(tmp_path, split="train")
    write_json({"0": "background", "1": "crack"}, tmp_path / "id2label.json")
    dataset = open_dataset(tmp_path, split="train")
    assert dataset.id2label == {0: "background", 1: "crack"}
    assert np.array_equal(dataset.mask(0), labels(0, classes=2))
    assert dataset.recognised == (
        f"images/{folder} and {masks}/{folder}, 2 classes from id2label.json"
    )


def test_a_class_file_wins_over_ade20ks_names_and_other_values_over_its_list(tmp_path):
    save(photo(0), tmp_path / "images" / "train" / "ADE_train_1.jpg")
    mask = save(labels(0, classes=2), tmp_path / "annotations" / "train" / "ADE_train_1.png")
    assert open_dataset(tmp_path, split="train").recognised == (
        "ADE20K, value 0 is ignored, 150 classes from ADE20K's own list"
    )
    save(np.full((24, 32), 151, np.uint8), mask)
    with pytest.raises(ValueError, match=r"ADE_train_1\.png holds 151, which ADE20K does not"):
        open_dataset(tmp_path, split="train")
    write_json({str(i): f"c{i}" for i in range(152)}, tmp_path / "id2label.json")
    assert (open_dataset(tmp_path, split="train").mask(0) == 151).all()


def test_mmsegmentations_folders_with_a_suffix_and_subfolders(tmp_path):
    (tmp_path / "classes.txt").write_text("a\nb\nc\n")
    for number, name in enumerate(("x", "deep/er/x")):
        save(photo(number), tmp_path / "img_dir" / "train" / f"{name}.jpg")
        save(labels(number), tmp_path / "ann_dir" / "train" / f"{name}_labelTrainIds.png")
    with pytest.raises(ValueError, match=r"has a mask.*--mask-suffix _labelTrainIds"):
        open_dataset(tmp_path, split="train")
    dataset = open_dataset(tmp_path, split="train", mask_suffix="_labelTrainIds")
    assert dataset.names == ("deep_er_x", "x")
    assert np.array_equal(dataset.mask(0), labels(1))
    assert not dataset.strays


@pytest.mark.parametrize("split", ["train", None])
def test_pictures_and_masks_in_one_folder_with_a_suffix(tmp_path, split):
    place = tmp_path / (split or "")
    write_json({"0": "a", "1": "b", "2": "c"}, tmp_path / "id2label.json")
    save(photo(0), place / "x.png")
    save(labels(0), place / "x_mask.png")
    dataset = open_dataset(tmp_path, split=split, mask_suffix="_mask")
    assert dataset.names == ("x",)
    assert np.array_equal(dataset.mask(0), labels(0))
    with pytest.raises(ValueError, match="holds no data set"):
        open_dataset(tmp_path, split=split)


def test_two_folders_of_masks_are_refused_but_not_one_of_polygons(tmp_path):
    write_folder(tmp_path, count=1)
    polygons = tmp_path / "train" / "labels" / "a.txt"  # YOLO's
    polygons.parent.mkdir()
    polygons.write_text("0 0.1 0.1 0.2 0.2 0.1 0.2")
    assert len(open_dataset(tmp_path, split="train")) == 1
    save(labels(0), polygons.with_suffix(".png"))
    with pytest.raises(ValueError, match="one folder of masks, got masks and labels"):
        open_dataset(tmp_path, split="train")


LABELMAP = "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncat:9,8,7::\ndog:3,2,1::\n"
COLOURS = np.array([[0, 0, 0], [9, 8, 7], [3, 2, 1]], np.uint8)


def write_cvat(root):
    """Two pictures, one with a blank in its name, which CVAT's list has in quotes."""
    for number, name in enumerate(("one", "the two")):
        save(photo(number), root / "JPEGImages" / f"{name}.png")
        save(COLOURS[labels(number)], root / "SegmentationClass" / f"{name}.png")
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "default.txt").write_text('one\n"the two"\n')
    (root / "labelmap.txt").write_text(LABELMAP)
    return root


def test_cvat_has_its_classes_and_colours_in_labelmap(tmp_path):
    dataset = open_dataset(write_cvat(tmp_path))
    assert dataset.recognised == "CVAT segmentation mask, 3 classes from labelmap.txt"
    assert dataset.names == ("one", "the two")
    for number in range(2):
        assert np.array_equal(dataset.mask(number), labels(number))
    with pytest.raises(NoSplitError, match="has no split train or training; it has default"):
        open_dataset(tmp_path, split="train")


def test_an_export_of_cvat_without_pictures_is_told(tmp_path):
    shutil.rmtree(write_cvat(tmp_path) / "JPEGImages")
    with pytest.raises(ValueError, match=r"must hold JPEGImages .*: export it with its pictures"):
        open_dataset(tmp_path)


def test_vocs_folders_with_own_classes_are_read_with_them(tmp_path):
    for number in range(2):  # as labelme2voc writes them: no lists, -1 as 255
        save(photo(number), tmp_path / "JPEGImages" / f"p{number}.jpg")
        save(labels(number), tmp_path / "SegmentationClass" / f"p{number}.png")
    with pytest.raises(ValueError, match="holds no data set of a format that is known"):
        open_dataset(tmp_path)
    (tmp_path / "class_names.txt").write_text("_background_\ncat\ndog\n")
    dataset = open_dataset(tmp_path)
    assert dataset.id2label == {0: "_background_", 1: "cat", 2: "dog"}
    assert np.array_equal(dataset.mask(1), labels(1))


def test_roboflows_masks_stand_beside_their_pictures(tmp_path):
    for split, number in (("train", 0), ("valid", 1)):
        save(photo(number), tmp_path / split / "a_jpg.rf.1.jpg")
        save(labels(number) * np.uint8(2), tmp_path / split / "a_jpg.rf.1_mask.png")
        csv = "Pixel Value, Class\n0, background\n2, cat\n4, dog\n"
        (tmp_path / split / "_classes.csv").write_text(csv)
    for path, split in ((tmp_path, "val"), (tmp_path / "valid", None)):
        dataset = open_dataset(path, split=split)
        assert dataset.names == ("a_jpg.rf.1",)
        assert np.array_equal(dataset.mask(0), labels(1))
        assert dataset.recognised.endswith("3 classes from _classes.csv")
    assert open_dataset(tmp_path, split="train").recognised.startswith("Roboflow semantic")


def test_two_formats_in_one_folder_need_a_word(tmp_path):
    write_cvat(tmp_path)
    write_folder(tmp_path, split="")
    with pytest.raises(ValueError, match=r"fits 2 formats: .*--format NAME\n  folder: .*\n  cvat"):
        open_dataset(tmp_path)
    assert len(open_dataset(tmp_path, format="folder")) == 5
    assert len(open_dataset(tmp_path, format="cvat")) == 2


def test_every_format_can_be_asked_for():
    assert get_args(settings.Format) == ("auto", *FORMATS)


def test_masks_of_another_size_are_resized_where_ratios_agree(tmp_path):
    write_folder(tmp_path, count=2)
    masks = tmp_path / "train" / "masks"
    save(labels(0)[::2, ::2], masks / "a.png")
    with pytest.raises(ImageError, match=r"a\.png is 16×12, its picture 32×24.*--resize-masks"):
        open_dataset(tmp_path, split="train").pair(0)
    dataset = open_dataset(tmp_path, split="train", resize_masks=True)
    assert np.array_equal(dataset.pair(0)[1], labels(0)[::2, ::2].repeat(2, 0).repeat(2, 1))
    assert check(dataset).sizes == ((24, 32), (24, 32))
    save(labels(0)[:, ::2], masks / "a.png")
    with pytest.raises(ImageError, match=r"16×24, its picture 32×24 \(width × height\)$"):
        dataset.pair(0)


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
    with pytest.raises(
        ValueError, match=r"holds pictures/; looked for\n  folder: .*id2label\.json\n  cvat: "
    ):
        open_dataset(tmp_path, split="train")
    with pytest.raises(ValueError, match=r"there is no folder .*nowhere"):
        open_dataset(tmp_path / "nowhere", split="train")
    with pytest.raises(ValueError, match=r"format must be one of auto, folder, cvat.*, got 'mine'"):
        open_dataset(tmp_path, format="mine")
    with pytest.raises(ValueError, match="looked for\n  voc: JPEGImages"):
        open_dataset(tmp_path, format="voc", split="train")


def test_a_wrong_split_is_told_what_there_is(tmp_path):
    write_folder(tmp_path, split="train")
    with pytest.raises(ValueError, match="has no split val or valid or validation; it has train"):
        open_dataset(tmp_path, split="val")
    with pytest.raises(ValueError, match="is divided into splits: choose one, train"):
        open_dataset(tmp_path)


def test_incomplete_folders_are_told_what_is_missing(tmp_path):
    write_folder(tmp_path, count=1)
    masks = tmp_path / "train" / "masks"
    masks.rename(tmp_path / "train" / "other")
    with pytest.raises(ValueError, match=r"no folder of masks beside .*call it masks \(or one"):
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
