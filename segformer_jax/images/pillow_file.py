"""Opens picture files with Pillow; raises an `ImageError` that names the file for any problem."""

import contextlib
import io
import logging
import os
import struct
import warnings
from collections.abc import Generator, Mapping
from typing import IO, Any

from PIL import Image, ImageOps

from segformer_jax.errors import ImageError, ImageWarning

MAX_PIXELS = 178_956_970  # 512 MiB at 3 bytes per pixel; above, Pillow's Image.open raises too
# the errors from which Pillow's Image.open, too, concludes that a file is of another format
NOT_THIS_KIND = (SyntaxError, IndexError, TypeError, KeyError, struct.error)
HEIC_BRANDS = {b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"hevm", b"hevs"}
HEIC_ENDINGS = (".heic", ".heics", ".heif", ".heifs", ".hif")
NOT_PAGES = ("MPO", "ICO", "ICNS", "CUR")  # previews and other sizes of one picture
# Tags of a TIFF: bits of a sample, samples of a pixel, smallest and largest value, kinds of samples
BITS, SAMPLES, LEAST, MOST, EXTRA_SAMPLES = 258, 277, 280, 281, 338
SUBFILE, SMALLER_OR_MASK = 254, 0b101

logging.getLogger("PIL").addHandler(logging.NullHandler())  # else it prints what is raised as well


class NotPillows(ImageError):
    """A file of a kind that Pillow does not read."""


@contextlib.contextmanager
def opened(
    path: str | os.PathLike | bytes, *, max_pixels: int = MAX_PIXELS
) -> Generator[Image.Image]:
    """Opens a picture from a path or from a file's content, without decoding it.

    Raises:
        NotPillows: a kind that Pillow does not read.
        ImageError: the file does not exist, is a folder, damaged or too large.
    """
    if isinstance(path, bytes):
        with decoding("the picture"):
            image = _identify(io.BytesIO(path), "the content")
            check_size(image.size, "the picture", max_pixels)
            yield image
        return
    name = os.fspath(path)
    if os.path.isdir(name):
        raise ImageError(f"{name} is a folder; give a picture")
    try:
        file = open(name, "rb")  # noqa: SIM115  # the `with` is below, outside this `try`
    except FileNotFoundError as error:
        raise ImageError(f"there is no file {name}") from error
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        raise ImageError(f"{name} can't be read: {error}") from error
    with file, decoding(name):
        image = _identify(file, name)
        check_size(image.size, name, max_pixels)
        yield image


def check_size(size: tuple[int, ...], name: str, max_pixels: int) -> None:
    """Raises an ImageError if a (width, height) has more than `max_pixels`."""
    width, height = size
    if width * height > max_pixels:
        raise ImageError(
            f"{name} must have at most {max_pixels:,} pixels, got {width} x "
            f"{height} = {width * height:,}: max_pixels={width * height} "
            "(--max-pixels on the command line) raises the limit"
        )


def upright(image: Image.Image) -> Image.Image:
    """Returns a decoded copy, turned upright by its EXIF orientation."""
    image.load()
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # EXIF that can't be parsed does not make the picture unreadable
        return image.copy()


def stored_range(image: Image.Image) -> tuple[float, float] | None:
    """Returns the range of values that a TIFF records for its samples, or None."""
    tags = _tags(image)
    low, high = (_number(tags.get(tag)) for tag in (LEAST, MOST))
    if high is not None and high > (low or 0):
        return float(low or 0), float(high)
    bits = _number(tags.get(BITS))
    return (0.0, 2.0**bits - 1) if bits is not None and 8 < bits < 16 else None


def is_cut(image: Image.Image) -> bool:
    """Whether Pillow keeps only the upper 8 bits of the file's 16 (colours in a PNG or TIFF)."""
    tiles = getattr(image, "tile", ())
    return not image.mode.startswith("I") and any(";16" in str(tile.args) for tile in tiles)


def band_count(image: Image.Image) -> int:
    """Returns the number of samples per pixel in the file; Pillow may read fewer."""
    samples = _number(_tags(image).get(SAMPLES))
    return len(image.getbands()) if samples is None else int(samples)


def opaque_count(image: Image.Image) -> int:
    """Returns the number of a TIFF's samples per pixel that are not marked as alpha."""
    extra = _tags(image).get(EXTRA_SAMPLES, ())
    return band_count(image) - sum(kind in (1, 2) for kind in extra)


def warn_of_pages(image: Image.Image, name: str) -> None:
    """Warns if a file has more pages or frames than the first, which is the one that is read."""
    if image.format in NOT_PAGES or not getattr(image, "is_animated", False):
        return
    pages = getattr(image, "n_frames", 2) if image.format != "TIFF" else _tiff_pages(image)
    if pages > 1:
        warnings.warn(
            f"{name} has {pages} pages or frames, and only the first is read: save the others as "
            "files of their own",
            ImageWarning,
            stacklevel=2,
        )


@contextlib.contextmanager
def decoding(name: str) -> Generator[None]:
    """Turns any error into an `ImageError`: for damaged files, decoders raise nearly anything."""
    try:
        yield
    except (ImageError, ImageWarning, MemoryError):  # a warning, where these are errors
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(
            f"{name} is larger than Pillow's own limit for its format: raise "
            f"PIL.Image.MAX_IMAGE_PIXELS ({error})"
        ) from error
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(f"{name} is damaged or unreadable: {reason}") from error


def _identify(file: IO[bytes] | io.BytesIO, name: str) -> Image.Image:
    """Does what `Image.open` does, except for its check of the size.

    The limit of that check is a global variable of Pillow. Changing it, or suppressing the warning,
    would affect other threads.
    """
    head = file.read(64)
    if _is_heic(head):
        file.seek(0)
        return _heic(file, name)
    start = head[:16]
    tried: set[str] = set()
    reason = ""
    for load_plugins in (Image.preinit, Image.init):
        load_plugins()
        for kind in [kind for kind in Image.ID if kind not in tried]:
            tried.add(kind)
            factory, accepts = Image.OPEN[kind]
            with contextlib.suppress(*NOT_THIS_KIND):
                accepted = accepts is None or accepts(start)
                if isinstance(accepted, str):  # this format, but Pillow has no decoder for it
                    reason = f": {accepted}"
                elif accepted:
                    file.seek(0)
                    return factory(file, name)
    raise NotPillows(f"{name} is not a picture of a kind that Pillow reads{reason}")


def _is_heic(head: bytes) -> bool:
    """Whether a file's first bytes name HEIC as one of its brands."""
    brands = head[8 : int.from_bytes(head[:4], "big")]
    return head[4:8] == b"ftyp" and not HEIC_BRANDS.isdisjoint(
        brands[at : at + 4] for at in range(0, len(brands), 4)
    )


def _heic(file: IO[bytes] | io.BytesIO, name: str) -> Image.Image:
    try:
        from pillow_heif import HeifImageFile
    except ImportError as error:
        raise ImageError(
            f"{name} is a HEIC picture, which Pillow alone does not read: pip install "
            "'segformer-jax[heic]', or convert it to JPEG"
        ) from error
    return HeifImageFile(file, name)


def _tiff_pages(image: Any) -> int:
    """Returns the number of pages that are not smaller versions or masks of others."""
    pages = 0
    for page in range(image.n_frames):
        image.seek(page)
        pages += not int(_number(_tags(image).get(SUBFILE)) or 0) & SMALLER_OR_MASK
    image.seek(0)
    return pages


def _tags(image: Image.Image) -> Mapping[int, Any]:
    """Returns the tags of a TIFF; other files have none."""
    return getattr(image, "tag_v2", {})


def _number(value: object) -> int | float | None:
    """Returns a tag's value, or the first of several."""
    first = value[0] if isinstance(value, tuple) and value else value
    return first if isinstance(first, int | float) else None
