"""Converts checkpoints of SegFormer's authors (NVlabs, `.pth`) to Hugging Face's names and config.

This code was written from the names and shapes in such files. The files are under NVIDIA's
non-commercial licence; converted weights stay under it.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from segformer_jax.errors import WeightsError
from segformer_jax.images.labels import CLASS_SETS

Tensors = Mapping[str, np.ndarray]

PREFIX = "backbone."
HEADS = (1, 2, 5, 8)  # of every variant; can't be read from the shapes
STRIDES = (4, 2, 2, 2)  # likewise
VARIANTS = {  # depths, widths
    "b0": ((2, 2, 2, 2), (32, 64, 160, 256)),
    "b1": ((2, 2, 2, 2), (64, 128, 320, 512)),
    "b2": ((3, 4, 6, 3), (64, 128, 320, 512)),
    "b3": ((3, 4, 18, 3), (64, 128, 320, 512)),
    "b4": ((3, 8, 27, 3), (64, 128, 320, 512)),
    "b5": ((3, 6, 40, 3), (64, 128, 320, 512)),
}
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
MMSEGMENTATION = ("decode_head.fusion_conv.", "decode_head.convs.", "layers.0.")


def is_nvlabs(tensors: Tensors) -> bool:
    """Whether names are the authors', or mmsegmentation's, which `nvlabs_to_hf` then refuses."""
    return any(
        name.removeprefix(PREFIX).startswith(("patch_embed1.", *MMSEGMENTATION)) for name in tensors
    )


def nvlabs_to_hf(tensors: Tensors) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Returns the tensors under the names in HF's files, and the content of a config.json.

    The variant is determined from the shapes, and added to the config as "variant". Keys and
    values, one fused layer in the authors' code, are split.

    Args:
        tensors: a state dict of the authors' code, with or without `backbone.`, with the
            segmentation head, the ImageNet classifier, or neither.

    Raises:
        WeightsError: the checkpoint is mmsegmentation's SegFormer, which is another network; it
            has names or sizes that are not SegFormer's (the message lists them), or lacks some.
    """
    named = {name.removeprefix(PREFIX): value for name, value in tensors.items()}
    if any(name.startswith(MMSEGMENTATION) for name in named):
        raise WeightsError(
            "this is mmsegmentation's SegFormer, another network that can't be "
            "converted: its head has a BatchNorm and a ReLU for each stage, which "
            "the paper's head and this library do not have"
        )
    config = _config(named)
    prefix = "" if config["architectures"] == ["SegformerModel"] else "segformer."
    converted: dict[str, np.ndarray] = {}
    unknown = []
    for name, value in named.items():
        if name.startswith(UNUSED):
            continue
        fused = FUSED.fullmatch(name)
        if fused:
            stage, block, leaf = int(fused[1]) - 1, fused[2], fused[3]
            place = f"{prefix}encoder.block.{stage}.{block}.attention.self"
            converted[f"{place}.key.{leaf}"], converted[f"{place}.value.{leaf}"] = np.split(
                value, 2
            )
        elif new := _renamed(name, ENCODER):
            converted[prefix + new] = value
        elif new := _renamed(name, HEAD):
            converted[new] = value
        else:
            unknown.append(name)
    if unknown:
        raise WeightsError(
            f"these tensors do not belong to a SegFormer: {', '.join(sorted(unknown))}"
        )
    return converted, config


def variant_of(depths: tuple[int, ...], widths: tuple[int, ...]) -> str:
    """Returns the name of the variant with these depths and widths, b0 to b5.

    Raises:
        WeightsError: no variant has them.
    """
    for variant, sizes in VARIANTS.items():
        if sizes == (depths, widths):
            return variant
    raise WeightsError(
        f"no SegFormer variant has depths {depths} and widths {widths}: known are b0 to b5"
    )


def _renamed(name: str, table: tuple[tuple[str, str], ...]) -> str | None:
    for pattern, target in table:
        match = re.match(pattern, name)
        if match:
            groups = list(match.groups())
            if groups:
                groups[0] = str(int(groups[0]) - 1)
            return target.format(*groups) + name[match.end() :]
    return None


def _config(named: Tensors) -> dict[str, Any]:
    try:
        widths = tuple(len(named[f"patch_embed{i}.proj.bias"]) for i in (1, 2, 3, 4))
        depths = tuple(_depth(named, i) for i in (1, 2, 3, 4))
        variant = variant_of(depths, widths)
        config = {
            "model_type": "segformer",
            "num_channels": named["patch_embed1.proj.weight"].shape[1],
            "num_encoder_blocks": 4,
            "depths": list(depths),
            "hidden_sizes": list(widths),
            "patch_sizes": [named[f"patch_embed{i}.proj.weight"].shape[-1] for i in (1, 2, 3, 4)],
            "strides": list(STRIDES),
            "num_attention_heads": list(HEADS),
            "sr_ratios": [_reduction(named, i) for i in (1, 2, 3, 4)],
            "mlp_ratios": [
                len(named[f"block{i}.0.mlp.fc1.bias"]) // width for i, width in enumerate(widths, 1)
            ],
            "variant": variant,
        }
        return config | _head(named)
    except KeyError as error:
        raise WeightsError(f"the encoder is incomplete: {error.args[0]} is missing") from None


def _head(named: Tensors) -> dict[str, Any]:
    if "decode_head.linear_pred.weight" in named:
        count, width = named["decode_head.linear_pred.weight"].shape[:2]
        kind = {"architectures": ["SegformerForSemanticSegmentation"], "decoder_hidden_size": width}
    elif "head.weight" in named:
        count = len(named["head.weight"])
        kind = {"architectures": ["SegformerForImageClassification"]}
    else:
        return {"architectures": ["SegformerModel"]}
    if count in CLASSES and "decoder_hidden_size" in kind:
        names = CLASS_SETS[CLASSES[count]].names
    else:
        names = tuple(f"LABEL_{i}" for i in range(count))
    return kind | {"id2label": {str(i): name for i, name in enumerate(names)}}


def _depth(named: Tensors, stage: int) -> int:
    found = (re.match(rf"block{stage}\.(\d+)\.", name) for name in named)
    return 1 + max((int(match[1]) for match in found if match), default=-1)


def _reduction(named: Tensors, stage: int) -> int:
    kernel = named.get(f"block{stage}.0.attn.sr.weight")
    return 1 if kernel is None else kernel.shape[-1]
