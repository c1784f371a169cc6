"""Compares int8 weights with floats: size, speed, and the share of pixels with the same class.

`python -m benchmarks.quantised --data SCENES/val` writes a model's weights both ways, loads both,
and runs both over all pictures. It then measures products of int8 by int8, which a model would
compute if its weights stayed int8. Times are medians of interleaved rounds, in processor time of
all cores together, which hardly changes if the machine does other things at the same time.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jax import lax
from tqdm import tqdm

from benchmarks.checkpoints import make_pixels
from benchmarks.race import REST
from benchmarks.report import print_rows
from segformer_jax import SegformerForSemanticSegmentation, SegformerImageProcessor, Segmenter
from segformer_jax.checkpoints.files import weights_file
from segformer_jax.data.dataset import Dataset
from segformer_jax.data.formats import open_dataset
from segformer_jax.evaluation.evaluate import model_labels
from segformer_jax.evaluation.metrics import RunningConfusion, confusion_matrix, scores
from segformer_jax.inference.compiled import compiler_options

KINDS = ("float", "int8")
PRODUCTS = {  # rows × inputs × outputs of the layers in which b0 and b2 spend most, at 512×512
    "b0, stage 1, fc1": (16384, 32, 128),
    "b0, stage 3, fc1": (1024, 160, 640),
    "b0, stage 4, fc1": (256, 256, 1024),
    "b2, stage 1, fc1": (16384, 64, 256),
    "b2, stage 3, fc1": (1024, 320, 1280),
    "b2, stage 4, fc1": (256, 512, 2048),
    "a square one": (2048, 2048, 2048),
}


def quantised(data: Path | None = None, model: str = "scene-b0", rounds: int = 31) -> None:
    """Prints the tables of docs/quantised.md.

    Args:
        data: the folder of one split, with the model's classes, such as scenes/val; without it,
            only size and speed are measured.
        model: a weights package, a folder, or a hub name.
        rounds: number of timed calls.
    """
    with tempfile.TemporaryDirectory() as folder:
        folders = {kind: Path(folder) / kind for kind in KINDS}
        saved(model, folders)
        loading = medians(
            {kind: lambda own=own: Segmenter.from_pretrained(own) for kind, own in folders.items()},
            rounds=5,
        )
        sizes = {kind: file_size(own) for kind, own in folders.items()}
        segmenters = {kind: Segmenter.from_pretrained(own) for kind, own in folders.items()}
    pixels = make_pixels(1, 512, 512)
    calls = medians(
        {
            kind: lambda own=own: own.logits(pixels).block_until_ready()
            for kind, own in segmenters.items()
        },
        rounds=rounds,
    )
    rows = [
        {
            "weights": kind,
            "MB": f"{sizes[kind] / 1e6:.2f}",
            "size ratio": f"{sizes[kind] / sizes['float']:.3f}",
            "loading, ms": f"{loading[kind]:.0f}",
            "512×512, ms": f"{calls[kind]:.1f}",
            "time ratio": f"{calls[kind] / calls['float']:.2f}",
        }
        for kind in KINDS
    ]
    print_rows(rows, model)
    if data is not None:
        ious, same = compared(segmenters, open_dataset(str(data)))
        told = ", ".join(f"{kind} {100 * iou:.2f} %" for kind, iou in ious.items())
        print(f"mean IoU: {told}; the same class on {100 * same:.2f} % of the pixels\n")
    print_rows([product(name, *sides, rounds) for name, sides in PRODUCTS.items()], "products")


def saved(model: str, folders: dict[str, Path]) -> None:
    """Saves the weights as int8 and as floats, which are float32 whatever the source has."""
    own = SegformerForSemanticSegmentation.from_pretrained(model)
    for kind, folder in folders.items():
        own.save_pretrained(folder, weights=kind)
        SegformerImageProcessor.from_pretrained(model).save_pretrained(folder)


def file_size(folder: Path) -> int:
    """Returns the size of the weights in bytes."""
    file = weights_file(folder)
    assert file is not None  # it was just written
    return file.stat().st_size


def compared(segmenters: dict[str, Segmenter], dataset: Dataset) -> tuple[dict[str, float], float]:
    """Returns the mean IoU of each on the data set, and the share of pixels with the same class."""
    first = next(iter(segmenters.values()))
    table, count = model_labels(first, dataset), len(first.id2label)
    sums = {kind: RunningConfusion(count) for kind in segmenters}
    same, pixels = 0, 0
    for index in tqdm(range(len(dataset)), unit="picture"):
        picture, labels = dataset.pair(index)
        labels = table[labels]
        values = first.processor(picture)["pixel_values"][0]
        maps = {
            kind: own.class_maps([values], [labels.shape])[0][0] for kind, own in segmenters.items()
        }
        for kind, classes in maps.items():
            own = confusion_matrix(labels, classes, num_classes=count)
            sums[kind].add(own, labels.size)
        one, other = maps.values()
        same, pixels = same + int((one == other).sum()), pixels + labels.size
    return {k: scores(own.total()).mean_iou for k, own in sums.items()}, same / pixels


def product(name: str, rows: int, inputs: int, outputs: int, rounds: int) -> dict[str, str]:
    """Measures a layer in float32, as an int8 product, and in int8 with the rounding of inputs.

    The int8 layer is compiled with the segmenter's options for float32, with those for bfloat16, by
    which YNNPACK computes the products alone, and with XLA's own. The int8 product has XLA's.

    Returns:
        A row of the table: the time of float32 in ms, and the others' divided by it.
    """
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, inputs)).astype(np.float32)
    kernel = rng.integers(-127, 128, (inputs, outputs), np.int8)
    scale = rng.uniform(1e-3, 1e-2, outputs).astype(np.float32)
    whole, (own, per_row) = kernel * scale, rounded(x)
    platform = jax.default_backend()
    floats, halves = (compiler_options(platform, kind) for kind in (jnp.float32, jnp.bfloat16))
    layer, operands = int8_layer, (x, kernel, scale)
    works: dict[str, tuple[Callable, tuple[Any, ...], dict[str, str] | None]] = {
        "float32": (partial(times, out=jnp.float32), (x, whole), floats),
        "int8 product, XLA's options": (partial(times, out=jnp.int32), (own, kernel), None),
        "int8 layer, float32's options": (layer, operands, floats),
        "int8 layer, bfloat16's": (layer, operands, halves),
        "int8 layer, XLA's": (layer, operands, None),
    }
    exact, runs = x.astype(np.float64) @ whole, {}
    for kind, (work, given, options) in works.items():
        compiled, given = jax.jit(work, compiler_options=options), jax.device_put(given)
        runs[kind] = lambda f=compiled, o=given: f(*o).block_until_ready()
        result = np.asarray(runs[kind]()) * (per_row * scale if "product" in kind else 1)
        assert np.linalg.norm(result - exact) < 0.02 * np.linalg.norm(exact), kind
    found = medians(runs, rounds=rounds)
    least = found.pop("float32")
    sides = {"work": name, "size": f"{rows}×{inputs}×{outputs}", "float32, ms": f"{least:.2f}"}
    return sides | {kind: f"{ms / least:.2f}" for kind, ms in found.items()}


def times(x: Any, kernel: Any, *, out: Any) -> jax.Array:
    """Multiplies two matrices, with sums of type `out`."""
    return lax.dot_general(x, kernel, (((1,), (0,)), ((), ())), preferred_element_type=out)


def int8_layer(x: Any, kernel: Any, scale: Any) -> jax.Array:
    """Computes a float layer by int8 × int8: rounds inputs row by row and scales the sums back."""
    own, per_row = rounded(x)
    return times(own, kernel, out=jnp.int32).astype(jnp.float32) * (per_row * scale)


def rounded(x: Any) -> tuple[jax.Array, jax.Array]:
    """Returns `x` as int8 multiples of a scale per row, and the scales."""
    per_row = jnp.abs(x).max(1, keepdims=True) / 127
    return jnp.rint(x / per_row).astype(jnp.int8), per_row


def medians(
    runs: dict[Any, Callable[[], Any]],
    *,
    rounds: int,
    clock: Callable[[], float] = time.process_time,
) -> dict[Any, float]:
    """Returns each one's median time in ms, in interleaved rounds after a warm-up.

    Args:
        runs: by name, what is timed.
        rounds: of all, one after another.
        clock: in seconds; by default processor time, of all cores together.
    """
    times: dict[Any, list[float]] = {name: [] for name in runs}
    for _ in range(rounds + 1):
        for name, run in runs.items():
            time.sleep(REST)
            start = clock()
            run()
            times[name].append(1e3 * (clock() - start))
    return {name: statistics.median(own[1:]) for name, own in times.items()}


if __name__ == "__main__":
    tyro.cli(quantised)
