"""Converts checkpoints of SegFormer's authors (NVlabs, `.pth`) to Hugging Face's names and config.

This code was written from the names and shapes in such files. The files are under NVIDIA's
non-commercial licence; converted weights stay under it.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from segformer_jax.convert.sizes import config_of

from segformer_jax.errors import WeightsError, listed
from segformer_jax.images.labels import CLASS_SETS

Tensors = Mapping[str, np.ndarray]

PREFIX = "backbone."
CLASSES = {150: "ade20k", 19: "cityscapes"}

ENCODER = (  # the authors' names and HF's; stages count from 1 in the former, from 0 in the latter
    (r"patch_embed(\d)\.proj\.", "encoder.patch_embeddings.{}.proj."),
    (r"patch_embed(\d)\.norm\.", "encoder.patch_embeddings.{}.layer_norm."),
    (r"block(\d)\.(\d+)\.norm([12])\.", "encoder.block.{}.{}.layer_norm_{}."),
    (r"block(\d)\.(\d+)\.attn\.q\.", "encoder.block.{}.{}.attention.self.query."),
    (r"block(\d)\.(\d+)\.attn\.sr\.", "encoder.block.{}.{}.attention.self.sr."),
    (r"block(\d)\.(\d+)\.attn\.norm\.", "encoder.block.{}.{}.attention.self.layer_norm."),
    (r"block(\d)\.(\d+)\.attn\.proj\.", "encoder.block.{}.{}.attention.output.dense."),
    (r"block(\d)\.(\d+)\.mlp\.fc([12])\.", "encoder.block.{}.{}.mlp.dense{}."),
    (r"block(\d)\.(\d+)\.mlp\.dwconv\.dwconv\.", "encoder.block.{}.{}.mlp.dwconv.dwconv."),
    (r"norm(\d)\.", "encoder.layer_norm.{}."),
)
FUSED = re.compile(r"block(\d)\.(\d+)\.attn\.kv\.(weight|bias)")
HEAD = (
    (r"decode_head\.linear_c(\d)\.proj\.", "decode_head.linear_c.{}.proj."),
    (r"decode_head\.linear_fuse\.conv\.", "decode_head.linear_fuse."),
    (r"decode_head\.linear_fuse\.bn\.", "decode_head.batch_norm."),
    (r"decode_head\.linear_pred\.", "decode_head.classifier."),
    (r"head\.", "classifier."),
)
UNUSED = "decode_head.conv_seg."  # a classifier that is never used
OTHERS = {  # how the names of other networks begin: what they are
    ("decode_head.fusion_conv.", "decode_head.convs.", "layers.0."): (
        "mmsegmentation's SegFormer, another network that can't be converted: its head has a "
        "BatchNorm and a ReLU for each stage, and its LayerNorms the epsilon 1e-6, which the "
        "paper's head and a config.json of Hugging Face do not have"
    ),
}


def is_nvlabs(tensors: Tensors) -> bool:
    """Whether names are the authors', or another library's, which `nvlabs_to_hf` then refuses."""
    known = ("patch_embed1.", *(beginning for others in OTHERS for beginning in others))
    return any(name.removeprefix(PREFIX).startswith(known) for name in tensors)


def nvlabs_to_hf(tensors: Tensors) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Returns the tensors under the names in HF's files, and the content of a config.json.

    The variant is determined from the shapes, and added to the config as "variant".

    Args:
        tensors: a state dict of the authors' code, with or without `backbone.`, with the
            segmentation head, the ImageNet classifier, or neither.

    Raises:
        WeightsError: the checkpoint is the SegFormer of mmsegmentation, which is another network;
            it has names or sizes that are not SegFormer's (the message lists them), or lacks some.
    """
    named = {name.removeprefix(PREFIX): value for name, value in tensors.items()}
    for beginnings, reason in OTHERS.items():
        if any(name.startswith(beginnings) for name in named):
            raise WeightsError(f"the checkpoint must be a SegFormer as published, got {reason}")
    has_head = any(name.startswith(("decode_head.linear_pred.", "head.")) for name in named)
    prefix = "segformer." if has_head else ""
    converted, rest = encoder_to_hf(named, prefix=prefix)
    unknown = []
    for name, value in rest.items():
        if new := _renamed(name, HEAD):
            converted[new] = value
        elif not name.startswith(UNUSED):
            unknown.append(name)
    if unknown:
        raise WeightsError(f"these tensors do not belong to a SegFormer: {listed(sorted(unknown))}")
    config, variant = config_of(converted)
    classes = CLASSES.get(len(config.get("id2label", ())))
    if classes and "decoder_hidden_size" in config:
        config["id2label"] = {str(i): name for i, name in enumerate(CLASS_SETS[classes].names)}
    return converted, config | {"variant": variant}


def encoder_to_hf(
    tensors: Tensors, *, prefix: str
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Returns the encoder's tensors under HF's names, after a prefix, and the others as they are.

    Keys and values, one fused layer in the authors' code, are split.
    """
    converted: dict[str, np.ndarray] = {}
    others = {}
    for name, value in tensors.items():
        if fused := FUSED.fullmatch(name):
            stage, block, leaf = int(fused[1]) - 1, fused[2], fused[3]
            place = f"{prefix}encoder.block.{stage}.{block}.attention.self"
            converted[f"{place}.key.{leaf}"], converted[f"{place}.value.{leaf}"] = np.split(
                value, 2
            )
        elif new := _renamed(name, ENCODER):
            converted[prefix + new] = value
        else:
            others[name] = value
    return converted, others


def _renamed(name: str, table: tuple[tuple[str, str], ...]) -> str | None:
    for pattern, target in table:
        match = re.match(pattern, name)
        if match:
            groups = list(match.groups())
            if groups:
                groups[0] = str(int(groups[0]) - 1)
            return target.format(*groups) + name[match.end() :]
    return None
