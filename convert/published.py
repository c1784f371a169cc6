"""Compares official NVIDIA checkpoints with the logits published for them; needs no torch."""

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
    """Returns the published numbers and their sources: `published_logits.json` in this folder."""
    file = resources.files("segformer_jax.convert") / "published_logits.json"
    return json.loads(file.read_text(encoding="utf-8"))


def compare_with_published(
    name_or_path: str, image: Path, *, checkpoint: str | None = None
) -> dict[str, Any]:
    """Compares an official checkpoint's logits with those that other test suites publish for it.

    transformers publishes a corner of the logits of COCO's 000000039769.jpg for all fifteen
    checkpoints. segmentation_models.pytorch publishes a few upsampled logits of one checkpoint, on
    a picture of ones.

    Args:
        name_or_path: the hub name, or a folder with that checkpoint.
        image: the picture; its SHA-256 is checked.
        checkpoint: which published row to use, such as "segformer.b0.512x512.ade.160k"; None finds
            it by the hub name. The hub names in the table were written from memory: if one is
            wrong, give the row here.

    Returns:
        `model`, `checkpoint`, `image`; `checks`, a list of `suite`, `max_difference`, `tolerance`
        and `source`; `equal`, whether all are within their tolerance.

    Raises:
        ValueError: the picture is another one, or nothing was published for the checkpoint.
    """
    published = published_logits()
    row = checkpoint or _row(published, name_or_path)
    if row not in published["slices"]:
        rows = ", ".join(published["slices"])
        raise ValueError(f"nothing was published for {row!r}: the rows are {rows}")
    _check_image(image, published["image_sha256"])
    model = load_model(SegformerForSemanticSegmentation, name_or_path)
    checks = [_transformers(model, image, published, row)]
    if published["smp"]["checkpoint"] == row:
        checks.append(_smp(model, published["smp"]))
    return {
        "model": name_or_path,
        "checkpoint": row,
        "image": str(image),
        "checks": checks,
        "equal": all(check["max_difference"] <= check["tolerance"] for check in checks),
    }


def _transformers(model: Any, image: Path, published: dict[str, Any], row: str) -> dict[str, Any]:
    own = published["slices"][row]
    inputs = SegformerImageProcessor()(image)  # all logits were published for 512 × 512
    corner = np.asarray(model(inputs["pixel_values"]).logits)[0, :3, :3, :3]
    expected = np.moveaxis(own["logits"], 0, -1)  # published as classes, rows, columns
    tolerance = own.get("tolerance", published["tolerance"])
    return _check("transformers", corner, expected, tolerance, published["source"])


def _smp(model: Any, published: dict[str, Any]) -> dict[str, Any]:
    """Compares with logits that are upsampled to the picture's size with aligned corners."""
    logits = np.asarray(model(np.ones((1, 512, 512, 3), np.float32)).logits)[0, :, :, 0]
    row = _aligned(logits, 256, 512)
    first = [float(_aligned(row, column, 512)) for column in range(6)]
    return _check(
        "segmentation_models.pytorch",
        first,
        published["values"],
        published["atol"],
        published["source"],
    )


def _aligned(values: np.ndarray, place: int, size: int) -> np.ndarray:
    """Interpolates entry `place` of `size` along the first axis, as torch's align_corners=True."""
    position = place * (len(values) - 1) / (size - 1)
    low = int(position)
    high = min(low + 1, len(values) - 1)
    return values[low] + (values[high] - values[low]) * (position - low)


def _check(suite: str, found: Any, expected: Any, tolerance: float, source: str) -> dict[str, Any]:
    difference = float(np.abs(np.subtract(found, expected)).max())
    return {
        "suite": suite,
        "max_difference": difference,
        "tolerance": tolerance,
        "source": source,
    }


def _row(published: dict[str, Any], name: str) -> str:
    for row, slices in published["slices"].items():
        if slices["hub_name"] == name:
            return row
    known = ", ".join(slices["hub_name"] for slices in published["slices"].values())
    raise ValueError(
        f"nothing was published for {name!r}: known hub names, written from memory, are {known}"
    )


def _check_image(image: Path, expected: str) -> None:
    found = hashlib.sha256(Path(image).read_bytes()).hexdigest()
    if found != expected:
        raise ValueError(
            f"{image} must be COCO val2017 000000039769.jpg, for which the logits "
            f"were published, SHA-256 {expected}, got {found}"
        )
