"""Reads and writes the weight files of SegFormers as NumPy arrays by name."""

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from segformer_jax.atomic import atomic_path
from segformer_jax.checkpoints.int8 import INT8_FILE, dequantise
from segformer_jax.checkpoints.not_weights import check_is_no_stand_in
from segformer_jax.checkpoints.torch_file import read_torch_file
from segformer_jax.errors import WeightsError, listed
from segformer_jax.json_text import json_value

SAFETENSORS, TORCH = "model.safetensors", "pytorch_model.bin"
FLOATS = (SAFETENSORS, f"{SAFETENSORS}.index.json", TORCH, f"{TORCH}.index.json")
CONTAINERS = (*FLOATS, INT8_FILE)  # in the order in which they are looked for
PARAMETERS = "parameters.safetensors"  # the file of `checkpoints.flat`, for any network
TYPES = (  # the types of safetensors that NumPy or ml_dtypes has
    *("F64", "F32", "F16", "BF16", "BOOL"),
    *("I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8"),
)
TORCH_SUFFIXES = (".bin", ".pth", ".pt", ".ckpt", ".tar")
FLOAT8 = ", because float8 has a scale of its own in each library that writes it"
BESIDE = ("optimizer", "scheduler", "scaler", "training_args", "random_states", "rng_state")


def read_weights(path: str | Path) -> dict[str, np.ndarray]:
    """Reads the tensors of a checkpoint, with its names and types; int8 kernels become float32.

    Args:
        path: a file (.safetensors, .bin, .pth, .pt, .ckpt, .tar), or a folder with
            `model.safetensors` or `pytorch_model.bin`, whole or in shards, or
            `model.int8.safetensors`. If there are several, safetensors are preferred to pickles,
            and floats to int8.

    Raises:
        WeightsError: a file or shard is missing, damaged, empty, a pointer of Git LFS or a web
            page; as `read_torch_file`.
    """
    file = weights_file(path)
    if file is None:
        raise WeightsError(
            f"{path} has no weights: expected one of {', '.join(CONTAINERS)}"
            f"{flat_hint(path) or checkpoints_inside(path)}"
        )
    read = _read_shards if file.name.endswith(".index.json") else _read_file
    return dequantise(read(file), source=file)


def weights_file(path: str | Path) -> Path | None:
    """Returns the file that `read_weights` opens first; None if there is none.

    For a folder, this is the first of `CONTAINERS` that it holds.
    """
    path = Path(path)
    if path.is_file():
        return path
    return next((path / name for name in CONTAINERS if (path / name).is_file()), None)


def flat_hint(path: str | Path) -> str:
    """Returns how to load a folder that `save_flat` wrote, to end an error message; else ""."""
    if not (Path(path) / PARAMETERS).is_file():
        return ""
    return (
        f"; its {PARAMETERS} belongs to a network that Hugging Face's layout can't represent: "
        "build that network, then call segformer_jax.checkpoints.flat.load_flat(model, folder)"
    )


def checkpoints_inside(folder: str | Path) -> str:
    """Returns a hint at weights that a folder holds under other names or in folders, or ""."""
    entries = sorted(Path(folder).iterdir()) if Path(folder).is_dir() else []
    kinds = (".safetensors", *TORCH_SUFFIXES)
    named = [
        entry.name
        for entry in entries
        if (entry.suffix in kinds and not entry.name.startswith(BESIDE))
        or (entry.is_dir() and weights_file(entry) is not None)
    ]
    return f"; it holds {listed(named)}: give one of those by its path" if named else ""


def is_int8(path: str | Path) -> bool:
    """Whether the weights of a file or folder are int8; only the file's header is read."""
    file = weights_file(path)
    if file is None or file.suffix != ".safetensors":
        return False
    check_is_no_stand_in(file)
    with _safetensors(file), safe_open(file, "numpy") as opened:
        return any(opened.get_slice(name).get_dtype() == "I8" for name in list(opened.keys()))


def write_safetensors(tensors: Mapping[str, np.ndarray], path: str | Path) -> None:
    """Writes a safetensors file that transformers can read, completely or not at all."""
    with atomic_path(path) as temporary:
        contiguous = {name: np.asarray(value, order="C") for name, value in tensors.items()}
        save_file(contiguous, temporary, metadata={"format": "pt"})


def _read_file(path: Path) -> dict[str, np.ndarray]:
    check_is_no_stand_in(path)
    if path.suffix in TORCH_SUFFIXES:
        return read_torch_file(path)
    if path.suffix != ".safetensors":
        known = ", ".join((".safetensors", *TORCH_SUFFIXES))
        raise WeightsError(f"{path} must be a file of weights, got another kind: known are {known}")
    with _safetensors(path):
        with safe_open(path, "numpy") as opened:
            types = {name: opened.get_slice(name).get_dtype() for name in list(opened.keys())}
        foreign = sorted(name for name, kind in types.items() if kind not in TYPES)
        if foreign:
            kinds = ", ".join(sorted({types[name] for name in foreign}))
            raise WeightsError(
                f"the tensors of {path} must be of one of {', '.join(TYPES)}, got {kinds} for "
                f"{listed(foreign)}: save them as float32 or bfloat16 with the library that wrote "
                f"them{FLOAT8 if 'F8_' in kinds else ''}"
            )
        return load_file(path)


@contextlib.contextmanager
def _safetensors(path: Path) -> Iterator[None]:
    try:
        yield
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(
            f"{path} is damaged or not a safetensors file ({error}): download or save it again"
        ) from error


def _read_shards(index: Path) -> dict[str, np.ndarray]:
    check_is_no_stand_in(index)
    try:
        values = json_value(index.read_bytes())["weight_map"].values()
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise WeightsError(
            f"{index} is not an index of weight shards ({error!r}): download it again"
        ) from error
    tensors: dict[str, np.ndarray] = {}
    for name in sorted({str(value) for value in values}):
        if Path(name).name != name:
            raise WeightsError(
                f"{index} must name files in its own folder, got {name!r}: download the "
                "checkpoint again"
            )
        if not os.path.isfile(index.parent / name):  # False for a name too long
            raise WeightsError(
                f"{index} names the file {name}, which is missing beside it: download "
                "the checkpoint again"
            )
        tensors |= _read_file(index.parent / name)
    return tensors
