"""Files that are there whole or not at all."""

import contextlib
import os
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
    folder = writable_folder(path.parent)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=folder)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp's files are for their owner alone
        os.replace(temporary, path)
    except BaseException:  # Ctrl-C too
        temporary.unlink(missing_ok=True)
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


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
