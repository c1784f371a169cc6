"""A tiny model whose class maps are of several classes, and pictures for it."""

import numpy as np
import reference
import torch
from PIL import Image

from segformer_jax import SegformerImageProcessor


def make_checkpoint(folder, **config):
    model = reference.hf_model("ForSemanticSegmentation", **config).float()
    noise = torch.randn(4, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():  # a random model would give nearly all pixels one class
        model.decode_head.classifier.bias -= model(noise).logits.mean((0, 2, 3))
    model.save_pretrained(folder)
    SegformerImageProcessor(size={"height": 64, "width": 96}).save_pretrained(folder)
    return folder


def make_picture(height, width, *, seed=0):
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 11, 3), np.uint8)
    return Image.fromarray(coarse).resize((width, height))
