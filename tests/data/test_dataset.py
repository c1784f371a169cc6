import pickle

import pytest
from data.folders import labels, save, write_folder, write_json

from segformer_jax import ImageError
from segformer_jax.data.dataset import joined
from segformer_jax.data.formats import open_dataset


def test_a_missing_mask_a_damaged_picture_and_another_size_are_named(tmp_path):
    write_folder(tmp_path, count=3)
    images, masks = tmp_path / "train" / "images", tmp_path / "train" / "masks"
    (masks / "a.png").unlink()
    (images / "b.png").write_bytes((images / "b.png").read_bytes()[:200])
    save(labels(2, size=(24, 31)), masks / "c.png")
    dataset = open_dataset(tmp_path, split="train")
    with pytest.raises(ImageError, match=r"images/a\.png has no mask"):
        dataset.pair(0)
    with pytest.raises(ImageError, match=r"images/b\.png is damaged"):
        dataset.pair(1)
    with pytest.raises(ImageError, match=r"masks/c\.png is 31×24, its picture 32×24"):
        dataset.pair(2)


def test_labels_that_are_no_class_are_named_with_their_file(tmp_path):
    write_folder(tmp_path, count=1)
    write_json({"0": "all"}, tmp_path / "id2label.json")
    with pytest.raises(
        ImageError, match=r"^\S*masks/a\.png: the mask holds 2; its classes are 0…1"
    ):
        open_dataset(tmp_path, split="train").mask(0)


def test_data_sets_of_other_classes_are_not_joined(tmp_path):
    first = open_dataset(write_folder(tmp_path / "first"), split="train")
    second = open_dataset(write_folder(tmp_path / "second", classes=4), split="train")
    with pytest.raises(ValueError, match="must have the same classes and mask values to be joined"):
        joined([first, second])


def test_a_data_set_travels_to_another_process(tmp_path):
    dataset = open_dataset(write_folder(tmp_path), split="train")
    copy = pickle.loads(pickle.dumps(dataset))
    assert copy.names == dataset.names
    assert (copy.mask(1) == dataset.mask(1)).all()
