"""Official NVIDIA checkpoints against the logits that were published for them; needs no torch."""

import hashlib
import json
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from segformer_jax.checkpoints.pretrained import load_model
from segformer_jax.images.processor import SegformerImageProcessor
from segformer_jax.models.segformer import SegformerForSemanticSegmentation


def published_logits() -> dict[str, Any]:
    """The published numbers and their sources: `published_logits.json` beside this file."""
    file = resources.files("segformer_jax.convert") / "published_logits.json"
    return json.loads(file.read_text(encoding="utf-8"))


def compare_with_published(
    name_or_path: str, image: Path, *, checkpoint: str | None = None
) -> dict[str, Any]:
    """Compares the first logits of an official checkpoint on COCO's 000000039769.jpg.

    Args:
        name_or_path: the hub name, or a folder with that checkpoint.
        image: the picture; its SHA-256 is checked.
        checkpoint: which published row to take, such as "segformer.b0.512x512.ade.160k"; found by
            the hub name when left out. The hub names in the table are from memory: where one is
            wrong, say the row here.

    Returns:
        `equal`, `max_difference`, `tolerance`, `checkpoint`, `model`, `source`.

    Raises:
        ValueError: another picture, or a checkpoint that nothing was published for.
    """
    published = published_logits()
    row = checkpoint or _row(published, name_or_path)
    if row not in published["slices"]:
        raise ValueError(f"nothing was published for {row!r}; known are {_known(published)}")
    _check_image(image, published["image_sha256"])
    expected = np.array(published["slices"][row]["logits"])  # classes, rows, columns
    model = load_model(SegformerForSemanticSegmentation, name_or_path)
    inputs = SegformerImageProcessor()(image)  # all were published for 512 × 512
    logits = np.asarray(model(inputs["pixel_values"]).logits)[0, :3, :3, :3]
    difference = float(np.abs(np.moveaxis(logits, -1, 0) - expected).max())
    tolerance = published["slices"][row].get("tolerance", published["tolerance"])
    return {
        "model": name_or_path,
        "checkpoint": row,
        "image": str(image),
        "max_difference": difference,
        "tolerance": tolerance,
        "equal": difference <= tolerance,
        "source": published["slices"][row].get("source", published["source"]),
    }


def _row(published: dict[str, Any], name: str) -> str:
    for row, slices in published["slices"].items():
        if slices["hub_name"] == name:
            return row
    raise ValueError(
        f"nothing was published for {name!r}; known (hub names from memory) are {_known(published)}"
    )


def _known(published: dict[str, Any]) -> str:
    return ", ".join(slices["hub_name"] for slices in published["slices"].values())


def _check_image(image: Path, expected: str) -> None:
    found = hashlib.sha256(Path(image).read_bytes()).hexdigest()
    if found != expected:
        raise ValueError(
            f"{image} has SHA-256 {found}; the logits were published for COCO val2017 "
            f"000000039769.jpg, {expected}"
        )
