"""Converts any SegFormer checkpoint to a folder in Hugging Face's layout, without torch."""

import contextlib
import json
import tempfile
import warnings
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from segformer_jax.convert import nvlabs, smp
from segformer_jax.convert.sizes import config_of

from segformer_jax.checkpoints import files, hub
from segformer_jax.checkpoints.adapter import is_adapter
from segformer_jax.checkpoints.pretrained import CONFIG, load_model, read_tensors, save_model
from segformer_jax.errors import WeightsError
from segformer_jax.images.processor import SegformerImageProcessor
from segformer_jax.models import (
    SegformerForImageClassification,
    SegformerForSemanticSegmentation,
    SegformerModel,
)

SIZES = {19: 1024}  # the side of Cityscapes' training crops; all others are 512


def convert_checkpoint(
    source: str | Path,
    out_dir: str | Path,
    *,
    weights: str = "float",
    id2label: Mapping[int, str] | None = None,
) -> str:
    """Writes config.json, model.safetensors and preprocessor_config.json of a checkpoint.

    The weights keep their type unless `weights` names one; int8 weights become float32. They are
    loaded into a model before they are written, which ensures that they fit the config.

    Args:
        source: a hub name, a folder, or a file of weights: in HF's layout, in the authors' own
            (NVlabs), in that of segmentation_models.pytorch, or with HF's names and no config.json,
            whose sizes are then read off it.
        out_dir: the folder to write, created if missing.
        weights: "float", "float16" or "int8", as in `save_model`.
        id2label: names of the classes, instead of the source's own.

    Returns:
        The model class, the variant if known, and the layout of the source, in words.

    Raises:
        WeightsError: as `load_model`, `read_weights`, `nvlabs_to_hf`, `smp_to_hf` and `config_of`.
        ValueError: as `save_model`.
    """
    path = hub.resolve(source)
    tensors = read_tensors(path)
    if smp.is_smp(tensors):
        tensors, config = smp.smp_to_hf(tensors)
        told = f" {config.pop('variant')}, from segmentation_models.pytorch's layout"
        processor = SegformerImageProcessor()
    elif nvlabs.is_nvlabs(tensors):
        tensors, config = nvlabs.nvlabs_to_hf(tensors)
        variant = config.pop("variant")
        labels = len(config.get("id2label", ()))
        processor = SegformerImageProcessor(
            size=SIZES.get(labels, 512), do_reduce_labels=labels == 150
        )
        told = f" {variant}, from the authors' layout"
    elif _has_config(path):
        processor = SegformerImageProcessor.from_pretrained(path)  # before anything is written
        kind = _convert(path, tensors, out_dir, weights, id2label)
        processor.save_pretrained(out_dir)
        return f"{kind}, from Hugging Face's layout"
    else:
        config, variant = config_of(tensors)
        processor = SegformerImageProcessor()
        told = f" {variant}, from Hugging Face's names"
        warnings.warn(
            f"there is no {CONFIG} beside the weights of {source}: the sizes of {variant} are read "
            f"off them, pictures are prepared by SegFormer's defaults, and the classes are called "
            f"{'as id2label says' if id2label else 'LABEL_0, LABEL_1, …'}",
            stacklevel=2,
        )
    with tempfile.TemporaryDirectory() as folder:
        files.write_safetensors(tensors, Path(folder) / "model.safetensors")
        (Path(folder) / CONFIG).write_text(json.dumps(config), encoding="utf-8")
        kind = _convert(Path(folder), tensors, out_dir, weights, id2label)
    processor.save_pretrained(out_dir)
    return f"{kind}{told}"


def _has_config(path: Path) -> bool:
    return is_adapter(path) or ((path if path.is_dir() else path.parent) / CONFIG).is_file()


def _convert(
    path: Path,
    tensors: Mapping[str, np.ndarray],
    out_dir: str | Path,
    weights: str,
    id2label: Mapping[int, str] | None,
) -> str:
    cls = _model_of(tensors)
    dtype = _dtype(tensors)
    wide = jax.enable_x64(True) if dtype.itemsize > 4 else contextlib.nullcontext()
    with wide:
        model = load_model(cls, path, param_dtype=dtype, id2label=id2label, may_start=False)
        save_model(model, out_dir, weights=weights)
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
