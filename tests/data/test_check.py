import numpy as np
import pytest
from data.folders import labels, photo, save, write_folder, write_json
from PIL import Image

from segformer_jax.cli.check_data import check_data
from segformer_jax.data.check import check, examine, readable
from segformer_jax.data.formats import open_dataset
from segformer_jax.training.settings import TrainSettings
from segformer_jax.training.sources import open_run_data


def test_a_sound_data_set_is_surveyed(tmp_path):
    write_folder(tmp_path, count=4)
    save(photo(0, (8, 40)), tmp_path / "train" / "images" / "a.jpg")
    (tmp_path / "train" / "images" / "a.png").unlink()
    first = labels(0, (8, 40))
    first[0, :5] = 255
    save(first, tmp_path / "train" / "masks" / "a.png")
    survey = check(open_dataset(tmp_path, split="train"), threads=2)
    assert survey.sizes == ((8, 40), (24, 32), (24, 32), (24, 32))
    every = np.concatenate([first.ravel(), *(labels(number).ravel() for number in (1, 2, 3))])
    assert survey.class_pixels == tuple((every == index).sum() for index in range(3))
    assert survey.ignored_pixels == 5


def test_every_problem_is_listed_with_its_file(tmp_path):
    write_folder(tmp_path, count=5)
    images, masks = tmp_path / "train" / "images", tmp_path / "train" / "masks"
    (masks / "a.png").unlink()
    (images / "b.png").write_bytes(b"no picture")
    save(labels(2, (24, 30)), masks / "c.png")
    save(np.full((24, 32), 9, np.uint8), masks / "d.png")
    (masks / "e.png").write_bytes((masks / "e.png").read_bytes()[:150])
    save(labels(9), masks / "stray.png")
    with pytest.raises(ValueError, match="the data set has 6 problems") as raised:
        check(open_dataset(tmp_path, split="train"))
    lines = str(raised.value).splitlines()[1:]
    expected = [
        "images/a.png has no mask",
        "images/b.png is not a picture",
        "masks/c.png is 30×24, its picture 32×24",
        "masks/d.png: the mask holds 9; its classes are 0…2",
        "masks/e.png is damaged",
        "masks/stray.png has no picture",
    ]
    assert len(lines) == len(expected)
    for part, line in zip(expected, lines, strict=True):
        assert part in line


def test_more_than_twenty_problems_are_shortened(tmp_path):
    write_folder(tmp_path, count=1)
    for number in range(57):
        save(photo(1), tmp_path / "train" / "images" / f"x{number:02}.png")
    with pytest.raises(ValueError, match=r"57 problems") as raised:
        check(open_dataset(tmp_path, split="train"))
    lines = str(raised.value).splitlines()
    assert len(lines) == 22
    assert lines[-1] == "  … and 37 more"


def test_a_picture_turned_by_its_exif_has_its_upright_size(tmp_path):
    write_folder(tmp_path, count=1)
    exif = Image.Exif()
    exif[0x0112] = 8
    save(photo(0).transpose(1, 0, 2), tmp_path / "train" / "images" / "a.png", exif=exif)
    assert check(open_dataset(tmp_path, split="train")).sizes == ((24, 32),)


@pytest.mark.parametrize("orientation", [2, 3, 4])
def test_pictures_that_exif_turns_without_their_masks_are_told(tmp_path, orientation):
    write_folder(tmp_path, count=2)
    exif = Image.Exif()
    exif[0x0112] = orientation
    save(photo(0), tmp_path / "train" / "images" / "b.png", exif=exif)
    with pytest.warns(UserWarning, match=r"1 picture is turned upright by EXIF .*b\.png.*exiftool"):
        check(open_dataset(tmp_path, split="train"))
    save(labels(1), tmp_path / "train" / "masks" / "b.png", exif=exif)
    check(open_dataset(tmp_path, split="train"))  # both are turned


def test_a_mask_of_the_unturned_picture_is_told_of_exif(tmp_path):
    write_folder(tmp_path, count=1)
    exif = Image.Exif()
    exif[0x0112] = 6
    save(photo(0), tmp_path / "train" / "images" / "a.png", exif=exif)
    with pytest.raises(ValueError, match="fits the picture before EXIF orientation 6 turns it"):
        check(open_dataset(tmp_path, split="train"))


def test_palettes_in_another_order_are_refused_with_both_files(tmp_path):
    write_folder(tmp_path, count=3, classes=2)
    masks = tmp_path / "train" / "masks"
    for name, colours in (
        ("a", "\0\0\0\xff\0\0"),
        ("b", "\0\0\0\xff\0\0"),
        ("c", "\xff\0\0\0\0\0"),
    ):
        mask = Image.fromarray(labels(0, classes=2))
        mask.putpalette(colours.encode("latin-1"))
        mask.save(masks / f"{name}.png")
    with pytest.raises(ValueError, match=r"has a problem\n.*c\.png has the colour.*a\.png at"):
        check(open_dataset(tmp_path, split="train"))
    write_json({"0": [0, 0, 0], "1": [255, 0, 0]}, tmp_path / "palette.json")
    survey = check(open_dataset(tmp_path, split="train"))
    counts = np.bincount(labels(0, classes=2).ravel())
    assert survey.class_pixels == (2 * counts[0] + counts[1], 2 * counts[1] + counts[0])


def test_the_palettes_of_all_splits_must_agree(tmp_path, capsys):
    for split, colours in (("train", [0, 0, 0, 255, 0, 0]), ("val", [255, 0, 0, 0, 0, 0])):
        write_folder(tmp_path, split=split, count=1, classes=2)
        mask = Image.fromarray(labels(0, classes=2))
        mask.putpalette(bytes(colours))
        mask.save(tmp_path / split / "masks" / "a.png")
    settings = TrainSettings(data=str(tmp_path), out=str(tmp_path / "run"))
    wrong = "val/masks/a.png has the colour"
    with pytest.raises(ValueError, match=wrong):
        open_run_data(settings).check(progress=iter)
    assert check_data(str(tmp_path), count=0) == 1
    assert wrong in capsys.readouterr().err


def test_a_picture_that_is_cut_off_is_found_where_pictures_are_decoded(tmp_path):
    write_folder(tmp_path, count=3)
    (tmp_path / "train" / "images" / "b.png").unlink()
    file = save(photo(1), tmp_path / "train" / "images" / "b.jpg")
    file.write_bytes(file.read_bytes()[:-300])
    dataset = open_dataset(tmp_path, split="train")
    check(dataset)
    with pytest.raises(ValueError, match=r"has a problem\n.*b\.jpg is damaged"):
        check(dataset, whole=True)
    assert readable(dataset, whole=False) is dataset
    with pytest.warns(UserWarning, match=r"left out, 1 of 3 pairs:\n  .*b\.jpg is damaged"):
        assert readable(dataset, whole=True).names == ("a", "c")
    for name in "abc":
        (tmp_path / "train" / "masks" / f"{name}.png").write_bytes(b"")
    with pytest.raises(ValueError, match="no pair can be read: the data set has 3 problems"):
        readable(dataset, whole=False)


def test_a_png_that_is_cut_off_is_a_problem_with_its_name(tmp_path):
    """Pillow looks for EXIF behind the pixels of a PNG."""
    write_folder(tmp_path, count=2)
    file = tmp_path / "train" / "images" / "a.png"
    file.write_bytes(file.read_bytes()[:1500])
    with pytest.raises(ValueError, match=r"has a problem\n.*a\.png is damaged"):
        check(open_dataset(tmp_path, split="train"))


def test_a_wrong_mask_is_not_left_out_as_unreadable(tmp_path):
    write_folder(tmp_path, count=2)
    save(np.full((24, 32), 9, np.uint8), tmp_path / "train" / "masks" / "a.png")
    dataset = open_dataset(tmp_path, split="train")
    assert readable(dataset, whole=True) is dataset


def test_masks_without_any_label_are_refused(tmp_path):
    write_folder(tmp_path, count=1)
    save(np.full((24, 32), 255, np.uint8), tmp_path / "train" / "masks" / "a.png")
    with pytest.raises(ValueError, match="every pixel of the 1 masks is 255"):
        check(open_dataset(tmp_path, split="train"))


def test_progress_sees_every_pair(tmp_path):
    dataset = open_dataset(write_folder(tmp_path), split="train")
    seen = []

    def progress(pairs):
        for pair in pairs:
            seen.append(pair.size)
            yield pair

    check(dataset, progress=progress)
    assert seen == [(24, 32)] * 5
    assert [pair.problems for pair in examine(dataset)] == [()] * 5


def test_a_saved_data_set_is_checked_too(tmp_path):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Image()})
    rows = [
        {"image": Image.fromarray(photo(0)), "label": Image.fromarray(labels(0))},
        {"image": Image.fromarray(photo(1)), "label": None},
    ]
    datasets.Dataset.from_list(rows, features=features).save_to_disk(tmp_path / "one")
    write_json({"0": "a", "1": "b", "2": "c"}, tmp_path / "id2label.json")
    with pytest.raises(ValueError, match=r"has a problem\n.*row 1, label is empty"):
        check(open_dataset(tmp_path / "one"))


def test_real_masks_are_sound(shared):
    survey = check(open_dataset(shared / "data" / "camvid", split="val"))
    assert set(survey.sizes) == {(360, 480)}
    assert sum(survey.class_pixels) + survey.ignored_pixels == 101 * 360 * 480
    assert min(survey.class_pixels) > 0
