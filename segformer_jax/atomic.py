"""Writes files and folders completely or not at all."""

import contextlib
import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

LEFT_OVER = re.compile(r"\.(.+)\.[0-9a-f]{8}\.part")  # the temporary name of a file or folder


def temporary_name(name: str) -> str:
    """Returns a temporary name for `name`, cut so that it has at most 255 bytes."""
    while len(os.fsencode(name)) > 240:
        name = name[:-1]
    return f".{name}.{secrets.token_hex(4)}.part"


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`; it is renamed to `path` at the end, removed on errors.

    Args:
        path: the file to write, replaced if it exists; its folder is created if missing.

    Raises:
        ValueError: as `writable_folder`.
    """
    path = Path(path)
    temporary = writable_folder(path.parent) / temporary_name(path.name)
    # not `tempfile`: its files are readable by their owner alone, and the user's umask, which the
    # file should have, can be read only by a call that changes it for all threads
    file = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    mode = stat.S_IMODE(os.fstat(file).st_mode)
    os.close(file)
    try:
        yield temporary
        if stat.S_IMODE(temporary.stat().st_mode) != mode:  # safetensors replaces the file by one
            temporary.chmod(mode)  # that is readable by its owner alone
        os.replace(temporary, path)
    except BaseException:  # Ctrl-C too
        temporary.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def atomic_folder(
    path: str | Path, *, written: Callable[[Path], Collection[str]] = lambda folder: ()
) -> Iterator[Path]:
    """Yields a temporary folder beside `path`; it is renamed to `path` at the end.

    An existing folder is replaced if it is empty or holds only earlier results.

    Args:
        path: the folder to write; links are followed.
        written: returns the names of the files in a folder that are earlier results.

    Raises:
        ValueError: as `writable_folder`, or `path` is a file or holds other files.
    """
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise ValueError(
            f"the output folder must be a folder, got the file {path}: give another path"
        )
    _earlier_results(path, written)
    writable_folder(path.parent)
    path = Path(os.path.realpath(path))
    temporary, before = (writable_folder(path.parent) / temporary_name(path.name) for _ in range(2))
    temporary.mkdir()
    try:
        yield temporary
        names = _earlier_results(path, written)  # checked again: hours may have passed
        if path.exists():  # no system call replaces a folder that is not empty
            os.replace(path, before)
        try:
            os.replace(temporary, path)
        except BaseException:
            if before.exists():
                os.replace(before, path)
            raise
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    if before.exists():
        for name in names:
            (before / name).unlink()
        with contextlib.suppress(OSError):  # a file added at the last moment is kept
            before.rmdir()


def _earlier_results(folder: Path, written: Callable[[Path], Collection[str]]) -> list[str]:
    """Returns the names of all files in a folder; raises if any is not an earlier result."""
    entries = sorted(folder.iterdir()) if folder.is_dir() else []
    known = set(written(folder)) if entries else set()
    others = [entry.name for entry in entries if entry.name not in known or entry.is_dir()]
    if others:
        raise ValueError(
            f"the output folder {folder} must be new, empty or hold earlier results only, got one "
            f"with {', '.join(others[:3])}{f' and {len(others) - 3:,} more' * (len(others) > 3)}: "
            "give another folder; nothing in this one was changed"
        )
    return [entry.name for entry in entries]


def writable_folder(folder: str | Path) -> Path:
    """Returns the folder as a path; it is created if missing.

    Raises:
        ValueError: `folder` is a file, or can't be created or written.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except FileExistsError as error:
        raise ValueError(
            f"the output folder must be a folder, got the file {folder}: give another path"
        ) from error
    except OSError as error:
        raise ValueError(
            f"the output folder {folder} can't be written ({error}): check its "
            "permissions, or give another"
        ) from error
    return folder
