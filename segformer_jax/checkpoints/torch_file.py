"""Reads files of `torch.save` without torch, and without running code from them.

A `.bin` or `.pth` file holds a pickle and raw tensors, in a zip archive since torch 1.6, one after
the other before. A pickle can import and call any function, so this reader imports and calls
nothing: it has functions of its own for the few names that tensors need, and puts placeholders for
all others. One among the wanted tensors is refused, and elsewhere left out with a warning.
"""

import io
import math
import pickle
import pickletools
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from segformer_jax.checkpoints.state_dict import Inert, Unread, find_state_dict
from segformer_jax.errors import WeightsError, listed

ZIP_MAGIC = b"PK\x03\x04"
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001
MEMO = ("PUT", "BINPUT", "LONG_BINPUT")  # each numbers an object, from 0 on
MOST_REPEATED = 1 << 24  # most elements of a tensor that repeats its storage's, as by `expand`

STORAGES: dict[str, Any] = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}


@dataclass(frozen=True)
class _Type:
    """Stands for a torch storage class that is named in the pickle."""

    dtype: np.dtype


@dataclass(frozen=True)
class _Storage:
    """Refers to a block of numbers, which the file stores outside the pickle."""

    key: str
    dtype: np.dtype
    offset: int = 0


@dataclass(frozen=True)
class _Tensor:
    """A view of a storage; sizes and strides count elements."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_torch_file(path: str | Path) -> dict[str, np.ndarray]:
    """Reads the tensors of a state dict, in the types that the file has.

    Of a training checkpoint only the state dict is read: see `find_state_dict`. A warning names
    what the pickle would have imported, and what was left out of the state dict.

    Raises:
        WeightsError: the file was not written by `torch.save`, is truncated, or comes from a
            big-endian machine; as `find_state_dict`.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            start = file.read(len(ZIP_MAGIC))
            file.seek(0)
            read = _read_zip if start == ZIP_MAGIC else _read_legacy
            tensors, notes = read(file)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from None
    except Exception as error:  # a damaged pickle or archive can raise anything
        raise WeightsError(
            f"{path} is truncated or was not written by torch.save: {error!r}"
        ) from error
    for note in notes:
        warnings.warn(f"{path}: {note}", stacklevel=2)
    return tensors


def _read_zip(file: io.BufferedIOBase) -> tuple[dict[str, np.ndarray], list[str]]:
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        pickles = [name for name in names if name.split("/", 1)[-1] == "data.pkl"]
        if len(pickles) != 1:
            raise WeightsError("this zip archive was not written by torch.save: it has no data.pkl")
        folder = pickles[0].removesuffix("data.pkl")
        if f"{folder}byteorder" in names and archive.read(f"{folder}byteorder") != b"little":
            raise WeightsError("written on a big-endian machine, which is not supported")
        unpickler = _Unpickler(io.BytesIO(archive.read(pickles[0])))
        tensors, notes = find_state_dict(unpickler.checked_load(), kind=_Tensor)
        storages = {
            tensor.storage.key: archive.read(f"{folder}data/{tensor.storage.key}")
            for tensor in tensors.values()
        }
    arrays = {name: _array(tensor, storages) for name, tensor in tensors.items()}
    return arrays, [*notes, *unpickler.notes()]


def _read_legacy(file: io.BufferedIOBase) -> tuple[dict[str, np.ndarray], list[str]]:
    start = [_Unpickler(file).checked_load() for _ in range(2)]
    if start != [LEGACY_MAGIC, LEGACY_PROTOCOL]:
        raise WeightsError(
            "this file was not written by torch.save: its first bytes belong to another format"
        )
    if not _Unpickler(file).checked_load()["little_endian"]:
        raise WeightsError("written on a big-endian machine, which is not supported")
    unpickler = _Unpickler(file)
    tensors, notes = find_state_dict(unpickler.checked_load(), kind=_Tensor)
    storages = {}
    for key in _Unpickler(file).checked_load():
        if key not in unpickler.itemsizes:  # one storage after the other: none can be passed over
            raise WeightsError(
                "tensors of a file of before torch 1.6 must be of one of "
                f"{', '.join(STORAGES)}, got others: save the model's state dict alone"
            )
        count = int.from_bytes(_exactly(file, 8), "little")
        storages[key] = _exactly(file, count * unpickler.itemsizes[key])
    arrays = {name: _array(tensor, storages) for name, tensor in tensors.items()}
    return arrays, [*notes, *unpickler.notes()]


def _exactly(file: io.BufferedIOBase, size: int) -> bytes:
    data = file.read(size)
    if len(data) != size:
        raise EOFError(f"{size} bytes expected, {len(data)} left")
    return data


class _Unpickler(pickle.Unpickler):
    """Accepts tensors and plain containers, and makes everything else a placeholder."""

    def __init__(self, file: io.BufferedIOBase):
        super().__init__(file, encoding="utf-8")
        self._file: Any = file
        self.itemsizes: dict[str, int] = {}
        self.inert: dict[str, type[Inert]] = {}

    def checked_load(self) -> Any:
        """Loads the pickle; first refuses impossible sizes, for which memory would be allocated."""
        start = self._file.tell()
        operations: Any = pickletools.genops(self._file)
        for code, argument, place in operations:
            if code.name in MEMO and argument > place:  # memory is made up to the number
                raise ValueError(f"the number {argument} of an object at byte {place}")
        self._file.seek(start)
        return self.load()

    def notes(self) -> list[str]:
        """Returns a line that names what the pickle would have imported; no line if nothing."""
        if not self.inert:
            return []
        return [
            "only its tensors were read; it also names what was neither imported nor called: "
            f"{listed(sorted(self.inert))}"
        ]

    def find_class(self, module_name: str, global_name: str) -> Any:
        if (module_name, global_name) in KNOWN:
            return KNOWN[module_name, global_name]
        if module_name == "torch" and global_name in STORAGES:
            return _Type(np.dtype(STORAGES[global_name]))
        name = f"{module_name}.{global_name}"
        if name not in self.inert:
            self.inert[name] = type("Inert", (Inert,), {"made_by": name})
        return self.inert[name]

    def persistent_load(self, pid: Any) -> Any:
        kind, storage_type, key, *rest = pid
        if kind == "module":  # a class with its source, of before torch 1.6
            return storage_type
        if kind != "storage":
            raise WeightsError(f"expected a tensor's storage, got {kind!r}")
        if not isinstance(storage_type, _Type):
            return Unread(getattr(storage_type, "made_by", type(storage_type).__name__))
        dtype, view = storage_type.dtype, rest[2:]
        self.itemsizes[key] = dtype.itemsize
        offset = int(view[0][1]) if view and view[0] is not None else 0
        return _Storage(str(key), dtype, offset)


def _rebuild_tensor(
    storage: Any, offset: int, shape: tuple, strides: tuple, *_unused: Any
) -> _Tensor | Unread:
    if not isinstance(storage, _Storage):
        return storage if isinstance(storage, Unread) else Unread(type(storage).__name__)
    return _Tensor(storage, int(offset), tuple(map(int, shape)), tuple(map(int, strides)))


def _rebuild_typed(*arguments: Any) -> Unread:
    """Stands for a tensor of a type without storage class, such as float8; argument 7 names it."""
    return Unread(getattr(arguments[6], "made_by", "unknown"))


def _rebuild_parameter(tensor: Any, *_unused: Any) -> Any:
    return tensor


KNOWN: dict[tuple[str, str], Callable] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch", "Size"): tuple,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v3"): _rebuild_typed,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _rebuild_parameter,
}


def _array(tensor: _Tensor, storages: Mapping[str, bytes]) -> np.ndarray:
    dtype = tensor.storage.dtype
    storage = np.frombuffer(storages[tensor.storage.key], dtype)
    start = tensor.storage.offset + tensor.offset
    if len(tensor.shape) != len(tensor.strides) or min((0, start, *tensor.shape)) < 0:
        raise ValueError(f"a tensor of shape {tensor.shape} with strides {tensor.strides}")
    if math.prod(tensor.shape) == 0:
        return np.empty(tensor.shape, dtype)
    if math.prod(tensor.shape) > max(len(storage), MOST_REPEATED):
        raise ValueError(f"a tensor of shape {tensor.shape} from a storage of {len(storage)}")
    if min((0, *tensor.strides)) < 0:
        raise ValueError(f"negative strides, {tensor.strides}")
    last = start + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.strides, strict=True))
    if last >= len(storage):
        raise ValueError(f"a tensor reaches to element {last} of a storage of {len(storage)}")
    strides = tuple(stride * dtype.itemsize for stride in tensor.strides)
    view = np.lib.stride_tricks.as_strided(storage[start:], tensor.shape, strides, writeable=False)
    return np.ascontiguousarray(view).reshape(tensor.shape)
