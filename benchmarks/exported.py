"""`python -m benchmarks.exported` compares our ONNX file with transformers' in the same runtimes.

Transformers' file is exported by `torch.onnx` for the one shape; ours is measured with fixed sizes
("set") and with open ones ("open"). Runs of both are interleaved.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from benchmarks import machine, report
from benchmarks.checkpoints import make_checkpoint, make_pixels
from benchmarks.contender import EXPORTED
from benchmarks.race import Entry, race

TASKS = {"set": "forward", "open": "any_size"}  # sizes of our file → function of its peer module


def compare(
    variants: tuple[str, ...] = ("b0", "b2"),
    batch: int = 1,
    side: int = 512,
    rounds: int = 15,
    out: Path = Path("out/benchmarks/exported.json"),
) -> None:
    """Prints a table, in which `ratio` is our time ÷ transformers', and writes it as JSON.

    Args:
        variants: sizes of the network.
        batch: pictures per batch.
        side: side of the square input, in pixels.
        rounds: runs of each file.
        out: the JSON file.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    rows: list[dict[str, Any]] = []
    failures: list[str] = []
    about = machine.describe()
    for variant in variants:
        for ours in EXPORTED:
            for sizes in TASKS:
                more, failed = measure(variant, ours, sizes, batch=batch, side=side, rounds=rounds)
                rows += more
                failures += failed
                report.write_json(out, {"machine": about, "exported": rows, "not_run": failures})
    report.print_rows(rows, f"{batch} × {side}×{side}, ms")
    for failure in failures:
        print("not run:", failure)


def measure(
    variant: str, ours: str, sizes: str, *, batch: int, side: int, rounds: int
) -> tuple[list[dict[str, Any]], list[str]]:
    """Compares our file with transformers', after checking that their logits agree.

    Returns:
        One row and no failures; or no row, and what could not be run.
    """
    folder, pixels = make_checkpoint(variant), make_pixels(batch, side, side)
    theirs = ours.removeprefix("ours in ")
    entries = [
        Entry(theirs, folder, pixels, side, side),
        Entry(ours, folder, pixels, side, side, TASKS[sizes]),
    ]
    lanes, failures = race(entries, rounds=rounds)
    if failures:
        return [], [f"{variant}, sizes {sizes}, {failure}" for failure in failures]
    other, own = lanes
    distance = np.linalg.norm(own.output - other.output) / np.linalg.norm(other.output)
    tolerance = EXPORTED[ours].tolerance
    assert distance <= tolerance, f"{ours} is {distance:.1e} from transformers, on {variant}"
    row = dict(
        variant=variant,
        runtime=theirs,
        sizes=sizes,
        ours=own.median,
        transformers=other.median,
        ratio=own.median / other.median,
        distance=float(distance),
    )
    return [row], []


if __name__ == "__main__":
    tyro.cli(compare)
