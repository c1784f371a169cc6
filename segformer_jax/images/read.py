"""Reads a picture of any kind with 8 bits, as RGB or bands; raises `ImageError` for any problem."""

import contextlib
import os
from collections.abc import Callable, Generator
from typing import Any

import numpy as np
from jaxtyping import Int, Shaped
from PIL import Image

from segformer_jax.errors import ImageError
from segformer_jax.images.colours import (
    CHANNELS,
    grey_as_rgb,
    image_array,
    image_bands,
    is_deep,
    on_white,
    to_rgb,
)
from segformer_jax.images.eight_bits import to_eight_bits, warn_if_nearly_black
from segformer_jax.images.gdal_file import (
    Bands,
    gdal_file,
    opaque_bands,
    palette_of,
    read_with_gdal,
)
from segformer_jax.images.picture import Picture
from segformer_jax.images.pillow_file import (
    MAX_PIXELS,
    NotPillows,
    band_count,
    check_size,
    decoding,
    is_cut,
    opaque_count,
    opened,
    stored_range,
    upright,
    warn_of_pages,
)
from segformer_jax.images.stretch import Stretch

GEOREFERENCE = (33550, 33922, 34264, 34735)  # GeoTIFF: scale, tie points, transform, keys
JPEG = b"\xff\xd8\xff"  # its first bytes
ORIENTATION, UPRIGHT, SIDEWAYS = 0x0112, 1, (5, 6, 7, 8)  # EXIF
INDEX_MODES = ("1", "L", "P", "I", "I;16", "I;16L", "I;16B", "I;16N")


def read_image(
    source: Any,
    *,
    max_pixels: int = MAX_PIXELS,
    stretch: Stretch | None = None,
    white: bool = False,
) -> Image.Image:
    """Reads a picture as RGB with 8 bits per channel, turned upright by its EXIF orientation.

    Files that Pillow does not read are read by GDAL, if rasterio is installed (extra `geo`), and
    HEIC by pillow-heif (extra `heic`). 16-bit values are divided by 257, so that white stays white;
    of 16-bit colours that Pillow reads, the lower 8 bits are dropped. A range that a TIFF records
    is used instead, and so is `stretch`.

    Args:
        source: a path, a file's content as bytes, a PIL image, or an array of shape (h, w) or
            (h, w, 1|3|4). uint8 is used unchanged; bool is black and white; uint16 is divided by
            257, and so are other integers if one of them is above 255. Floats are interpreted as
            in transformers: in 0…255 if all are whole numbers, else in 0…1.
        max_pixels: largest number of pixels that is decoded; checked before decoding.
        stretch: for values of more than 8 bits: (low, high), which become 0 and 255, or
            "percentile", the 2nd and 98th of each band of each picture.
        white: blend transparency onto white; otherwise it is dropped.

    Returns:
        A new image; `source` is not changed.

    Raises:
        ImageError: the file does not exist, is a folder, not a picture, damaged or too large; or
            the array has another shape, such as (3, h, w), or range.
    """
    found, stored, name = _decoded(source, max_pixels=max_pixels, stretch=stretch)
    with decoding(name):
        if isinstance(found, Image.Image):
            if is_deep(found):
                found = image_array(np.asarray(found))
            else:
                return on_white(found, name=name) if white else to_rgb(found, name=name)
        if isinstance(found, Bands):
            found = _as_rgb(found, name)
        pixels, _ = to_eight_bits(found, stretch=stretch, stored=stored, name=name)
        if pixels.shape[-1] == 1:
            return grey_as_rgb(pixels)
        colours = on_white(pixels) if white else pixels[..., :3]
        return Image.fromarray(np.ascontiguousarray(colours))


def read_bands(
    source: Any,
    *,
    channels: int | None,
    max_pixels: int = MAX_PIXELS,
    stretch: Stretch | None = None,
) -> Picture:
    """Reads a picture's bands with 8 bits each, in the file's order, upright.

    Args:
        source: as in `read_image`; arrays have the shape (h, w, channels).
        channels: the number of bands, 1…16; None takes what there is: 1 of a grey picture, 3, or
            4 of a transparent one.
        max_pixels: as in `read_image`.
        stretch: as in `read_image`.

    Returns:
        A PIL image of mode RGB or RGBA as it is; other bands as an array (h, w, channels) uint8.

    Raises:
        ImageError: as `read_image`; the picture has another number of bands.
    """
    found, stored, name = _decoded(
        source, max_pixels=max_pixels, stretch=stretch, whole=True, channels=channels
    )
    with decoding(name):
        if isinstance(found, Image.Image):
            found = image_bands(found, channels)
        if isinstance(found, Bands):
            whole = channels in (None, found.pixels.shape[-1])
            found = found.pixels if whole else found.pixels[..., list(found.opaque)]
        own = len(found.getbands()) if isinstance(found, Image.Image) else found.shape[-1]
        if channels not in (None, own):
            raise ImageError(
                f"{name} must have {channels} bands, as many as the network has channels, got "
                f"{own}: give a picture with these, or a model with num_channels={own}"
            )
        if isinstance(found, Image.Image):
            return found
        return to_eight_bits(found, stretch=stretch, stored=stored, name=name)[0]


def open_image(path: str | os.PathLike | bytes, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decodes a picture from a path or from a file's content, upright and in the file's own mode.

    Raises:
        ImageError: as `read_image`.
    """
    with opened(path, max_pixels=max_pixels) as image:
        return upright(image)


def check_image(
    path: str | os.PathLike | bytes, *, max_pixels: int = MAX_PIXELS
) -> tuple[int, int]:
    """Reads the width and height of a picture from the header of a file or of a file's content.

    Raises:
        ImageError: as `read_image`, except that damage after the header is not found.
    """
    try:
        with opened(path, max_pixels=max_pixels) as image:
            return image.size
    except NotPillows as refused:
        with _by_gdal(path, refused), gdal_file(_path(path, refused)) as file:
            check_size((file.width, file.height), file.name, max_pixels)
            return file.width, file.height


def upright_header(source: str | os.PathLike | Image.Image) -> tuple[tuple[int, int], int]:
    """Reads the height and width that a picture has once it is upright, from its header.

    Returns:
        (height, width), and the EXIF orientation, `UPRIGHT` if the file has none.

    Raises:
        ImageError: as `check_image`.
    """
    if isinstance(source, Image.Image):
        return _upright_header(source)
    try:
        with opened(source) as image:
            return _upright_header(image)
    except NotPillows:
        width, height = check_image(source)  # GDAL turns nothing
        return (height, width), UPRIGHT


def is_jpeg(path: str | os.PathLike) -> bool:
    """Whether a file begins as a JPEG; False if it can't be read."""
    try:
        with open(path, "rb") as file:
            return file.read(len(JPEG)) == JPEG
    except OSError:
        return False


@contextlib.contextmanager
def opened_draft(
    path: str | os.PathLike, needed: Callable[[tuple[int, int]], tuple[int, int]]
) -> Generator[tuple[Image.Image, tuple[int, int]]]:
    """Opens a JPEG to be decoded at the smallest of 1, 1/2, 1/4 and 1/8 of its size that suffices.

    Args:
        path: the file.
        needed: gives the height and width that suffice for those of the whole picture, upright.

    Yields:
        The picture, not decoded; and the height and width of the whole one, upright.

    Raises:
        ImageError: as `read_image`.
    """
    with opened(path) as image:
        size, orientation = _upright_header(image)
        height, width = needed(size)
        image.draft(None, (height, width) if is_sideways(orientation) else (width, height))
        yield image, size


def is_sideways(orientation: int) -> bool:
    """Whether a picture of this EXIF orientation is turned by a quarter, so that its sides swap."""
    return orientation in SIDEWAYS


def count_channels(path: str | os.PathLike) -> int:
    """Returns the number of channels that a network for this picture needs, from the file's header.

    3 for grey, palette and colour pictures, with or without transparency; else the number of bands
    that are not marked as alpha.

    Raises:
        ImageError: as `check_image`.
    """
    try:
        with opened(path) as image:
            bands = 3 if image.format != "TIFF" or image.mode == "CMYK" else opaque_count(image)
    except NotPillows as refused:
        with _by_gdal(path, refused), gdal_file(path) as file:
            opaque = opaque_bands(file)
            bands = len(opaque) if palette_of(file, opaque) is None else 3
    return 3 if bands == 1 else bands


def has_georeference(path: str | os.PathLike, *, max_pixels: int = MAX_PIXELS) -> bool:
    """Whether a file is a TIFF with a georeference.

    Raises:
        ImageError: Pillow does not read it; as `check_image`.
    """
    with opened(path, max_pixels=max_pixels) as image:
        tags = getattr(image, "tag_v2", {})
        return any(tag in tags for tag in GEOREFERENCE)


def read_class_indices(source: Any) -> Int[np.ndarray, "h w"]:
    """Reads a segmentation map as a new int64 array; palette pictures give their indices.

    Args:
        source: a path, a PIL image of one channel, or an array (h, w) of whole numbers.

    Raises:
        ImageError: the file can't be read, there is more than one channel, or the values are not
            whole numbers of 32 bits.
    """
    if isinstance(source, str | os.PathLike):
        source = open_image(source)
    if isinstance(source, Image.Image):
        if source.mode not in INDEX_MODES:
            raise ImageError(
                f"a map must hold one class index per pixel, got a picture of mode {source.mode}"
            )
    elif not hasattr(source, "__array__"):
        raise ImageError(
            f"a map must be a path, a PIL image or an array, got a {type(source).__name__}"
        )
    with decoding("the map"):
        indices = np.asarray(source)
    if indices.ndim != 2 or indices.size == 0:
        raise ImageError(f"a map of class indices must have the shape (h, w), got {indices.shape}")
    if indices.dtype.kind not in "buif" or not np.isfinite(indices).all():
        raise ImageError(
            f"a map must hold class indices, got values of type {indices.dtype}, or NaN"
        )
    whole = indices.astype(np.int64)
    if (whole != indices).any():
        raise ImageError("a map must hold class indices, got fractions")
    if np.abs(whole).max() >= 2**31:
        raise ImageError(f"class indices must be below 2³¹, got {np.abs(whole).max()}")
    return whole


def _decoded(
    source: Any,
    *,
    max_pixels: int,
    stretch: Stretch | None,
    whole: bool = False,
    channels: int | None = None,
) -> tuple[Image.Image | Bands | np.ndarray, tuple[float, float] | None, str]:
    """Returns the upright picture, the range that its file records, and its name for messages.

    Args:
        source: as `read_image`.
        max_pixels: as `read_image`.
        stretch: as `read_image`; needs all the bits that there are.
        whole: all bands are needed.
        channels: those of an array.
    """
    if isinstance(source, Image.Image):
        check_size(source.size, "the image", max_pixels)
        with decoding("the image"):
            return upright(source), None, "the image"
    if not isinstance(source, str | os.PathLike | bytes):
        pixels = image_array(source, channels=(*CHANNELS, channels or 3))
        check_size(pixels.shape[1::-1], "the array", max_pixels)
        return pixels, None, "the array"
    name = "the picture" if isinstance(source, bytes) else os.fspath(source)
    try:
        with opened(source, max_pixels=max_pixels) as image:
            warn_of_pages(image, name)
            stored = stored_range(image)
            cut = is_cut(image)  # asked before the picture is decoded
            needed = cut and (stretch is not None or stored is not None)
            if not needed and not (whole and band_count(image) > len(image.getbands())):
                decoded = upright(image)
                if cut:
                    brightest = max(high for _, high in _rgb_extrema(decoded))
                    warn_if_nearly_black(257 * brightest, name=name)
                return decoded, stored, name
        refused = NotPillows(f"{name} has more bits or bands than Pillow reads")
    except NotPillows as error:
        refused = error
    with _by_gdal(source, refused):
        found = read_with_gdal(_path(source, refused), max_pixels=max_pixels)
        return found, found.stored, name


def _rgb_extrema(image: Image.Image) -> list[tuple[int, int]]:
    found: Any = image.getextrema()
    return list(found[:3])


def _upright_header(image: Image.Image) -> tuple[tuple[int, int], int]:
    width, height = image.size
    try:
        orientation = image.getexif().get(ORIENTATION, UPRIGHT)
    except Exception:
        image.load()  # raises for a PNG that is cut off, whose EXIF may come last
        orientation = UPRIGHT
    return (width, height) if orientation in SIDEWAYS else (height, width), orientation


def _as_rgb(bands: Bands, name: str) -> Shaped[np.ndarray, "h w c"]:
    """Returns the grey band, or the first three of three or four."""
    pixels = bands.pixels[..., list(bands.opaque)]
    if pixels.shape[-1] not in CHANNELS:
        raise ImageError(
            f"{name} must have 1 (grey), 3 (RGB) or 4 bands, of which 3 are used, for a network of "
            f"3 channels, got {pixels.shape[-1]}: choose some (segment --bands 4 3 2), or take a "
            f"model with num_channels={pixels.shape[-1]}"
        )
    return pixels[..., :3]


@contextlib.contextmanager
def _by_gdal(source: str | os.PathLike | bytes, refused: NotPillows) -> Generator[None]:
    """Turns the error of a missing rasterio into Pillow's error, with the advice to install it."""
    try:
        yield
    except ImportError as error:
        raise ImageError(
            f"{refused}: pip install 'segformer-jax[geo]' to read it with GDAL, or convert it to "
            "PNG, JPEG or TIFF"
        ) from error


def _path(source: str | os.PathLike | bytes, refused: NotPillows) -> str | os.PathLike:
    """Returns a path, or raises the error for a file's content, which GDAL is never given."""
    if isinstance(source, bytes):
        raise refused
    return source
