"""Measures every contender's forward pass, and the way from a decoded photo to a class map."""

import math
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

from benchmarks.checkpoints import make_checkpoint, make_pixels
from benchmarks.contender import CONTENDERS, TENSORFLOAT32
from benchmarks.race import Entry, Lane, race
from segformer_jax import SegformerConfig
from segformer_jax.models.arithmetic import multiply_adds

Row = dict[str, Any]
PHOTO = Path(__file__).parents[1] / "examples" / "street.jpg"


def measure_forward(
    variant: str,
    *,
    batch: int,
    side: int,
    contenders: list[str],
    rounds: int,
    peaks: dict[str, float],
) -> tuple[list[Row], list[str]]:
    """Measures the logits of random pixels, with 150 classes, and checks that all agree.

    The first contender must be ours.

    Returns:
        A row per contender (`ratio` is our time ÷ theirs, in the same type), and what could not be
        run.

    Raises:
        AssertionError: logits are further from ours than the contender's tolerance.
    """
    folder = make_checkpoint(variant)
    pixels = make_pixels(batch, side, side)
    entries = [Entry(name, folder, pixels, side, side) for name in contenders]
    lanes, failures = race(entries, rounds=rounds)
    check_agreement(lanes)
    config = getattr(SegformerConfig, variant)(num_labels=150)
    work = f"{variant}, {batch} × {side}×{side}"
    count = batch * multiply_adds(config, side, side) / 1e9
    rows = _rows(work, lanes)
    for row in rows:
        rate = peaks.get(CONTENDERS[row["contender"]].dtype)
        if rate:  # only the folded model's arithmetic counts, not what others compute in addition
            row["share"] = count / (row["ms"] / 1e3) / rate
        row["ms_per_megapixel"] = row["ms"] / (batch * side * side / 1e6)
    return rows, failures


def measure_end_to_end(*, rounds: int, contenders: list[str]) -> tuple[list[Row], list[str]]:
    """Measures b0 from a decoded photo, 1280×960, to the class of each of its pixels."""
    photo = np.asarray(Image.open(PHOTO).convert("RGB").resize((1280, 960)))
    folder = make_checkpoint("b0")
    entries = [Entry(name, folder, photo, 960, 1280, "end_to_end") for name in contenders]
    lanes, failures = race(entries, rounds=rounds)
    for lane in lanes[1:]:
        same = float((lane.output == lanes[0].output).mean())
        assert same > (0.99 if jax.default_backend() == "gpu" else 0.9999), (
            f"{lane.contender} has the same class on {same:.4%} of the photo"
        )
    return _rows("b0, photo 1280×960 → class map", lanes), failures


def check_agreement(lanes: list[Lane]) -> None:
    """Fails if logits differ from ours by more than the tolerance of contender and device."""
    reference = lanes[0].output
    least = TENSORFLOAT32 if jax.default_backend() == "gpu" else 0
    for lane in lanes[1:]:
        distance = np.linalg.norm(lane.output - reference) / np.linalg.norm(reference)
        tolerance = max(least, CONTENDERS[lane.contender].tolerance)
        assert distance <= tolerance, f"{lane.contender} is {distance:.1e} from ours"


def growth(rows: list[Row], contender: str) -> float:
    """Fits the power of the number of pixels with which a contender's time grows."""
    own = [row for row in rows if row["contender"] == contender]
    pixels = [math.log(row["ms"] / row["ms_per_megapixel"]) for row in own]
    return float(np.polyfit(pixels, [math.log(row["ms"]) for row in own], 1)[0])


def _rows(work: str, lanes: list[Lane]) -> list[Row]:
    ours = {CONTENDERS[lane.contender].dtype: lane for lane in reversed(lanes) if _is_ours(lane)}
    return [
        {
            "work": work,
            "contender": lane.contender,
            "ms": lane.median,
            "low": lane.low,
            "high": lane.high,
            "ratio": ours[CONTENDERS[lane.contender].dtype].median / lane.median,
            "peak_mb": lane.peak,
            "added_mb": lane.added,
            "memory_ratio": ours[CONTENDERS[lane.contender].dtype].peak / lane.peak,
            "first_ms": lane.first,
        }
        for lane in lanes
    ]


def _is_ours(lane: Lane) -> bool:
    return CONTENDERS[lane.contender].module == "ours"
