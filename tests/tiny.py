"""Writes a model with random weights to disk, for tests of the code around a model."""

from pathlib import Path

import reference

from segformer_jax import SegformerImageProcessor


def write_tiny(folder: Path, *, side: int = 64) -> Path:
    """Writes a model of 7 classes for `side` × `side` pixels; its class maps have many regions."""
    reference.hf_model("ForSemanticSegmentation").save_pretrained(folder)
    SegformerImageProcessor(size={"height": side, "width": side}).save_pretrained(folder)
    return folder
