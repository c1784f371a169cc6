"""A model of random weights on disk, for tests of what goes on around a model."""

from pathlib import Path

import reference

from segformer_jax import SegformerImageProcessor


def write_tiny(folder: Path, *, side: int = 64) -> Path:
    """Seven classes, `side` × `side` pixels; its class maps have many regions."""
    reference.hf_model("ForSemanticSegmentation").save_pretrained(folder)
    SegformerImageProcessor(size={"height": side, "width": side}).save_pretrained(folder)
    return folder
