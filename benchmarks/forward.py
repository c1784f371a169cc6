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
    until: float = math.inf,
) -> tuple[list[Row], list[str]]:
    """Measures the logits of random pixels, with 150 classes, and checks that all agree.

    Args:
        variant: size of the network.
        batch: pictures per batch.
        side: of the square pictures.
        contenders: the names, of which the first must be ours.
        rounds: as in `race`.
        peaks: of `machine.peak`, for each type.
        until: as in `race`.

    Returns:
        A row per contender (`ratio` is our time ÷ theirs, in the same type; None if ours has not
        run), and the name and error of what could not be run or has other logits than ours.
    """
    folder = make_checkpoint(variant)
    pixels = make_pixels(batch, side, side)
    entries = [
        Entry(name, folder, pixels, side, side, calls=_calls_in_turn()) for name in contenders
    ]
    lanes, failures = race(entries, rounds=rounds, until=until)
    lanes, differing = agreeing(lanes)
    failures += differing
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
    entries = [
        Entry(name, folder, photo, 960, 1280, "end_to_end", _calls_in_turn()) for name in contenders
    ]
    lanes, failures = race(entries, rounds=rounds)
    for lane in lanes[1:]:
        same = float((lane.output == lanes[0].output).mean())
        assert same > (0.99 if jax.default_backend() == "gpu" else 0.9999), (
            f"{lane.contender} has the same class on {same:.4%} of the photo"
        )
    return _rows("b0, photo 1280×960 → class map", lanes), failures


def agreeing(lanes: list[Lane]) -> tuple[list[Lane], list[str]]:
    """Returns the lanes whose logits are ours, and the name and distance of the others.

    Logits may differ by the tolerance of contender and device. If the first lane isn't ours, which
    has then failed, nothing is compared.
    """
    if not lanes or not _is_ours(lanes[0]):
        return lanes, []
    reference = lanes[0].output
    least = TENSORFLOAT32 if jax.default_backend() == "gpu" else 0
    kept, failures = lanes[:1], []
    for lane in lanes[1:]:
        distance = np.linalg.norm(lane.output - reference) / np.linalg.norm(reference)
        tolerance = max(least, CONTENDERS[lane.contender].tolerance)
        if distance <= tolerance:
            kept.append(lane)
        else:
            failures.append(
                f"{lane.contender}: its logits are {distance:.1e} from those of "
                f"{lanes[0].contender}, {tolerance:.1e} allowed"
            )
    return kept, failures


def growth(rows: list[Row], contender: str) -> float:
    """Fits the power of the number of pixels with which a contender's time grows."""
    own = [row for row in rows if row["contender"] == contender]
    pixels = [math.log(row["ms"] / row["ms_per_megapixel"]) for row in own]
    return float(np.polyfit(pixels, [math.log(row["ms"]) for row in own], 1)[0])


def _rows(work: str, lanes: list[Lane]) -> list[Row]:
    ours = {CONTENDERS[lane.contender].dtype: lane for lane in reversed(lanes) if _is_ours(lane)}
    rows = []
    for lane in lanes:
        own = ours.get(CONTENDERS[lane.contender].dtype)
        rows.append(
            {
                "work": work,
                "contender": lane.contender,
                "ms": lane.median,
                "low": lane.low,
                "high": lane.high,
                "ratio": own and own.median / lane.median,
                "peak_mb": lane.peak,
                "added_mb": lane.added,
                "memory_ratio": own.peak / lane.peak if own and own.peak and lane.peak else None,
                "first_ms": lane.first,
            }
        )
    return rows


def _calls_in_turn() -> int:
    """Returns `Entry.calls` for this device; pauses between short runs slow a GPU down most."""
    return 5 if jax.default_backend() == "gpu" else 0


def _is_ours(lane: Lane) -> bool:
    return CONTENDERS[lane.contender].module == "ours"
