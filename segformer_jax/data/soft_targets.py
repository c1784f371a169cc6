"""Soft targets in files: logits of a teacher, read and cropped together with the masks.

`soft/NAME.npz`, beside `masks/`, has the logits of a teacher of any kind for the picture NAME:

- `logits`, (rows, columns, classes) uint8, which mean (`logits` − `zero_point`) · `scale`;
- `scale` and `zero_point`, two numbers;
- `classes`, the names of the classes;
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

# NumPy parses a header as Python code, which in CPython 3.11 can fail in two threads at once: about
# one of 20,000 files raised a SystemError.
_parsing = threading.Lock()


@dataclass(frozen=True, eq=False)
class SoftTargets:
    """A teacher's logits of a whole picture.

    Attributes:
        logits: the values as they are stored.
        wanted: indices of the classes to use.
        scale: a logit is (stored value − zero_point) · scale.
        zero_point: the stored value that means 0.
        border: distance from the picture's border to the centre of cell 0, in cells; usually 0.5.
    """

    logits: UInt8[np.ndarray, "rows columns classes"]
    wanted: tuple[int, ...]
    scale: float
    zero_point: float
    border: float


@dataclass(frozen=True)
class SoftClasses:
    """The classes to read from files of soft targets, in this order.

    Attributes:
        names: the names of the classes as the files spell them.
    """

    names: tuple[str, ...]

    def read(self, file: Path | None) -> SoftTargets | None:
        """Reads the soft targets of these classes from a file; None if `file` is None.

        Raises:
            ImageError: the file can't be read, lacks an array, or lacks one of these classes.
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
    """Returns the names of a file's classes; checks everything except the logits.

    Raises:
        ImageError: the file can't be read, or lacks an array.
    """
    with _opened(file) as parts:
        _numbers(parts)
        return _classes(parts)


def cells(
    soft: SoftTargets | None, view: Placement, *, crop: tuple[int, int], classes: int
) -> tuple[Float32[np.ndarray, "h w classes"], Bool[np.ndarray, "h w"]]:
    """Returns the logits at the cells of a crop, a quarter of its size, and which cells have any.

    Logits are interpolated bilinearly between the file's cells; the outermost cells are extended to
    the border, as when the network's own logits are resized. Cells in the padding have no logits,
    nor have those of a picture without a file.

    Args:
        soft: the soft targets of the picture; None without a file.
        view: where the crop lies in the picture.
        crop: height and width of the crop.
        classes: number of classes.
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
    """Returns the centres of a crop's cells, in pixels, without those in the padding."""
    middles = (np.arange(count) + 0.5) * (crop / count)
    return middles[middles < size]


def _at(
    logits: Shaped[np.ndarray, "rows columns classes"],
    shares: Float[np.ndarray, " n"],
    border: float,
    *,
    axis: int,
) -> Float32[np.ndarray, "_ _ classes"]:
    """Interpolates along an axis at positions given as fractions of the picture's side."""
    last = logits.shape[axis] - 1
    place = np.clip(shares * (last + 1) - border, 0, last)
    low, high, weight = neighbours_at(place, last + 1, np.float32)
    below = logits.take(low, axis).astype(np.float32)
    return between(below, logits.take(high, axis), weight, axis=axis)


@contextlib.contextmanager
def _opened(file: Path) -> Generator[zipfile.ZipFile]:
    """Opens a file; any error of reading it becomes an ImageError that names it."""
    rule = "soft targets are logits (rows, columns, classes) uint8, scale, zero_point, classes"
    try:
        with zipfile.ZipFile(file) as parts:
            yield parts
    except (OSError, ValueError, RuntimeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ImageError(f"{file} can't be used ({error}): {rule}") from error


def _array(parts: zipfile.ZipFile, name: str) -> np.ndarray:
    """Reads one of the arrays that `numpy.savez` wrote."""
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
    """Returns scale, zero point, and the two numbers of the offset."""
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
