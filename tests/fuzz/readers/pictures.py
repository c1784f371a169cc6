"""PNG, JPEG and TIFF of many modes, read by the functions of `segformer_jax.images.read`."""

import contextlib
import io
import warnings
import zlib
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from PIL import Image

from segformer_jax.errors import ImageError
from segformer_jax.images.pillow_file import NotPillows
from segformer_jax.images.read import (
    check_image,
    count_channels,
    has_georeference,
    open_image,
    read_bands,
    read_class_indices,
    read_image,
    upright_header,
)
from tests.fuzz.damage import damaged
from tests.fuzz.kinds import Reader, Sample

SIZE = (9, 14)
MOST = 2**22  # pixels, so that a valid huge picture takes no time
PNG = b"\x89PNG\r\n\x1a\n"
ENDINGS = {b"\x89P": "png", b"\xff\xd8": "jpg", b"II": "tif", b"MM": "tif"}


def _samples() -> list[Sample]:
    samples = []
    for content in pictures():
        name = f"a.{ENDINGS[content[:2]]}"
        samples.append(Sample({name: content}, name))
    return samples


def pictures() -> list[bytes]:
    """The contents of small files, of many kinds."""
    rgb = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8))
    deep = np.asarray(rgb.convert("L"), np.uint16) * 200
    exif = Image.Exif()
    exif[0x0112] = 6
    ways: list[tuple[str, Any, dict[str, Any]]] = [
        *(("PNG", rgb.convert(mode), {}) for mode in ("1", "L", "LA", "P", "RGB", "RGBA")),
        ("PNG", rgb, {"exif": exif}),
        ("PNG", Image.fromarray(deep), {}),
        *(("JPEG", rgb.convert(mode), {"exif": exif}) for mode in ("L", "RGB", "CMYK")),
        ("JPEG", rgb, {"progressive": True}),
        *(("TIFF", rgb.convert(mode), {}) for mode in ("1", "L", "P", "RGBA", "CMYK", "F")),
        *(("TIFF", rgb, {"compression": kind}) for kind in ("tiff_lzw", "packbits", "jpeg")),
        ("TIFF", rgb, {"save_all": True, "append_images": [rgb.convert("L")]}),
        ("TIFF", Image.fromarray(deep), {"compression": "tiff_adobe_deflate"}),
    ]
    return [_with_pillow(kind, image, options) for kind, image, options in ways] + _with_gdal(deep)


def _with_pillow(kind: str, image: Image.Image, options: dict[str, Any]) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _with_gdal(deep: np.ndarray) -> list[bytes]:
    """Bands and depths that Pillow does not write, and a georeference."""
    from rasterio.io import MemoryFile
    from rasterio.transform import from_origin

    contents = []
    for driver, bands, options in (
        ("GTiff", 5, {"compress": "deflate", "predictor": 2}),
        ("GTiff", 4, {"interleave": "band", "tiled": True, "blockxsize": 16, "blockysize": 16}),
        ("GTiff", 3, {"BIGTIFF": "YES", "NBITS": 12}),
        ("PNG", 3, {}),
    ):
        with MemoryFile() as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a PNG has no georeference
            if driver == "GTiff":
                options["transform"] = from_origin(5, 50, 1, 1)
            shape = dict(count=bands, height=SIZE[0], width=SIZE[1], dtype="uint16")
            with file.open(driver=driver, **shape, **options) as opened:
                opened.write(np.stack([deep % 4096] * bands))
            contents.append(bytes(file.getbuffer()))
    return contents


def damaged_picture(rng: Random, content: bytes, others: list[bytes]) -> bytes:
    """Damages a picture; the checksums of a PNG fit again, three times in four."""
    content = damaged(rng, content, others)
    return _summed(content) if content.startswith(PNG) and rng.random() < 0.75 else content


def _summed(content: bytes) -> bytes:
    """A PNG whose chunks have the right checksums."""
    parts, at = [PNG], len(PNG)
    while at + 12 <= len(content):
        end = at + 8 + int.from_bytes(content[at : at + 4], "big")
        parts += [content[at:end], zlib.crc32(content[at + 4 : end]).to_bytes(4, "big")]
        at = end + 4
    return b"".join([*parts, content[at:]])


def _read(folder: Path) -> None:
    (path,) = folder.iterdir()
    first: list[ImageError] = []
    for read in (
        lambda: check_image(path, max_pixels=MOST),
        lambda: read_image(path, max_pixels=MOST),
        lambda: read_bands(path, channels=None, max_pixels=MOST),
        lambda: read_bands(path, channels=None, max_pixels=MOST, stretch="percentile"),
        lambda: upright_header(path),
        lambda: count_channels(path),
        lambda: has_georeference(path),
    ):
        try:
            read()
        except ImageError as error:
            first.append(error)
    with contextlib.suppress(ImageError):  # most pictures are no maps of classes
        read_class_indices(open_image(path, max_pixels=MOST))
    if first:
        raise first[0]


PICTURES = Reader("pictures", _samples, damaged_picture, _read, (ImageError, NotPillows))
