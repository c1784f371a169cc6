"""Detects files that are not weights, as a failed download leaves them, and names their kind."""

from pathlib import Path

from segformer_jax.errors import WeightsError

LFS_POINTER = b"version https://git-lfs.github.com/spec/"
WEB_PAGE = (b"<!doctype html", b"<html", b"<head", b"<?xml")
START = 512  # bytes in which a file shows that it is one of these


def check_is_no_stand_in(file: Path) -> None:
    """Raises an error if a file can't be what its name says.

    Raises:
        WeightsError: it is empty, a pointer of Git LFS, or a web page.
    """
    with open(file, "rb") as opened:
        start = opened.read(START)
    if not start:
        raise WeightsError(f"{file} must hold data, got an empty file: download or save it again")
    if start.startswith(LFS_POINTER):
        raise WeightsError(
            f"{file} must hold the data itself, got a Git LFS pointer to it: run git lfs pull in "
            "its repository, or download the file from its page"
        )
    if start.removeprefix(b"\xef\xbb\xbf").lstrip().lower().startswith(WEB_PAGE):
        raise WeightsError(
            f"{file} must hold data, got a web page, such as a log-in or an error: open the "
            "address in a browser, and download the file itself (on the hub, its /resolve/ address)"
        )
