"""The folder that a command writes to."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from segformer_jax.atomic import writable_folder


@contextlib.contextmanager
def output_folder(folder: Path) -> Iterator[None]:
    """The folder, created if missing, and removed if it is new and nothing was written there."""
    new = not folder.exists()
    writable_folder(folder)
    try:
        yield
    finally:
        if new:
            with contextlib.suppress(OSError):  # it holds files
                folder.rmdir()
