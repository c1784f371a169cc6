"""Soft targets in files: logits of a teacher, read and cropped together with the masks.

`soft/NAME.npz`, beside `masks/`, has the logits of a teacher of any kind for a picture:

- `logits`, (rows, columns, classes) uint8, standing for (logits − `zero_point`) · `scale`;
- `classes`, their names;
- `offset`, (first, step): cell (i, j) belongs to the pixel (first + step·i, first + step·j) of the
  whole picture resized to (rows·step, columns·step); SegFormer's own logits have (1.5, 4).
"""

import contextlib
import threading
import zipfile
import zlib
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Float32, Shaped, UInt8
from numpy.lib import format as npy

from segformer_jax.bilinear import between, neighbours_at
from segformer_jax.data.augment import Placement
from segformer_jax.errors import ImageError

STRIDE = 4  # pixels of a crop per cell, in each direction
HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}

# NumPy parses a header as Python, which CPython 3.11 can get wrong in two threads at once: once in
# some 20,000 files it was a SystemError.
_parsing = threading.Lock()


@dataclass(frozen=True, eq=False)
class SoftTargets:
    """A teacher's logits of a whole picture.

    Attributes:
        logits: as they are stored.
        wanted: the indices of the classes that are asked for.
        scale: a logit is (stored − zero_point) · scale.
        zero_point: what stands for 0.
        border: from the picture's border to the middle of cell 0, in cells; 0.5 as a rule.
    """

    logits: UInt8[np.ndarray, "rows columns classes"]
    wanted: tuple[int, ...]
    scale: float
    zero_point: float
    border: float


@dataclass(frozen=True)
class SoftClasses:
    """Which classes of the files are wanted, in this order.

    Attributes:
        names: of the classes as the files spell them.
    """

    names: tuple[str, ...]

    def read(self, file: Path | None) -> SoftTargets | None:
        """What a file holds of these classes; None where there is no file.

        Raises:
            ImageError: it can't be read, lacks a part, or has not these classes.
        """
        if file is None:
            return None
        with _opened(file) as parts:
            classes = _classes(parts)
            missing = [name for name in self.names if name not in classes]
            if missing:
                raise ValueError(
                    f"it has no class {', '.join(missing)}; all files must have the same classes"
                )
            wanted = tuple(classes.index(name) for name in self.names)
            scale, zero_point, first, step = _numbers(parts)
            return SoftTargets(_logits(parts), wanted, scale, zero_point, (first + 0.5) / step)


def soft_classes(file: Path) -> tuple[str, ...]:
    """The names of a file's classes; everything but the logits themselves is checked.

    Raises:
        ImageError: it can't be read, or lacks a part.
    """
    with _opened(file) as parts:
        _numbers(parts)
        return _classes(parts)


def cells(
    soft: SoftTargets | None, view: Placement, *, crop: tuple[int, int], classes: int
) -> tuple[Float32[np.ndarray, "h w classes"], Bool[np.ndarray, "h w"]]:
    """The logits at the cells of a crop, a quarter of its size, and which cells have any.

    Bilinear between the file's cells, the outermost continued to the border, like the network's own
    logits. Cells in the padding have none, nor have those of a picture without a file.

    Args:
        soft: of the picture.
        view: the crop's place in it.
        crop: its height and width.
        classes: how many the logits have.
    """
    height, width = (-(-side // STRIDE) for side in crop)
    logits = np.zeros((height, width, classes), np.float32)
    taught = np.zeros((height, width), bool)
    if soft is None:
        return logits, taught
    (h, w), (whole_h, whole_w) = view.size, view.scaled
    y, x = _middles(height, crop[0], h), _middles(width, crop[1], w)
    y = (view.top + (h - y if view.upside_down else y)) / whole_h
    x = (view.left + (w - x if view.mirrored else x)) / whole_w
    block = _at(soft.logits, y, soft.border, axis=0)
    block = _at(block, x, soft.border, axis=1)[..., list(soft.wanted)]
    logits[: len(y), : len(x)] = (block - np.float32(soft.zero_point)) * np.float32(soft.scale)
    taught[: len(y), : len(x)] = True
    return logits, taught


def _middles(count: int, crop: int, size: int) -> Float[np.ndarray, " n"]:
    """The middles of a crop's cells, in pixels, as far as the picture goes."""
    middles = (np.arange(count) + 0.5) * (crop / count)
    return middles[middles < size]


def _at(
    logits: Shaped[np.ndarray, "rows columns classes"],
    shares: Float[np.ndarray, " n"],
    border: float,
    *,
    axis: int,
) -> Float32[np.ndarray, "_ _ classes"]:
    """Rows or columns at shares of the picture's side, by the two that lie about each."""
    last = logits.shape[axis] - 1
    place = np.clip(shares * (last + 1) - border, 0, last)
    low, high, weight = neighbours_at(place, last + 1, np.float32)
    below = logits.take(low, axis).astype(np.float32)
    return between(below, logits.take(high, axis), weight, axis=axis)


@contextlib.contextmanager
def _opened(file: Path) -> Generator[zipfile.ZipFile]:
    """The file's arrays; whatever is wrong with it is an ImageError that names it."""
    rule = "soft targets are logits (rows, columns, classes) uint8, scale, zero_point, classes"
    try:
        with zipfile.ZipFile(file) as parts:
            yield parts
    except (OSError, ValueError, RuntimeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ImageError(f"{file} can't be used ({error}): {rule}") from error


def _array(parts: zipfile.ZipFile, name: str) -> np.ndarray:
    """One of the arrays that `numpy.savez` wrote."""
    if f"{name}.npy" not in parts.namelist():
        raise ValueError(f"it lacks {name}")
    with parts.open(f"{name}.npy") as content:
        with _parsing:
            version = npy.read_magic(content)
            if version not in HEADERS:
                raise ValueError(f"its {name} is of NumPy's format {version}, which is not read")
            shape, fortran_order, dtype = HEADERS[version](content)
        if dtype.hasobject:
            raise ValueError(f"its {name} holds objects, not numbers or names")
        array = np.frombuffer(content.read(), dtype)
    return array.reshape(shape, order="F" if fortran_order else "C")


def _classes(parts: zipfile.ZipFile) -> tuple[str, ...]:
    names = tuple(str(name) for name in np.atleast_1d(_array(parts, "classes")))
    if len(set(names)) < len(names):
        raise ValueError(f"its classes are {', '.join(names)}; each must be named once")
    return names


def _numbers(parts: zipfile.ZipFile) -> tuple[float, float, float, float]:
    """Scale, zero point, and the offset's two numbers."""
    scale, zero_point = float(_array(parts, "scale")), float(_array(parts, "zero_point"))
    first, step = (float(number) for number in _array(parts, "offset"))
    if not (np.isfinite([scale, zero_point, first, step]).all() and scale > 0 and step > 0):
        raise ValueError(f"scale is {scale:g}, offset ({first:g}, {step:g}); both are above 0")
    return scale, zero_point, first, step


def _logits(parts: zipfile.ZipFile) -> UInt8[np.ndarray, "rows columns classes"]:
    logits = _array(parts, "logits")
    if logits.dtype != np.uint8 or logits.ndim != 3 or not logits.size:
        raise ValueError(f"its logits are {logits.dtype} of shape {logits.shape}")
    if logits.shape[-1] != len(_classes(parts)):
        raise ValueError(f"its logits {logits.shape} are not of {len(_classes(parts))} classes")
    return logits
