import os
import stat

import numpy as np
import pytest

from segformer_jax.atomic import atomic_folder, atomic_path, writable_folder
from segformer_jax.checkpoints.files import write_safetensors


def usual_rights() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def test_a_file_appears_whole_with_usual_rights(tmp_path):
    target = tmp_path / "new" / "file.txt"
    with atomic_path(target) as temporary:
        temporary.write_text("whole")
        assert not target.exists()
    assert target.read_text() == "whole"
    assert stat.S_IMODE(target.stat().st_mode) == usual_rights()
    assert list(target.parent.iterdir()) == [target]


def test_weights_can_be_read_by_whom_the_umask_lets(tmp_path):
    target = tmp_path / "model.safetensors"
    write_safetensors({"x": np.ones(2)}, target)
    assert stat.S_IMODE(target.stat().st_mode) == usual_rights()


def test_any_name_that_the_file_system_takes_can_be_written(tmp_path):
    file = tmp_path / ("ö" * 127)  # 254 of 255 bytes
    with atomic_path(file) as temporary:
        temporary.write_text("x", encoding="utf-8")
    assert [own.name for own in tmp_path.iterdir()] == [file.name]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_nothing_is_left_of_a_failure(tmp_path, error):
    target = tmp_path / "file.txt"
    target.write_text("before")

    def fail():
        with atomic_path(target) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(error):
        fail()
    assert target.read_text() == "before"
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_that_takes_no_files_is_a_value_error(tmp_path):
    (tmp_path / "file").touch()
    for folder, reason in (
        (tmp_path / "file", "must be a folder, got the file {folder}"),
        (tmp_path / "file" / "sub", "{folder} can't be written .*Not a directory"),
        ("/proc/x", "{folder} can't be written .*No such file"),
    ):
        with pytest.raises(ValueError, match="the output folder " + reason.format(folder=folder)):
            writable_folder(folder)
        with (
            pytest.raises(ValueError, match="the output folder " + reason.format(folder=folder)),
            atomic_path(f"{folder}/x.png"),
        ):
            pass


def test_a_folder_with_somebody_elses_files_is_refused_and_left_as_it_is(tmp_path):
    photos = tmp_path / "photos"
    (photos / "sub").mkdir(parents=True)
    (photos / "a.jpg").write_text("a photo")
    for own in ([], ["a.jpg"], ["a.jpg", "sub"]):
        with (
            pytest.raises(ValueError, match=r"photos must be new, empty .*sub: give another"),
            atomic_folder(photos, written=lambda _, own=own: own),
        ):
            pass
    assert (photos / "a.jpg").read_text() == "a photo"
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_a_file_that_came_while_the_folder_was_made_is_kept(tmp_path):
    folder = tmp_path / "masks"

    def late():
        with atomic_folder(folder) as part:
            (part / "0.png").touch()
            folder.mkdir()
            (folder / "a.jpg").touch()

    with pytest.raises(ValueError, match=r"with a.jpg: give another folder"):
        late()
    assert [path.name for path in folder.iterdir()] == ["a.jpg"]
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize("linked", [False, True])
def test_empty_folders_and_earlier_results_are_replaced(tmp_path, linked):
    folder = tmp_path / "masks"
    if linked:
        (tmp_path / "disk").mkdir()
        folder.symlink_to(tmp_path / "disk")
    for names in (["0.png", "1.png"], ["0.png"]):
        folder.mkdir(exist_ok=True)
        with atomic_folder(folder, written=lambda _: ["0.png", "1.png"]) as part:
            for name in names:
                (part / name).touch()
        assert sorted(path.name for path in folder.iterdir()) == names
    assert len(list(tmp_path.iterdir())) == 1 + linked
