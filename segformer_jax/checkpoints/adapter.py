"""Merges the low-rank adapters of a PEFT folder (LoRA) into the weights that they belong to.

Such a folder holds adapter_config.json and adapter_model.safetensors (or .bin): for a layer's
weight W two small matrices A and B, where W + scale·B·A is meant, and whole tensors for the parts
that were trained as they are, such as the decode head.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from segformer_jax.checkpoints import files, hub, names
from segformer_jax.checkpoints.json_file import read_json
from segformer_jax.checkpoints.prefix import without_prefix
from segformer_jax.errors import WeightsError, listed

ADAPTER_CONFIG = "adapter_config.json"
ADAPTERS = ("adapter_model.safetensors", "adapter_model.bin")
PREFIX = "base_model.model."  # of every name in the file
LOW_RANK = re.compile(r"(.+)\.lora_([AB])(?:\.default)?\.weight")
PLAIN_STARTS = (None, True, False, "gaussian", "orthogonal", "eva")  # W itself stays as it was


def is_adapter(path: Path) -> bool:
    """Whether a folder holds adapters, and not the weights of a whole model."""
    return (path / ADAPTER_CONFIG).is_file() and files.weights_file(path) is None


def base_of(folder: Path) -> Path:
    """Returns the folder or file of the model that the adapters change, downloaded if necessary.

    Raises:
        WeightsError: the config names no model, or one that can't be found.
    """
    name = read_json(folder / ADAPTER_CONFIG).get("base_model_name_or_path")
    advice = f"write the folder or hub name of that model into {folder / ADAPTER_CONFIG}"
    if not isinstance(name, str) or not name:
        raise WeightsError(
            f"base_model_name_or_path must name the model of these adapters, got {name!r}: {advice}"
        )
    try:
        return hub.resolve(name)
    except WeightsError as error:
        raise WeightsError(
            f"the model of the adapters in {folder} can't be opened: {error}; {advice}"
        ) from error


def read_adapters(folder: Path) -> dict[str, np.ndarray]:
    """Reads the tensors of the folder, by the names of the model's layers.

    Raises:
        WeightsError: they are missing or damaged, or of a kind of adapter that can't be merged.
    """
    settings = read_json(folder / ADAPTER_CONFIG)
    kind, start = settings.get("peft_type"), settings.get("init_lora_weights")
    if kind != "LORA" or settings.get("use_dora") or start not in PLAIN_STARTS:
        named = f"{kind}{' with use_dora' * bool(settings.get('use_dora'))}"
        named += f" and init_lora_weights {start!r}" * (start not in PLAIN_STARTS)
        raise WeightsError(
            f"the adapters in {folder} must be plain LoRA, got {named}: merge them with PEFT, by "
            "model.merge_and_unload(), and save that"
        )
    file = next((folder / name for name in ADAPTERS if (folder / name).is_file()), None)
    if file is None:
        raise WeightsError(f"{folder} must hold one of {', '.join(ADAPTERS)}, got none of them")
    return {
        name.removeprefix(PREFIX).replace(".base_layer.", "."): tensor
        for name, tensor in files.read_weights(file).items()
    }


def merged(folder: Path) -> dict[str, np.ndarray]:
    """Merges the adapters into their base; returns its tensors, with its file's names and types.

    Raises:
        WeightsError: as `base_of`, `read_adapters` and `read_weights`; adapters of layers that the
            base does not have, or of other shapes.
    """
    base, settings = base_of(folder), read_json(folder / ADAPTER_CONFIG)
    tensors = without_prefix(files.read_weights(base), source=base)
    own = {_key(name): name for name in tensors}
    pairs: dict[str, dict[str, np.ndarray]] = {}
    for name, tensor in read_adapters(folder).items():
        if match := LOW_RANK.fullmatch(name):
            pairs.setdefault(match[1], {})[match[2]] = tensor
        else:
            tensors[own.get(_key(name), name)] = tensor
    unfit = []
    for layer, pair in pairs.items():
        name = own.get(_key(f"{layer}.weight"))
        change = _change(pair, _scale(layer, pair, settings)) if name and len(pair) == 2 else None
        if name is None or change is None or change.shape != tensors[name].shape:
            unfit.append(layer)
        else:
            weight = tensors[name]
            tensors[name] = (weight.astype(np.float32) + change).astype(weight.dtype)
    if unfit:
        raise WeightsError(
            f"adapters must belong to layers of {base} and have their shapes, which these of "
            f"{folder} do not: {listed(unfit)}; correct base_model_name_or_path in "
            f"{folder / ADAPTER_CONFIG}"
        )
    return tensors


def classes_of(folder: Path) -> int | None:
    """Returns the number of classes of the adapters' classifier; None if they keep the base's."""
    weights = (
        tensor
        for name, tensor in read_adapters(folder).items()
        if name in ("decode_head.classifier.weight", "classifier.weight")
    )
    return next((len(tensor) for tensor in weights), None)


def _key(name: str) -> str:
    return names.new_name(name).removeprefix("segformer.")


def _change(pair: Mapping[str, np.ndarray], scale: float) -> np.ndarray | None:
    """Returns scale·B·A in the shape of the kernel; None if the shapes of A and B do not fit."""
    a, b = (pair[key].astype(np.float32) for key in "AB")
    if a.ndim < 2 or b.reshape(len(b), -1).shape[1] != len(a):
        return None
    product = b.reshape(len(b), -1) @ a.reshape(len(a), -1)
    return (product * np.float32(scale)).reshape(len(b), *a.shape[1:])


def _scale(layer: str, pair: Mapping[str, np.ndarray], settings: Mapping[str, Any]) -> float:
    patterns = settings.get("alpha_pattern") or {}
    fitting = (v for key, v in patterns.items() if re.fullmatch(rf"(.*\.)?({key})", layer))
    alpha = next(fitting, settings.get("lora_alpha"))
    if not isinstance(alpha, int | float):
        raise WeightsError(f"lora_alpha in {ADAPTER_CONFIG} must be a number, got {alpha!r}")
    rank = len(pair["A"])
    return alpha / (rank**0.5 if settings.get("use_rslora") else rank)
