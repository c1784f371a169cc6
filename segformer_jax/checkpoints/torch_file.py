"""Reads files of `torch.save` without torch, and without running code from them.

A `.bin` or `.pth` file holds a pickle and raw tensors, in a zip archive since torch 1.6, one after
the other before. A pickle can import and call any function, so this reader accepts only a few
harmless names, for which it uses functions of its own, and refuses all others.
"""

import io
import math
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from segformer_jax.errors import WeightsError

ZIP_MAGIC = b"PK\x03\x04"
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001
MOST_REPEATED = 1 << 24  # most elements of a tensor that repeats its storage's, as by `expand`
STATE_DICT = "state_dict"  # under this key training frameworks store the model in a checkpoint

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

    If the file is a training checkpoint, a dict with an entry `state_dict`, only this entry is read
    and not the others, such as the optimizer.

    Raises:
        WeightsError: the file was not written by `torch.save`, is truncated, or comes from a
            big-endian machine; the pickle imports anything but tensors, which the message names and
            which is not run; or entries are not tensors, which the message names.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            start = file.read(len(ZIP_MAGIC))
            file.seek(0)
            read = _read_zip if start == ZIP_MAGIC else _read_legacy
            return read(file)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from None
    except Exception as error:  # a damaged pickle or archive can raise anything
        raise WeightsError(
            f"{path} is truncated or was not written by torch.save: {error!r}"
        ) from error


def _read_zip(file: io.BufferedIOBase) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        pickles = [name for name in names if name.split("/", 1)[-1] == "data.pkl"]
        if len(pickles) != 1:
            raise WeightsError("this zip archive was not written by torch.save: it has no data.pkl")
        folder = pickles[0].removesuffix("data.pkl")
        if f"{folder}byteorder" in names and archive.read(f"{folder}byteorder") != b"little":
            raise WeightsError("written on a big-endian machine, which is not supported")
        tensors = _tensors(_Unpickler(io.BytesIO(archive.read(pickles[0]))).load())
        storages = {
            tensor.storage.key: archive.read(f"{folder}data/{tensor.storage.key}")
            for tensor in tensors.values()
        }
    return {name: _array(tensor, storages) for name, tensor in tensors.items()}


def _read_legacy(file: io.BufferedIOBase) -> dict[str, np.ndarray]:
    if _Unpickler(file).load() != LEGACY_MAGIC or _Unpickler(file).load() != LEGACY_PROTOCOL:
        raise WeightsError(
            "this file was not written by torch.save: its first bytes belong to another format"
        )
    if not _Unpickler(file).load()["little_endian"]:
        raise WeightsError("written on a big-endian machine, which is not supported")
    unpickler = _Unpickler(file)
    tensors = _tensors(unpickler.load())
    storages = {}
    for key in _Unpickler(file).load():
        count = int.from_bytes(_exactly(file, 8), "little")
        storages[key] = _exactly(file, count * unpickler.itemsizes[key])
    return {name: _array(tensor, storages) for name, tensor in tensors.items()}


def _exactly(file: io.BufferedIOBase, size: int) -> bytes:
    data = file.read(size)
    if len(data) != size:
        raise EOFError(f"{size} bytes expected, {len(data)} left")
    return data


class _Unpickler(pickle.Unpickler):
    """Accepts tensors and plain containers, and refuses everything else with its name."""

    def __init__(self, file: io.BufferedIOBase):
        super().__init__(file, encoding="utf-8")
        self.itemsizes: dict[str, int] = {}

    def find_class(self, module_name: str, global_name: str) -> Any:
        if (module_name, global_name) in KNOWN:
            return KNOWN[module_name, global_name]
        if module_name == "torch" and global_name in STORAGES:
            return _Type(np.dtype(STORAGES[global_name]))
        raise WeightsError(
            f"refused: the pickle imports {module_name}.{global_name}, which is not "
            "needed for weights; nothing in it was run. If you trust the file, "
            "save its state dict as safetensors"
        )

    def persistent_load(self, pid: Any) -> _Storage:
        kind, storage_type, key, _, _, *view = pid
        if kind != "storage" or not isinstance(storage_type, _Type):
            raise WeightsError(f"expected a tensor's storage, got {kind!r}")
        dtype = storage_type.dtype
        self.itemsizes[key] = dtype.itemsize
        offset = int(view[0][1]) if view and view[0] is not None else 0
        return _Storage(str(key), dtype, offset)


def _rebuild_tensor(
    storage: _Storage, offset: int, shape: tuple, strides: tuple, *_unused: Any
) -> _Tensor:
    return _Tensor(storage, int(offset), tuple(map(int, shape)), tuple(map(int, strides)))


def _rebuild_parameter(tensor: _Tensor, *_unused: Any) -> _Tensor:
    return tensor


KNOWN: dict[tuple[str, str], Callable] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch", "Size"): tuple,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
}


def _tensors(content: Any) -> dict[str, _Tensor]:
    if isinstance(content, Mapping) and isinstance(content.get(STATE_DICT), Mapping):
        content = content[STATE_DICT]
    if not isinstance(content, Mapping):
        raise WeightsError(f"the file must hold a dict of tensors, got a {type(content).__name__}")
    others = [str(name) for name, value in content.items() if not isinstance(value, _Tensor)]
    if others:
        raise WeightsError(
            "the file must hold a dict of tensors, but these entries are not "
            f"tensors: {', '.join(others)}"
        )
    return {str(name): tensor for name, tensor in content.items()}


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
