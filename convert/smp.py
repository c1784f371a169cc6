"""Converts SegFormers of segmentation_models.pytorch (SMP) to Hugging Face's names and config.

Its encoder has the authors' names, and its decoder counts the stages from the deepest one. The
norms of its blocks and the last of each stage have another epsilon than in Hugging Face's layout.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from segformer_jax.convert.nvlabs import encoder_to_hf
from segformer_jax.convert.sizes import config_of

from segformer_jax.errors import WeightsError, listed

Tensors = Mapping[str, np.ndarray]

BEGINNINGS = ("encoder.patch_embed1.", "decoder.mlp_stage.")
ENCODER = "encoder."
STAGE = re.compile(r"decoder\.mlp_stage\.([0-3])\.linear\.")
HEAD = {
    "decoder.fuse_stage.0.": "decode_head.linear_fuse.",
    "decoder.fuse_stage.1.": "decode_head.batch_norm.",
    "segmentation_head.0.": "decode_head.classifier.",
}
AUXILIARY = "classification_head."  # a classifier of whole pictures, made by `aux_params`
EPSILONS = {"blocks": 1e-6, "stages": 1e-6}


def is_smp(tensors: Tensors) -> bool:
    """Whether names are SMP's: its encoders mit_b0 to b5, or the decoder of its `Segformer`."""
    return any(name.startswith(BEGINNINGS) for name in tensors)


def smp_to_hf(tensors: Tensors) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Returns the tensors under the names in HF's files, and the content of a config.json.

    The variant is determined from the shapes, and added to the config as "variant". The epsilons
    are in the config's `layer_norm_epsilons`. The logits at a quarter of the picture's size are
    those of SMP, which enlarges them with aligned corners: this library and HF do so without.

    Args:
        tensors: the state dict of a `Segformer` of SMP.

    Raises:
        WeightsError: the encoder is none of mit_b0 to b5, or the decoder another network's: the
            message lists names and sizes that are not SegFormer's, or what is missing.
    """
    encoder = {n.removeprefix(ENCODER): v for n, v in tensors.items() if n.startswith(ENCODER)}
    converted, others = encoder_to_hf(encoder, prefix="segformer.")
    unknown = [ENCODER + name for name in others]
    for name, value in tensors.items():
        if name.startswith(ENCODER):
            continue
        if match := STAGE.match(name):
            place = f"decode_head.linear_c.{3 - int(match[1])}.proj."
            converted[place + name[match.end() :]] = value
        elif part := next((part for part in HEAD if name.startswith(part)), None):
            converted[HEAD[part] + name.removeprefix(part)] = value
        elif not name.startswith(AUXILIARY):
            unknown.append(name)
    if unknown:
        raise WeightsError(f"these tensors do not belong to a SegFormer: {listed(sorted(unknown))}")
    config, variant = config_of(converted)
    return converted, config | {"layer_norm_epsilons": EPSILONS, "variant": variant}
