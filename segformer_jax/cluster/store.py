"""Reads pictures and writes results, in folders or in any store that pyarrow supports."""

import functools
import posixpath
import re
from pathlib import Path
from typing import Any

from segformer_jax.atomic import atomic_path

URI = re.compile(r"[a-z][a-z0-9+.-]+://")


def is_uri(place: str) -> bool:
    """Whether a place is a URI such as s3://… or gs://…, not a path or file:// on this machine."""
    return URI.match(place) is not None and not place.startswith("file://")


def absolute(place: str | Path) -> str:
    """Makes paths and file:// URIs absolute paths, valid in every worker; keeps other URIs."""
    place = str(place)
    return (
        place if is_uri(place) else str(Path(place.removeprefix("file://")).expanduser().absolute())
    )


def inside_store(place: str) -> str:
    """Returns a place as Ray writes it into its rows: a path, or a URI without its scheme."""
    return open_store(place)[1] if is_uri(place) else place


def is_folder(place: str) -> bool:
    """Whether a path or URI is a folder, which is searched for pictures."""
    if not is_uri(place):
        return Path(place).is_dir()
    from pyarrow.fs import FileType

    store, path = open_store(place)
    return store.get_file_info(path).type == FileType.Directory


def write(out: str, name: str, content: bytes) -> str:
    """Writes the file out/name, completely or not at all, and returns its path or URI."""
    if not is_uri(out):
        file = Path(out) / name
        with atomic_path(file) as temporary:
            temporary.write_bytes(content)
        return str(file)
    store, path = open_store(out)
    with store.open_output_stream(posixpath.join(path, name)) as stream:  # appears when closed
        stream.write(content)
    return f"{out.rstrip('/')}/{name}"


@functools.cache
def open_store(uri: str) -> tuple[Any, str]:
    """Returns the pyarrow file system of a URI, and the path in it.

    Raises:
        ValueError: pyarrow does not support the URI's scheme.
    """
    from pyarrow import ArrowInvalid
    from pyarrow.fs import FileSystem

    try:
        return FileSystem.from_uri(uri)
    except ArrowInvalid as error:
        raise ValueError(f"{uri} can't be opened: {error}") from error
