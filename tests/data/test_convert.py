"""What is written as folders or as COCO is read again as it was."""

import numpy as np
import pytest
from data.folders import labels, save, write_folder, write_json

from segformer_jax.data.convert import write_coco, write_folders
from segformer_jax.data.formats import open_splits

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def write(root, names=("road", "sky", "car")):
    for split, count in (("train", 3), ("val", 2)):
        write_folder(root, split=split, count=count, classes=max(2, len(names)))
    write_json(dict(enumerate(names)), root / "id2label.json")
    mask = labels(0, classes=max(2, len(names)))
    mask[:3] = 255
    save(mask, root / "train" / "masks" / "a.png")
    return open_splits(root)


@pytest.mark.parametrize("writer", [write_folders, write_coco])
@pytest.mark.parametrize("names", [("road", "sky", "car"), ("crack",)])
def test_pictures_masks_and_classes_come_back(tmp_path, writer, names):
    if writer is write_coco:
        pytest.importorskip("pycocotools")
    before = write(tmp_path / "in", names)
    lost = writer(before, tmp_path / "out")
    after = open_splits(tmp_path / "out")
    assert list(after) == ["train", "val"]
    for split, old in before.items():
        new = after[split]
        assert list(new.id2label.values())[-1] == names[-1]
        assert len(new) == len(old)
        for index in range(len(old)):
            (image, mask), (own, wanted) = new.pair(index), old.pair(index)
            assert np.array_equal(image, own)
            if lost:
                wanted = np.where(wanted == 255, 0, wanted)
            assert np.array_equal(mask, wanted)
    assert (lost or 0) == (3 * 32 if writer is write_coco and names == ("crack",) else 0)


def test_a_folder_that_holds_something_is_left_alone(tmp_path):
    before = write(tmp_path / "in")
    save(labels(0), tmp_path / "out" / "mine.png")
    with pytest.raises(ValueError, match="out"):
        write_folders(before, tmp_path / "out")
    assert (tmp_path / "out" / "mine.png").is_file()
