"""Reads the config of a SegFormer off the shapes of its tensors."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from segformer_jax.checkpoints import names
from segformer_jax.errors import WeightsError

HEADS = (1, 2, 5, 8)  # the same for every variant; not visible in the shapes
STRIDES = (4, 2, 2, 2)  # likewise
VARIANTS = {  # depths, widths
    "b0": ((2, 2, 2, 2), (32, 64, 160, 256)),
    "b1": ((2, 2, 2, 2), (64, 128, 320, 512)),
    "b2": ((3, 4, 6, 3), (64, 128, 320, 512)),
    "b3": ((3, 4, 18, 3), (64, 128, 320, 512)),
    "b4": ((3, 8, 27, 3), (64, 128, 320, 512)),
    "b5": ((3, 6, 40, 3), (64, 128, 320, 512)),
}


def config_of(tensors: Mapping[str, np.ndarray]) -> tuple[dict[str, Any], str]:
    """Returns the content of a config.json, with classes called LABEL_0, …, and the variant.

    Args:
        tensors: by the names of Hugging Face's files, old or new.

    Raises:
        WeightsError: a tensor is missing, or the sizes are those of no variant b0 to b5, whose
            numbers of attention heads are known.
    """
    shapes = {
        path.removeprefix("segformer."): tensor.shape
        for path, tensor in names.to_flax(tensors).items()
    }
    stages = [f"stages.{i}." for i in range(4)]
    try:
        widths = tuple(shapes[f"{stage}patch_embeddings.proj.bias"][0] for stage in stages)
        depths = tuple(_depth(shapes, stage) for stage in stages)
        variant = variant_of(depths, widths)
        hidden = [shapes[f"{stage}blocks.0.mlp.fc1.bias"][0] for stage in stages]
        kernels = [shapes[f"{stage}patch_embeddings.proj.kernel"] for stage in stages]
    except KeyError as error:
        name = names.hf_name(error.args[0])
        raise WeightsError(f"the encoder is incomplete: {name} is missing") from None
    sizes = {
        "model_type": "segformer",
        "num_channels": kernels[0][2],
        "num_encoder_blocks": 4,
        "depths": list(depths),
        "hidden_sizes": list(widths),
        "patch_sizes": [kernel[0] for kernel in kernels],
        "strides": list(STRIDES),
        "num_attention_heads": list(HEADS),
        "sr_ratios": [_reduction(shapes, stage) for stage in stages],
        "mlp_ratios": [size // width for size, width in zip(hidden, widths, strict=True)],
    }
    return sizes | _head(shapes), variant


def variant_of(depths: tuple[int, ...], widths: tuple[int, ...]) -> str:
    """Returns the name of the variant with these depths and widths, b0 to b5.

    Raises:
        WeightsError: no variant has them.
    """
    for variant, sizes in VARIANTS.items():
        if sizes == (depths, widths):
            return variant
    raise WeightsError(
        f"no SegFormer variant has depths {depths} and widths {widths}: known are b0 to b5; put "
        "the config.json of the network beside its weights"
    )


def _head(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    if kernel := shapes.get("decode_head.classifier.kernel"):
        kind = {
            "architectures": ["SegformerForSemanticSegmentation"],
            "decoder_hidden_size": kernel[0],
        }
    elif kernel := shapes.get("classifier.kernel"):
        kind = {"architectures": ["SegformerForImageClassification"]}
    else:
        return {"architectures": ["SegformerModel"]}
    return kind | {"id2label": {str(i): f"LABEL_{i}" for i in range(kernel[1])}}


def _depth(shapes: Mapping[str, Any], stage: str) -> int:
    blocks = {name.split(".")[3] for name in shapes if name.startswith(f"{stage}blocks.")}
    return len(blocks)


def _reduction(shapes: Mapping[str, tuple[int, ...]], stage: str) -> int:
    name = f"{stage}blocks.0.attention.sequence_reduction.sequence_reduction.kernel"
    return shapes[name][0] if name in shapes else 1
