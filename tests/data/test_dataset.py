import pickle
from pathlib import Path

import numpy as np
import pytest
from data.folders import labels, save, write_folder, write_json
from PIL import Image

from segformer_jax import ImageError
from segformer_jax.data.dataset import joined
from segformer_jax.data.formats import open_dataset

STREET = Path(__file__).resolve().parents[2] / "examples" / "street.jpg"


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


def street(root, *, size=(644, 480), orientation=1):
    """A data set of the street in a JPEG of another size (width, height), with its mask."""
    (root / "train" / "images").mkdir(parents=True)
    (root / "train" / "masks").mkdir()
    exif = Image.Exif()
    exif[0x0112] = orientation
    with Image.open(STREET) as image:
        image.resize(size).save(root / "train" / "images" / "a.jpg", quality=95, exif=exif)
    upright = size if orientation < 5 else size[::-1]
    save(labels(0, size=upright[::-1]), root / "train" / "masks" / "a.png")
    write_json({"0": "a", "1": "b", "2": "c"}, root / "id2label.json")
    return open_dataset(root, split="train")


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize(
    ("divisor", "decoded"), [(1, 1), (1.9, 1), (2, 2), (3, 2), (4, 4), (7, 4), (8, 8), (50, 8)]
)
def test_a_draft_is_the_smallest_size_that_suffices(divisor, decoded, orientation, tmp_path):
    dataset = street(tmp_path, orientation=orientation)
    asked = []

    def needed(size):
        asked.append(size)
        return tuple(max(1, int(side / divisor)) for side in size)

    whole, mask = dataset.pair(0)
    draft, own_mask = dataset.pair(0, needed=needed)
    assert asked == [whole.size[::-1]]
    assert draft.size == tuple(-(-side // decoded) for side in whole.size)
    assert np.array_equal(own_mask, mask)
    if decoded == 1:
        assert np.array_equal(draft, whole)
    else:  # the mean over the decoded block of pixels, but for the rounding of JPEG's own steps
        box = (0, 0, *(side // decoded * decoded for side in whole.size))
        mean = np.asarray(whole.crop(box).reduce(decoded), int)
        difference = np.asarray(draft)[: mean.shape[0], : mean.shape[1]] - mean
        assert np.abs(difference).mean() < 3


def test_only_jpegs_have_drafts_and_other_sizes_are_still_named(tmp_path):
    dataset = street(tmp_path)
    save(labels(0, size=(240, 322)), tmp_path / "train" / "masks" / "a.png")
    with pytest.raises(ImageError, match=r"masks/a\.png is 322×240, its picture 644×480"):
        dataset.pair(0, needed=lambda size: (60, 80))
    file = tmp_path / "train" / "images" / "a.jpg"
    file.write_bytes(file.read_bytes()[:9000])
    with pytest.raises(ImageError, match=r"images/a\.jpg: the image is damaged"):
        dataset.pair(0, needed=lambda size: (60, 80))
    pictures = open_dataset(write_folder(tmp_path / "png"), split="train")
    assert np.array_equal(pictures.pair(0, needed=lambda size: (3, 4))[0], pictures.pair(0)[0])
