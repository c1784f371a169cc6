"""Creates the folder that a command writes to."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from segformer_jax.atomic import writable_folder


@contextlib.contextmanager
def output_folder(folder: Path) -> Iterator[None]:
    """Creates a folder if missing, and removes it at the end if it is new and still empty."""
    new = not folder.exists()
    writable_folder(folder)
    try:
        yield
    finally:
        if new:
            with contextlib.suppress(OSError):  # it is not empty
                folder.rmdir()
