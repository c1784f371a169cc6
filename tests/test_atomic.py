import os
import stat

import pytest

from segformer_jax.atomic import atomic_path, writable_folder


def test_a_file_appears_whole_with_usual_rights(tmp_path):
    target = tmp_path / "new" / "file.txt"
    with atomic_path(target) as temporary:
        temporary.write_text("whole")
        assert not target.exists()
    assert target.read_text() == "whole"
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(target.stat().st_mode) == 0o666 & ~mask
    assert list(target.parent.iterdir()) == [target]


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
        (tmp_path / "file", "is a file"),
        (tmp_path / "file" / "sub", "can't be written: .*Not a directory"),
        ("/proc/x", "can't be written: .*No such file"),
    ):
        with pytest.raises(ValueError, match=f"the output folder {folder} {reason}"):
            writable_folder(folder)
        with (
            pytest.raises(ValueError, match=f"the output folder {folder} {reason}"),
            atomic_path(f"{folder}/x.png"),
        ):
            pass
