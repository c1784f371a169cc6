"""Converts a segmented picture to JSON data, which `view.js` draws on the page."""

import base64
import io
import zlib
from typing import Any

import numpy as np
from jaxtyping import UInt, UInt8
from PIL import Image

from segformer_jax.images.draw import index_png
from segformer_jax.images.labels import palette_for
from segformer_jax.inference.segmentation import Segmentation

LONGEST_SIDE = 2048  # pixels, of the shown picture; the mask to download keeps the original size


def view_of(result: Segmentation, *, name: str) -> dict[str, Any]:
    """Converts a picture, its classes, its legend and its mask to JSON data.

    Args:
        result: the segmented picture.
        name: name of the picture's file, without its ending.

    Returns:
        `photo`, a JPEG as a data URL; `classes`, the class of every shown pixel as 16 bits,
        little-endian, row by row, deflated (zlib), in base64; their `width` and `height`; `legend`,
        the classes of `Segmentation.to_dict` with a `colour` each, "#rrggbb"; `mask`, the index PNG
        that `Segmentation.save` writes, as a data URL, to be saved as `mask_name`.
    """
    size = shown_size(result.image.size)
    palette = palette_for(result.id2label)
    legend = [
        row | {"colour": _hexadecimal(palette, row["id"])} for row in result.to_dict()["classes"]
    ]
    classes = shrunk(result.class_map, size=size).astype("<u2")
    photo = result.image if size == result.image.size else result.image.resize(size, reducing_gap=2)
    return {
        "photo": _data_url(photo, "JPEG", quality=92),
        "classes": base64.b64encode(zlib.compress(classes.tobytes(), 1)).decode(),
        "width": size[0],
        "height": size[1],
        "legend": legend,
        "mask": _data_url(index_png(result.class_map, palette), "PNG"),
        "mask_name": f"{name}.mask.png",
    }


def shown_size(size: tuple[int, int]) -> tuple[int, int]:
    """Scales (width, height) down to a longest side of `LONGEST_SIDE`; smaller sizes stay."""
    width, height = size
    scale = min(1.0, LONGEST_SIDE / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def shrunk(class_map: UInt[np.ndarray, "H W"], *, size: tuple[int, int]) -> UInt[np.ndarray, "h w"]:
    """Shrinks a class map; each pixel gets the class at its centre, as classes can't be averaged.

    Args:
        class_map: the class map at full size.
        size: width and height of the smaller map, in pixels.
    """
    rows, columns = (
        ((np.arange(short) + 0.5) * whole / short).astype(np.intp)
        for short, whole in zip(size[::-1], class_map.shape, strict=True)
    )
    return class_map[rows[:, None], columns]


def _hexadecimal(palette: UInt8[np.ndarray, "labels 3"], index: int) -> str:
    return f"#{palette[index].tobytes().hex()}"


def _data_url(image: Image.Image, kind: str, **options: Any) -> str:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"
