"""Compares the step from logits to a class map with torch's interpolate and argmax.

`python -m benchmarks.class_map` prints the table. The logits are those of scene-b0 on the photo in
`examples`, cut or extended to the number of classes, and noise, in which every pixel lies on a
boundary.
"""

import dataclasses
import os
import time
from collections.abc import Callable
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from segformer_jax import SegformerImageProcessor, Segmenter
from segformer_jax.images.read import read_image
from segformer_jax.inference.class_map import class_map

PHOTO = Path(__file__).resolve().parents[1] / "examples" / "street.jpg"
LABELS, SIZES = (19, 150), ((512, 512), (960, 1280))


def photo_logits() -> np.ndarray:
    """Returns scene-b0's logits for a network input of 512×512, (1, 128, 128, 32)."""
    processor = SegformerImageProcessor.from_pretrained("scene-b0")
    processor = dataclasses.replace(processor, size={"height": 512, "width": 512})
    pixels = processor(read_image(PHOTO))["pixel_values"]
    return np.asarray(Segmenter.from_pretrained("scene-b0").logits(pixels))


def of_classes(logits: np.ndarray, labels: int) -> np.ndarray:
    """Returns the first `labels` channels; further channels repeat the existing ones, minus 3."""
    own = logits.shape[-1]
    k = np.arange(labels)
    wide = logits[..., k % own] - np.where(k < own, 0, 3).astype(np.float32)
    return np.ascontiguousarray(wide)  # NumPy puts classes first in memory, slow for torch


def upsampled(logits: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Upsamples logits to (1, labels, H, W), in the same memory layout."""
    return torch.nn.functional.interpolate(logits, size=size, mode="bilinear", align_corners=False)


def assert_equal_but_near_ties(ours: np.ndarray, logits: torch.Tensor) -> None:
    """Fails if the logit of a pixel's class is below the best one by more than 1e-5 of that."""
    best = logits.amax(1)
    own = logits.gather(1, torch.from_numpy(ours.astype(np.int64))[None, None])[:, 0]
    wrong = int((best - own > 1e-5 * best.abs()).sum())
    if wrong:
        raise AssertionError(f"{wrong} of {ours.size} pixels have another class than torch's")


def seconds(function: Callable[[], object]) -> float:
    """Returns how long one call takes; all functions here return when their result is complete."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def compared(logits: np.ndarray, size: tuple[int, int], rounds: int) -> dict[str, object]:
    """Returns medians of interleaved rounds; the peer is the faster of torch's two layouts.

    `spread` is the distance between the quartiles of the rounds' ratios.
    """
    x = jnp.asarray(logits)
    channels_last = torch.from_numpy(logits).permute(0, 3, 1, 2)
    assert channels_last.is_contiguous(memory_format=torch.channels_last)
    contiguous = channels_last.contiguous()
    assert_equal_but_near_ties(class_map(x, size)[0], upsampled(contiguous, size))
    runs = {
        "ours": lambda: class_map(x, size),
        "torch, NCHW": lambda: upsampled(contiguous, size).argmax(1),
        "torch, channels_last": lambda: upsampled(channels_last, size).argmax(1),
    }
    for run in runs.values():
        run()  # to warm up
    taken = {name: np.zeros(rounds) for name in runs}
    for i in range(rounds):
        for name, run in runs.items():
            taken[name][i] = seconds(run)
    ours = taken.pop("ours")
    peer = min(taken, key=lambda name: float(np.median(taken[name])))
    quartiles = np.quantile(ours / taken[peer], (0.25, 0.75))
    ours_ms, peer_ms = (1e3 * float(np.median(times)) for times in (ours, taken[peer]))
    return {
        "ours_ms": ours_ms,
        "peer": peer,
        "peer_ms": peer_ms,
        "ratio": ours_ms / peer_ms,
        "spread": float(quartiles[1] - quartiles[0]),
    }


def measure(rounds: int) -> list[dict[str, object]]:
    """Returns a row for each number of classes, kind of logits and size of the map.

    Raises:
        AssertionError: a map differs from torch's where logits are not nearly equal.
    """
    torch.set_num_threads(os.cpu_count() or 1)
    photo, rng = photo_logits(), np.random.default_rng(0)
    rows = []
    for labels in LABELS:
        noise = rng.normal(size=(*photo.shape[:-1], labels)).astype(np.float32)
        for kind, logits in (("photo", of_classes(photo, labels)), ("noise", noise)):
            for size in SIZES:
                work = f"class map {size[0]}×{size[1]}, {labels} classes, {kind}"
                rows.append({"work": work} | compared(logits, size, rounds))
    return rows


def main() -> None:
    """Measures 15 rounds and prints the table."""
    table = Table("work", "ours, ms", "peer", "peer, ms", "ours ÷ peer", "spread")
    for row in measure(15):
        cells = (f"{x:.3g}" if isinstance(x, float) else str(x) for x in row.values())
        table.add_row(*cells)
    Console().print(table)


if __name__ == "__main__":
    main()
