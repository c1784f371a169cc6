"""Makes the checkpoints that all contenders load: transformers' models with random weights."""

import tempfile
from pathlib import Path

import numpy as np

from segformer_jax import SegformerConfig
from segformer_jax.atomic import atomic_folder

SHAPES = ("hidden_sizes", "depths", "num_attention_heads", "sr_ratios", "decoder_hidden_size")


def make_checkpoint(variant: str, *, num_labels: int = 150) -> Path:
    """Returns a folder with b0…b5 in transformers' layout, which is made only once.

    No parameter or statistic has its initial value, because norms near the identity would hide that
    a contender loads them wrongly.
    """
    folder = Path(tempfile.gettempdir()) / "segformer-benchmarks" / f"{variant}-{num_labels}"
    if (folder / "model.safetensors").exists():
        return folder
    import torch
    import transformers

    ours = getattr(SegformerConfig, variant)()
    config = transformers.SegformerConfig(
        num_labels=num_labels, **{name: getattr(ours, name) for name in SHAPES}
    )
    torch.manual_seed(0)
    model = transformers.SegformerForSemanticSegmentation(config)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.LayerNorm | torch.nn.BatchNorm2d):
                module.weight.normal_(1, 0.1)
                module.bias.normal_(0, 0.1)
            elif getattr(module, "weight", None) is not None:
                module.weight.normal_(0, module.weight[0].numel() ** -0.5)
        model.decode_head.batch_norm.running_mean.normal_(0, 0.1)
        model.decode_head.batch_norm.running_var.uniform_(0.5, 2)
    with atomic_folder(folder) as temporary:  # a run may be killed here
        model.save_pretrained(temporary)
        transformers.SegformerImageProcessorPil().save_pretrained(temporary)
    return folder


def make_pixels(batch: int, height: int, width: int) -> np.ndarray:
    """Returns normalised noise, (b, h, w, 3) float32; times do not depend on the values."""
    return np.random.default_rng(0).normal(size=(batch, height, width, 3)).astype(np.float32)
