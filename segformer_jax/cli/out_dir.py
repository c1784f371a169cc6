"""The folder that a command writes to."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from segformer_jax.atomic import writable_folder


@contextlib.contextmanager
def output_folder(folder: Path) -> Iterator[None]:
    """The folder, made when missing, and taken away where an error leaves a new one empty."""
    new = not folder.exists()
    writable_folder(folder)
    try:
        yield
    except BaseException:
        if new:
            with contextlib.suppress(OSError):  # it holds files
                folder.rmdir()
        raise
