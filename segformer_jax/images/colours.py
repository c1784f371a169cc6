"""Pictures of any mode of Pillow's, and arrays of any shape, as RGB or as bands."""

from typing import Any

import numpy as np
from jaxtyping import Shaped, UInt8
from PIL import Image

from segformer_jax.errors import ImageError
from segformer_jax.images.eight_bits import to_eight_bits
from segformer_jax.images.pillow_file import decoding

CHANNELS = (1, 3, 4)  # grey, RGB, RGBA


def to_rgb(image: Image.Image, *, name: str = "the image") -> Image.Image:
    """Converts an image of any mode to RGB: scales 16-bit greys and drops transparency.

    `name` is the image in messages.

    Raises:
        ImageError: the image is damaged, or its mode can't be converted to RGB, such as LAB.
    """
    with decoding(name):
        if image.mode.startswith("I") or image.mode == "F":
            return grey_as_rgb(to_eight_bits(image_array(np.asarray(image)), name=name)[0])
        if image.mode in ("La", "RGBa"):  # premultiplied; Pillow needs this step first
            image = image.convert(image.mode.replace("a", "A"))
        if image.mode == "P" and isinstance(image.info.get("transparency"), bytes):
            image = image.convert("RGBA")  # the same colours, without Pillow's warning
        return image.convert("RGB")


def on_white(image: Any, *, name: str = "the image") -> Any:
    """Blends a PIL image, or an array (h, w, 3|4), onto white; returns RGB without alpha.

    Raises:
        ImageError: as `to_rgb`; or an array with alpha has floats outside [0, 1].
    """
    if isinstance(image, Image.Image):
        if "A" not in image.getbands() and image.info.get("transparency") is None:
            return to_rgb(image, name=name)
        with decoding(name):
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


def image_array(
    source: Any, *, channels: tuple[int, ...] = CHANNELS
) -> Shaped[np.ndarray, "h w c"]:
    """Converts an array of shape (h, w) or (h, w, channels) to (h, w, c), of the same type.

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
    known = sorted(set(channels))
    if pixels.ndim != 3 or pixels.shape[-1] not in known:
        nchw = len(shape) in (3, 4) and shape[-3] in known and shape[-1] not in known
        hint = (
            ": channels come last here (NHWC), so transpose it, or give the processor "
            "input_data_format='channels_first'"
        )
        raise ImageError(
            f"a picture must have the shape (h, w) or (h, w, {'|'.join(map(str, known))}), got an "
            f"array {shape}{hint * nchw}"
        )
    if pixels.size == 0:
        raise ImageError(f"a picture must have pixels, got an array {shape}")
    return pixels


def image_bands(image: Image.Image, channels: int | None) -> Image.Image | np.ndarray:
    """Returns an RGB or RGBA image unchanged, and of others the values (h, w, c), of any type."""
    if image.mode in ("RGB", "RGBA"):
        return image
    if image.mode == "L" or is_deep(image) or (image.mode == "LA" and channels == 2):
        return image_array(np.asarray(image), channels=(*CHANNELS, channels or 3))
    return to_rgb(image)


def is_deep(image: Image.Image) -> bool:
    """Whether a grey picture has more than 8 bits."""
    return image.mode.startswith("I") or image.mode == "F"


def grey_as_rgb(pixels: UInt8[np.ndarray, "h w 1"]) -> Image.Image:
    """Returns an RGB image of three equal channels."""
    return Image.fromarray(np.repeat(pixels, 3, -1))
