"""Reads a picture of any kind as upright RGB with 8 bits; raises `ImageError` for any problem."""

import contextlib
import io
import os
import struct
from collections.abc import Generator
from typing import IO, Any

import numpy as np
from jaxtyping import Int, Shaped, UInt8
from PIL import Image, ImageOps

from segformer_jax.errors import ImageError

MAX_PIXELS = 178_956_970  # 512 MiB at 3 bytes per pixel; above, Pillow's Image.open raises too
GEOREFERENCE = (33550, 33922, 34264, 34735)  # GeoTIFF: scale, tie points, transform, keys
CHANNELS = (1, 3, 4)  # grey, RGB, RGBA
# the errors from which Pillow's Image.open, too, concludes that a file is of another format
NOT_THIS_KIND = (SyntaxError, IndexError, TypeError, KeyError, struct.error)
INDEX_MODES = ("1", "L", "P", "I", "I;16", "I;16L", "I;16B", "I;16N")


def read_image(source: Any, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Reads a picture as RGB with 8 bits per channel, turned upright by its EXIF orientation.

    Transparency is dropped, not blended. 16-bit greys are divided by 257, so that white stays
    white; Pillow would clip them.

    Args:
        source: a path, a file's content as bytes, a PIL image, or an array of shape (h, w) or
            (h, w, 1|3|4). uint8 is used unchanged; bool is black and white; uint16 is divided by
            257, and so are other integers if one of them is above 255. Floats are interpreted as
            in transformers: in 0…255 if all are whole numbers, else in 0…1.
        max_pixels: largest number of pixels that is decoded; checked before decoding.

    Returns:
        A new image; `source` is not changed.

    Raises:
        ImageError: the file does not exist, is a folder, not a picture, damaged or too large; or
            the array has another shape, such as (3, h, w), or range.
    """
    if isinstance(source, str | os.PathLike | bytes):
        return to_rgb(open_image(source, max_pixels=max_pixels))
    if isinstance(source, Image.Image):
        _check_size(source.size, "the image", max_pixels)
        with _decoding("the image"):
            return to_rgb(_upright(source))
    pixels = image_array(source)
    _check_size(pixels.shape[1::-1], "the array", max_pixels)
    return _rgb_image(pixels)


def open_image(path: str | os.PathLike | bytes, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decodes a picture from a path or from a file's content, upright and in the file's own mode.

    Raises:
        ImageError: as `read_image`.
    """
    with _opened(path, max_pixels) as image:
        return _upright(image)


def check_image(
    path: str | os.PathLike | bytes, *, max_pixels: int = MAX_PIXELS
) -> tuple[int, int]:
    """Reads the width and height of a picture from the header of a file or of a file's content.

    Raises:
        ImageError: as `read_image`, except that damage after the header is not found.
    """
    with _opened(path, max_pixels) as image:
        return image.size


def has_georeference(path: str | os.PathLike, *, max_pixels: int = MAX_PIXELS) -> bool:
    """Whether a file is a TIFF with a georeference.

    Raises:
        ImageError: as `check_image`.
    """
    with _opened(path, max_pixels) as image:
        tags = getattr(image, "tag_v2", {})
        return any(tag in tags for tag in GEOREFERENCE)


@contextlib.contextmanager
def _opened(path: str | os.PathLike | bytes, max_pixels: int) -> Generator[Image.Image]:
    """Opens a picture from a path or from a file's content, without decoding it."""
    if isinstance(path, bytes):
        with _decoding("the picture"):
            image = _identify(io.BytesIO(path), "the content")
            _check_size(image.size, "the picture", max_pixels)
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
    with file, _decoding(name):
        image = _identify(file, name)
        _check_size(image.size, name, max_pixels)
        yield image


def to_rgb(image: Image.Image) -> Image.Image:
    """Converts an image of any mode to RGB: scales 16-bit greys and drops transparency.

    Raises:
        ImageError: the image is damaged, or its mode can't be converted to RGB, such as LAB.
    """
    with _decoding("the image"):
        if image.mode.startswith("I") or image.mode == "F":
            return _rgb_image(image_array(np.asarray(image)))
        if image.mode in ("La", "RGBa"):  # premultiplied; Pillow needs this step first
            image = image.convert(image.mode.replace("a", "A"))
        if image.mode == "P" and isinstance(image.info.get("transparency"), bytes):
            image = image.convert("RGBA")  # the same colours, without Pillow's warning
        return image.convert("RGB")


def on_white(image: Any) -> Any:
    """Blends a PIL image, or an array (h, w, 3|4), onto white; returns RGB without alpha.

    Raises:
        ImageError: as `to_rgb`; or an array with alpha has floats outside [0, 1].
    """
    if isinstance(image, Image.Image):
        if "A" not in image.getbands() and image.info.get("transparency") is None:
            return to_rgb(image)
        with _decoding("the image"):
            image = image.convert("RGBA")
            white = Image.new("RGBA", image.size, (255, 255, 255, 255))
            return Image.alpha_composite(white, image).convert("RGB")
    if image.shape[-1] == 3:
        return image
    whole = image.dtype.kind != "f"
    pixels = to_eight_bits(image)[0] if whole else image
    if not whole and not 0 <= pixels.min() <= pixels.max() <= 1:
        raise ImageError(
            "an RGBA array of floats must be in [0, 1], so that it can be blended "
            "onto white: scale it"
        )
    white = 255 if whole else 1.0
    alpha = pixels[..., 3:] / white
    blended = alpha * pixels[..., :3] + (1 - alpha) * white
    return (np.round(blended) if whole else blended).astype(pixels.dtype)


def image_array(source: Any) -> Shaped[np.ndarray, "h w c"]:
    """Converts an array of shape (h, w) or (h, w, 1|3|4) to (h, w, c), of the same type.

    Raises:
        ImageError: `source` is not an array, has no pixels, or has another shape.
    """
    if not hasattr(source, "__array__"):
        raise ImageError(
            f"a picture must be a path, a PIL image or an array, got a {type(source).__name__}"
        )
    pixels = np.asarray(source)
    shape = pixels.shape
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.ndim != 3 or pixels.shape[-1] not in CHANNELS:
        nchw = len(shape) in (3, 4) and shape[-3] in CHANNELS and shape[-1] not in CHANNELS
        hint = (
            ": channels come last here (NHWC), so transpose it, or give the processor "
            "input_data_format='channels_first'"
        )
        raise ImageError(
            f"a picture must have the shape (h, w) or (h, w, 1|3|4), got an array "
            f"{shape}{hint * nchw}"
        )
    if pixels.size == 0:
        raise ImageError(f"a picture must have pixels, got an array {shape}")
    return pixels


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
    with _decoding("the map"):
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


def to_eight_bits(
    pixels: Shaped[np.ndarray, "h w c"],
) -> tuple[UInt8[np.ndarray, "h w c"], bool]:
    """Returns the values in 0…255, and whether they were floats in 0…1 before.

    The rules are those of `read_image`. Floats are truncated, not rounded, as in transformers.

    Raises:
        ImageError: the values are not numbers, or outside the range of their type.
    """
    kind = pixels.dtype.kind
    if pixels.dtype == np.uint8:
        return pixels, False
    if kind == "b":
        return np.where(pixels, np.uint8(255), np.uint8(0)), False
    if kind not in "uif":
        raise ImageError(f"a picture must hold numbers, got an array of {pixels.dtype}")
    low, high = pixels.min(), pixels.max()
    if kind in "ui" and low >= 0 and high <= 65535:
        if (kind == "u" and pixels.dtype.itemsize == 2) or high > 255:
            return ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8), False
        return pixels.astype(np.uint8), False
    if kind == "f" and low >= 0 and high <= 255:  # false if there is a NaN
        if np.allclose(pixels, np.trunc(pixels)):
            return pixels.astype(np.uint8), False
        if high <= 1:
            return (pixels.astype(np.float64) * 255).astype(np.float32).astype(np.uint8), True
    raise ImageError(
        "a picture's values must be in 0…255 (16-bit integers: 0…65535, "
        f"floats: 0…1), got {pixels.dtype} from {low} to {high}"
    )


def _rgb_image(pixels: Shaped[np.ndarray, "h w c"]) -> Image.Image:
    pixels = to_eight_bits(pixels)[0]
    if pixels.shape[-1] == 1:
        return Image.fromarray(np.repeat(pixels, 3, -1))
    return Image.fromarray(np.ascontiguousarray(pixels[..., :3]))


def _identify(file: IO[bytes] | io.BytesIO, name: str) -> Image.Image:
    """Does what `Image.open` does, except for its check of the size.

    The limit of that check is a global variable of Pillow. Changing it, or suppressing the warning,
    would affect other threads.
    """
    start = file.read(16)
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
    raise ImageError(f"{name} is not a picture of a kind that Pillow reads{reason}")


def _check_size(size: tuple[int, ...], name: str, max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise ImageError(
            f"{name} must have at most {max_pixels:,} pixels, got {width} x "
            f"{height} = {width * height:,}: max_pixels={width * height} "
            "(--max-pixels on the command line) raises the limit"
        )


def _upright(image: Image.Image) -> Image.Image:
    """Returns a decoded copy, turned upright by its EXIF orientation."""
    image.load()
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # EXIF that can't be parsed does not make the picture unreadable
        return image.copy()


@contextlib.contextmanager
def _decoding(name: str) -> Generator[None]:
    """Turns any error into an `ImageError`: for damaged files, decoders raise nearly anything."""
    try:
        yield
    except (ImageError, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(
            f"{name} is larger than Pillow's own limit for its format: raise "
            f"PIL.Image.MAX_IMAGE_PIXELS ({error})"
        ) from error
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(f"{name} is damaged or unreadable: {reason}") from error
