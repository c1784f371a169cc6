"""Converts any SegFormer checkpoint to a folder in Hugging Face's layout, without torch."""

import contextlib
import json
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from segformer_jax.convert import nvlabs

from segformer_jax.checkpoints import files, hub
from segformer_jax.checkpoints.pretrained import CONFIG, PROCESSOR, load_model, save_model
from segformer_jax.errors import WeightsError
from segformer_jax.images.processor import SegformerImageProcessor
from segformer_jax.models import (
    SegformerForImageClassification,
    SegformerForSemanticSegmentation,
    SegformerModel,
)

SIZES = {19: 1024}  # the side of Cityscapes' training crops; all others are 512


def convert_checkpoint(source: str | Path, out_dir: str | Path, *, weights: str = "float") -> str:
    """Writes config.json, model.safetensors and preprocessor_config.json of a checkpoint.

    The weights keep their type unless `weights` names one; int8 weights become float32. They are
    loaded into a model before they are written, which ensures that they fit the config.

    Args:
        source: a hub name, a folder, or a .bin, .pth or .safetensors file: HF's with config.json
            beside it, or the authors' own (NVlabs), which needs none.
        out_dir: the folder to write, created if missing.
        weights: "float", "float16" or "int8", as in `save_model`.

    Returns:
        The model class, the variant if known, and the layout of the source, in words.

    Raises:
        WeightsError: as `load_model`, `read_weights` and `nvlabs_to_hf`.
        ValueError: as `save_model`.
    """
    path = hub.resolve(source)
    tensors = files.read_weights(path)
    if not nvlabs.is_nvlabs(tensors):
        folder = path if path.is_dir() else path.parent
        processor = _processor(folder)  # read before anything is written
        kind = _convert(path, tensors, out_dir, weights)
        processor.save_pretrained(out_dir)
        return f"{kind}, from Hugging Face's layout"
    converted, config = nvlabs.nvlabs_to_hf(tensors)
    variant = config.pop("variant")
    with tempfile.TemporaryDirectory() as folder:
        files.write_safetensors(converted, Path(folder) / "model.safetensors")
        (Path(folder) / CONFIG).write_text(json.dumps(config), encoding="utf-8")
        kind = _convert(Path(folder), converted, out_dir, weights)
    labels = len(config.get("id2label", ()))
    side = SIZES.get(labels, 512)
    SegformerImageProcessor(size=side, do_reduce_labels=labels == 150).save_pretrained(out_dir)
    return f"{kind} {variant}, from the authors' layout"


def _convert(
    path: Path, tensors: Mapping[str, np.ndarray], out_dir: str | Path, weights: str
) -> str:
    cls = _model_of(tensors)
    dtype = _dtype(tensors)
    wide = jax.enable_x64(True) if dtype.itemsize > 4 else contextlib.nullcontext()
    with wide:
        save_model(load_model(cls, path, param_dtype=dtype), out_dir, weights=weights)
    return cls.__name__


def _model_of(tensors: Mapping[str, np.ndarray]) -> Any:
    if any(name.startswith("decode_head.") for name in tensors):
        return SegformerForSemanticSegmentation
    if any(name.startswith("classifier.") for name in tensors):
        return SegformerForImageClassification
    return SegformerModel


def _dtype(tensors: Mapping[str, np.ndarray]) -> np.dtype:
    """Returns the type of most tensors, except integers, which are counters."""
    kinds = Counter(value.dtype for value in tensors.values() if value.dtype.kind not in "iub")
    if not kinds:
        raise WeightsError("the checkpoint has no floating-point tensor")
    return kinds.most_common(1)[0][0]


def _processor(folder: Path) -> SegformerImageProcessor:
    has_own = (folder / PROCESSOR).is_file()
    return SegformerImageProcessor.from_pretrained(folder) if has_own else SegformerImageProcessor()
