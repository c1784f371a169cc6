"""The pictures of a folder, a pattern or a list, and no other files."""

import os
import shutil
from pathlib import Path

import pytest
from PIL import Image

from segformer_jax.images.find import find_pictures, picture_endings


@pytest.fixture
def photos(tmp_path, monkeypatch) -> Path:
    """Three pictures, and what lies beside pictures."""
    monkeypatch.chdir(tmp_path)
    for name in ("b.jpg", "a/b.PNG", "a/deep/c.webp", ".hidden/d.jpg", ".e.jpg", "out/b.mask.png"):
        file = Path("photos", name)
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(file)
    for name in ("notes.txt", "film.mp4", "a/b.json", "scan.h5"):
        Path("photos", name).touch()
    return Path("photos")


def names(source, **options):
    return [found.name for found in find_pictures(source, **options)[1]]


def test_a_folder_is_searched_but_not_where_the_results_go(photos):
    root, found = find_pictures(photos, without=photos / "out")
    assert root == photos
    assert [own.name for own in found] == ["b", "a/b", "a/deep/c"]
    assert [own.file for own in found] == [
        photos / n for n in ("b.jpg", "a/b.PNG", "a/deep/c.webp")
    ]
    assert "out/b.mask" in names(photos)


def test_a_pattern_names_files_from_its_plain_part_on(photos):
    assert names("photos/**/*.jpg") == ["b"]
    assert names("photos/a/*.PNG") == ["b"]
    assert names(f"{photos.resolve()}/a/**/*.webp") == ["deep/c"]


def test_a_list_is_read_from_its_own_folder(photos, tmp_path):
    outside = tmp_path / "elsewhere" / "x.jpg"
    lines = ["# photos", "", "a/b.PNG", f"  {outside}  ", "../photos/b.jpg", "missing.jpg", "b.jpg"]
    (photos / "list.txt").write_text("\n".join(lines))
    root, found = find_pictures(photos / "list.txt")
    assert root == photos
    whole = os.path.splitext(outside.relative_to(outside.anchor))[0]
    assert [own.name for own in found] == ["a/b", whole, "b", "missing"]


def test_two_pictures_that_would_share_their_results_are_an_error(photos):
    shutil.copy(photos / "b.jpg", photos / "b.png")
    with pytest.raises(ValueError, match=r"b\.jpg and .*b\.png would both be written as b\.\*"):
        find_pictures(photos)
    assert names("photos/*.png") == ["b"]


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("photos/a/none", "is not a folder, glob pattern"),
        ("photos/*.gif", "no file fits the pattern"),
        ("empty", "empty holds no picture"),
        ("none.txt", r"there is no list file none\.txt"),
        ("empty.txt", "names no picture"),
        ("binary.txt", "can't be read as UTF-8 text"),
    ],
)
def test_nothing_to_do_is_an_error(photos, source, reason):
    Path("empty").mkdir()
    Path("empty.txt").write_text("# nothing\n\n")
    Path("binary.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=reason):
        find_pictures(source)


def test_endings_are_those_of_what_pillow_decodes(tmp_path):
    assert {".jpg", ".jpeg", ".png", ".tif", ".webp", ".bmp"} <= picture_endings()
    assert not {".h5", ".mpg", ".pdf", ".txt"} & picture_endings()
