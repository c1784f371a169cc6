"""Compares the memory of a training step with transformers': `python -m benchmarks.train_memory`.

Each step is measured in a process of its own. *Peak* is the largest resident memory of the process,
with libraries, weights and AdamW's moments; *step* is the part that the steps added. Ours is the
second process, which finds its program compiled.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro

from benchmarks.report import print_rows

LABELS, STEPS = 150, 3
Variant = Literal["b0", "b1", "b2", "b3", "b4", "b5"]


def main(
    works: tuple[tuple[Variant, int, int], ...] = (("b0", 8, 256), ("b0", 8, 512), ("b2", 2, 512)),
) -> None:
    """Prints a row for each work.

    Args:
        works: variant, pictures per step, and side of the square pictures in pixels.
    """
    rows = []
    for variant, count, own in works:
        with tempfile.TemporaryDirectory() as cache:
            _measured("ours", variant, count, own, JAX_COMPILATION_CACHE_DIR=cache)
            ours = _measured("ours", variant, count, own, JAX_COMPILATION_CACHE_DIR=cache)
        theirs = _measured("theirs", variant, count, own)
        rows.append(
            {"work": f"{variant}, {count} × {own} × {own}"}
            | {f"ours_{name}_MB": round(value) for name, value in ours.items()}
            | {f"torch_{name}_MB": round(value) for name, value in theirs.items()}
            | {name: round(ours[name] / theirs[name], 2) for name in ours}
        )
    print_rows(rows, f"memory of a training step, {LABELS} classes, float32")


def _measured(
    name: str, variant: str, batch: int, side: int, **environment: str
) -> dict[str, float]:
    command = [
        sys.executable,
        "-m",
        "benchmarks.train_memory",
        name,
        variant,
        str(batch),
        str(side),
    ]
    options: dict[str, Any] = dict(stdout=subprocess.PIPE, text=True, check=True)
    done = subprocess.run(command, env=os.environ | environment, **options)
    return json.loads(done.stdout.splitlines()[-1])


def _report(name: str, variant: str, batch: int, side: int) -> None:
    """Runs a few steps in the child process, and prints its memory in MB as JSON."""
    rng = np.random.default_rng(0)
    pixels = rng.normal(size=(batch, side, side, 3)).astype(np.float32)
    labels = rng.integers(0, LABELS, (batch, side, side)).astype(np.int32)
    step = {"ours": _ours, "theirs": _theirs}[name](variant, pixels, labels)
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = _resident("VmRSS")
    for _ in range(STEPS):
        step()
    peak = _resident("VmHWM")
    print(json.dumps({"peak": peak, "step": peak - before}))


def _ours(variant: str, pixels: np.ndarray, labels: np.ndarray):
    from benchmarks.cases import _model, training_step
    from segformer_jax.process import set_up_training

    set_up_training()  # as `segformer-jax train` does
    return training_step(_model(variant, LABELS, "float32"), pixels, labels, platform="cpu")


def _theirs(variant: str, pixels: np.ndarray, labels: np.ndarray):
    import torch
    import transformers

    from segformer_jax import SegformerConfig

    config = getattr(SegformerConfig, variant)(num_labels=LABELS)
    model = transformers.SegformerForSemanticSegmentation(
        transformers.SegformerConfig(
            depths=list(config.depths),
            hidden_sizes=list(config.hidden_sizes),
            decoder_hidden_size=config.decoder_hidden_size,
            num_labels=LABELS,
        )
    ).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=6e-5, fused=True)
    inputs = torch.from_numpy(np.ascontiguousarray(np.moveaxis(pixels, -1, 1)))
    targets = torch.from_numpy(labels.astype(np.int64))

    def run() -> float:
        optimizer.zero_grad()
        loss = model(inputs, labels=targets).loss
        loss.backward()
        optimizer.step()
        return loss.item()

    return run


def _resident(name: str) -> float:
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    if sys.argv[1:2] in (["ours"], ["theirs"]):
        _report(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))
    else:
        tyro.cli(main)
