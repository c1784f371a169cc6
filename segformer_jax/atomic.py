"""Files and folders that are there whole or not at all."""

import contextlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary name beside `path`; renamed to it at the end, removed if anything goes wrong.

    Args:
        path: the file to be, replaced if it exists; its folder is made when missing.

    Raises:
        ValueError: as `writable_folder`.
    """
    path = Path(path)
    temporary = writable_folder(path.parent) / f".{path.name}.{secrets.token_hex(4)}.part"
    # not `tempfile`, whose files are for their owner alone: what a user's umask is, only a call
    # tells that changes it, for all threads
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException:  # Ctrl-C too
        temporary.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """A temporary folder beside `path`, which takes its name and place at the end.

    Raises:
        ValueError: as `writable_folder`; `path` is a file.
    """
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise ValueError(f"the output folder {path} is a file; give a folder")
    temporary = writable_folder(path.parent) / f".{path.name}.{secrets.token_hex(4)}.part"
    temporary.mkdir()
    try:
        yield temporary
        if path.exists():  # no system call replaces a folder that holds something
            shutil.rmtree(path)
        os.replace(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def writable_folder(folder: str | Path) -> Path:
    """The folder, made when missing.

    Raises:
        ValueError: it is a file, or it can't be made or written into.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except FileExistsError as error:
        raise ValueError(f"the output folder {folder} is a file; give a folder") from error
    except OSError as error:
        raise ValueError(f"the output folder {folder} can't be written: {error}") from error
    return folder
