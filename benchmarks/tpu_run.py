"""Measures this library on a TPU, in at most about ten minutes.

    pip install -e ".[cli,tpu]"
    python -m benchmarks.tpu_run

writes `tpu_run.json` and adds each row to it as soon as it is measured: forward passes of b0, b2
and b5 in bfloat16 (512×512, 150 classes), a training step of b0, and a folder of photos; first on
one chip, then on all chips of this machine. Please send us the file, for example in an issue.

`--device cpu --small` tries the script with a tiny network on a CPU.
"""

import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from benchmarks import append as results
from benchmarks import folder
from benchmarks.cases import training_step
from benchmarks.checkpoints import make_pixels
from benchmarks.report import print_rows
from segformer_jax import (
    SegformerConfig,
    SegformerForSemanticSegmentation,
    SegformerImageProcessor,
    Segmenter,
)
from segformer_jax.process import keep_compiled_programs

LABELS = 150
Row = dict[str, Any]


@dataclass(frozen=True)
class Sizes:
    """What is measured, on one chip and on all.

    Attributes:
        configs: the networks by name; the first one is trained and segments the folder.
        batches: pictures of a forward pass, for each network; over all chips together.
        side: of the square pictures, in pixels.
        step: pictures of a training step on each chip.
        photos: number of photos of the folder.
        folder_batch: pictures that go through the network together on each chip.
        rounds: runs of each forward pass and step.
    """

    configs: dict[str, SegformerConfig]
    batches: dict[str, tuple[int, ...]]
    side: int = 512
    step: int = 8
    photos: int = 500
    folder_batch: int = 32
    rounds: int = 15


FULL = Sizes(
    {name: getattr(SegformerConfig, name)(num_labels=LABELS) for name in ("b0", "b2", "b5")},
    {"b0": (1, 8, 32), "b2": (1, 8, 32), "b5": (8,)},
)
TINY = SegformerConfig(
    hidden_sizes=(8, 12, 16, 24),
    num_attention_heads=(1, 2, 2, 3),
    depths=(1, 1, 1, 1),
    mlp_ratios=(2, 2, 2, 2),
    decoder_hidden_size=16,
    num_labels=7,
)
SMALL = Sizes({"tiny": TINY}, {"tiny": (1, 4)}, side=64, step=2, photos=4, folder_batch=2, rounds=3)


def measurements(
    sizes: Sizes, devices: Sequence[jax.Device]
) -> Iterator[tuple[str, Callable[[], Row]]]:
    """Yields the name of each row on these devices, and the function that measures it."""
    chips = len(devices)
    for name, config in sizes.configs.items():
        for batch in sizes.batches[name]:
            if batch % chips == 0:
                yield (
                    f"forward {name}, {batch} × {sizes.side}×{sizes.side}",
                    lambda config=config, batch=batch: forward(sizes, config, batch, devices),
                )
    name, config = next(iter(sizes.configs.items()))
    count = chips * sizes.step
    yield (
        f"training step {name}, {count} × {sizes.side}×{sizes.side}",
        lambda: train_step(sizes, config, count, devices),
    )
    yield f"{sizes.photos} photos, {name}", lambda: photos(sizes, config, devices)


def forward(
    sizes: Sizes, config: SegformerConfig, batch: int, devices: Sequence[jax.Device]
) -> Row:
    """Measures `Segmenter.logits` of pixels that are on the devices."""
    segmenter = _segmenter(sizes, config, devices)
    pixels = _split(make_pixels(batch, sizes.side, sizes.side), devices)
    row = _times(lambda: segmenter.logits(pixels).block_until_ready(), sizes.rounds)
    return row | {"pictures_per_second": 1e3 * batch / row["ms"]}


def train_step(
    sizes: Sizes, config: SegformerConfig, batch: int, devices: Sequence[jax.Device]
) -> Row:
    """Measures loss, gradients and AdamW in bfloat16 mixed precision; parameters are on each."""
    model = _model(config)
    pixels = make_pixels(batch, sizes.side, sizes.side)
    labels = np.random.default_rng(0).integers(0, config.num_labels, pixels.shape[:3])
    arrays = _split(pixels, devices), _split(labels.astype(np.int32), devices)
    whole = _sharding(devices, PartitionSpec())
    step = training_step(model, *arrays, platform=devices[0].platform, sharding=whole)
    row = _times(step, sizes.rounds)
    return row | {"pictures_per_second": 1e3 * batch / row["ms"]}


def photos(sizes: Sizes, config: SegformerConfig, devices: Sequence[jax.Device]) -> Row:
    """Measures a folder of photos, each part alone and then all together."""
    segmenter = _segmenter(sizes, config, devices, batch_size=len(devices) * sizes.folder_batch)
    return folder.measure(segmenter, devices, photos=sizes.photos, rounds=2)


def main(
    device: Literal["tpu", "cpu"] = "tpu",
    small: bool = False,
    limit: float = 540,
    out: Path = Path("tpu_run.json"),
) -> None:
    """Measures all rows, prints them and adds them to a file.

    Args:
        device: where to run; anything but a TPU is for trying this script.
        small: measure a tiny network, within seconds.
        limit: seconds after which no further row is started.
        out: the JSON file; rows of earlier runs in it are kept.
    """
    start = time.monotonic()
    devices = _devices(device)
    keep_compiled_programs()
    run = results.new_run(out)
    sizes = SMALL if small else FULL
    groups = [devices[:1], devices] if len(devices) > 1 else [devices]
    for group in groups:
        for name, measure in measurements(sizes, group):
            title = f"{name}, bfloat16, {len(group)} of {len(devices)} chips"
            if time.monotonic() - start > limit:
                results.append(out, run, [], not_run=[f"{title}: no time was left"])
                continue
            try:
                row = {"work": title, "chips": len(group)} | measure()
            except Exception as error:  # out of memory, say; the other rows are measured
                traceback.print_exc()
                reason = f"{type(error).__name__}: {error}".splitlines()[0]
                results.append(out, run, [], not_run=[f"{title}: {reason}"])
                continue
            results.append(out, run, [row])
            print_rows([{k: v for k, v in row.items() if not isinstance(v, dict | list)}], title)
    for failure in run["not_run"]:
        print("not run:", failure)
    print(f"{len(run['rows'])} rows in {out}")


def _devices(platform: str) -> list[jax.Device]:
    try:
        return jax.local_devices(backend=platform)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        sys.exit(
            f"device must be one that JAX finds, got {platform} ({reason}): install "
            '".[cli,tpu]" on a machine with a TPU, or try the script by --device cpu --small'
        )


def _segmenter(
    sizes: Sizes, config: SegformerConfig, devices: Sequence[jax.Device], batch_size: int = 8
) -> Segmenter:
    model = _model(config)
    model.eval()
    return Segmenter(
        model, SegformerImageProcessor(size=sizes.side), device=devices, batch_size=batch_size
    )


def _model(config: SegformerConfig) -> SegformerForSemanticSegmentation:
    return SegformerForSemanticSegmentation(config, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))


def _sharding(devices: Sequence[jax.Device], spec: PartitionSpec) -> NamedSharding:
    return NamedSharding(Mesh(np.array(devices), ("batch",)), spec)


def _split(array: np.ndarray, devices: Sequence[jax.Device]) -> jax.Array:
    return jax.device_put(array, _sharding(devices, PartitionSpec("batch")))


def _times(run: Callable[[], Any], rounds: int) -> Row:
    """Returns the first call's milliseconds, and the median and quartiles of later ones."""
    taken = []
    for _ in range(rounds + 3):
        start = time.perf_counter()
        run()
        taken.append(1e3 * (time.perf_counter() - start))
    low, median, high = statistics.quantiles(taken[3:], n=4)
    return {"ms": median, "low": low, "high": high, "first_ms": taken[0]}


if __name__ == "__main__":
    tyro.cli(main)
