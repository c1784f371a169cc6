"""Measures `segment` on a folder of photos: each part alone on all cores, then the whole.

    python -m benchmarks.folder --photos 200
    python -m benchmarks.folder --photos 2000 --model b5 --dtype bfloat16 --batch-size 32

The photos are distinct crops of real pictures, saved as JPEG. The parts are the steps of
`segment DIR`, with the same functions and as many threads: reading and resizing, the network, class
maps, files. On a CPU the parts share the cores, so the whole takes at best the sum of their times;
on a GPU it is at best as fast as the network alone, with its input already on the device. Both
ratios are printed, and the share of time that the device waited. The last line is a JSON object.
"""

import functools
import itertools
import json
import math
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from PIL import Image

from benchmarks import append as results
from benchmarks.machine import describe
from segformer_jax import (
    SegformerConfig,
    SegformerForSemanticSegmentation,
    SegformerImageProcessor,
    Segmentation,
    Segmenter,
)
from segformer_jax.images.find import find_pictures
from segformer_jax.images.read import read_image
from segformer_jax.inference.class_map import start_class_map
from segformer_jax.inference.pipeline import Span, segment_many, usable_cores, waited_share
from segformer_jax.process import keep_compiled_programs, keep_freed_memory

STREET = Path(__file__).parents[1] / "examples" / "street.jpg"
Output = Literal["mask", "overlay", "npy"]
VARIANTS = ("b0", "b1", "b2", "b3", "b4", "b5")
QUEUE = 3  # batches that are in progress when the network is measured alone
ENDINGS = {"mask": ".mask.png", "overlay": ".overlay.png", "npy": ".npy"}


def main(
    photos: int = 200,
    size: tuple[int, int] = (640, 480),
    source: Path | None = None,
    model: str = "scene-b0",
    side: int = 512,
    labels: int = 19,
    outputs: tuple[Output, ...] = ("mask",),
    device: str | None = None,
    dtype: Literal["float32", "bfloat16"] = "float32",
    batch_size: int = 8,
    threads: int | None = None,
    rounds: int = 3,
    limit: float = math.inf,
    append: Path | None = None,
) -> None:
    """Prints pictures per second of the parts and of the whole.

    Args:
        photos: number of photos to make.
        size: width and height of the photos.
        source: a folder of pictures to crop, in addition to the street of the examples.
        model: a weights package, folder or hub name; or b0 to b5 with random weights.
        side: side of the network's square input, for random weights.
        labels: number of classes, for random weights.
        outputs: the files that are written for each photo.
        device: cpu, gpu or tpu; by default the fastest there is.
        dtype: type of the matrix products.
        batch_size: pictures that go through the network together.
        threads: threads that read, and as many that write; by default one per core.
        rounds: runs of each part and of the whole, interleaved; medians are printed.
        limit: seconds after which no further round is started; one is measured anyway.
        append: a JSON file to which the result is added.
    """
    start = time.monotonic()
    keep_freed_memory()
    keep_compiled_programs()
    run = None if append is None else results.new_run(append)
    options: dict[str, Any] = dict(device=device, batch_size=batch_size)
    segmenter = _segmenter(model, side=side, labels=labels, dtype=jnp.dtype(dtype), options=options)
    row = measure(
        segmenter,
        jax.local_devices(backend=device),
        photos=photos,
        size=size,
        source=source,
        outputs=outputs,
        threads=threads,
        rounds=rounds,
        until=start + limit,
    )
    row["work"] = f"{photos} photos of {size[0]}×{size[1]}, {model}, {', '.join(outputs)}"
    row["dtype"] = dtype
    if append is not None and run is not None:
        results.append(append, run, [row])
    for name, milliseconds in row["ms_per_photo"].items():
        print(
            f"{name:13s} {milliseconds:8.2f} ms a photo {1e3 / milliseconds:9.1f} photos/s "
            f"{row['cpu_ms_per_photo'][name]:8.2f} ms of all cores"
        )
    print(
        f"throughput ÷ that of the sum of the parts {row['whole_over_sum_of_parts']:.2f}, "
        f"÷ the bare forward's {row['whole_over_bare_forward']:.2f}, "
        f"the device waited {100 * row['device_waited_share']:.1f} %; seconds of all cores, parts "
        f"÷ whole: {row['cpu_sum_of_parts_over_whole']:.2f}"
    )
    print(json.dumps(row | {"machine": describe()}, ensure_ascii=False))


def measure(
    segmenter: Segmenter,
    devices: Sequence[jax.Device],
    *,
    photos: int,
    size: tuple[int, int] = (640, 480),
    source: Path | None = None,
    outputs: tuple[Output, ...] = ("mask",),
    threads: int | None = None,
    rounds: int = 3,
    until: float = math.inf,
) -> dict[str, Any]:
    """Measures the parts and the whole in turns; returns the figures of one row.

    Args:
        segmenter: of which the batch size is used.
        devices: those of the segmenter.
        photos: as in `main`; the other arguments too.
        size: width and height of the photos.
        source: a folder of pictures, or None.
        outputs: the files that are written.
        threads: threads that read, and as many that write; None is one per core.
        rounds: runs of each part and of the whole.
        until: a time of `time.monotonic()` after which no further round is started.
    """
    threads = threads or usable_cores()
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(threads) as pool:
        files = _make_photos(Path(folder, "photos"), photos, size=size, source=source, pool=pool)
        out = Path(folder, "out")
        work = _parts(segmenter, devices, files, outputs, out, pool)
        work["whole"] = functools.partial(_whole, segmenter, files, outputs, out, threads)
        times, busy = _timed(work, rounds, until)
    batches = -(-photos // segmenter.batch_size)
    for name in ("bare_forward", "forward"):  # whose last batch is full
        share = photos / (batches * segmenter.batch_size)
        times[name] = [share * seconds for seconds in times[name]]
    per_photo = {name: statistics.median(own) / photos for name, own in times.items()}
    cores = {name: statistics.median(own) / photos for name, own in busy.items()}
    parts = ("read", "forward", "class_map", "write")
    ratios = [  # within the same round, because the machine's speed varies
        sum(times[name][i] for name in parts) / whole for i, whole in enumerate(times["whole"])
    ]
    bare = [own / whole for own, whole in zip(times["bare_forward"], times["whole"], strict=True)]
    return {
        "device": str(devices[0].device_kind),
        "devices": len(devices),
        "threads": threads,
        "batch_size": segmenter.batch_size,
        "ms_per_photo": {name: round(1e3 * seconds, 3) for name, seconds in per_photo.items()},
        "cpu_ms_per_photo": {name: round(1e3 * seconds, 3) for name, seconds in cores.items()},
        "photos_per_second": round(1 / per_photo["whole"], 2),
        "whole_over_sum_of_parts": round(statistics.median(ratios), 3),
        "whole_over_bare_forward": round(statistics.median(bare), 3),
        "cpu_sum_of_parts_over_whole": round(
            sum(cores[name] for name in parts) / cores["whole"], 3
        ),
        "rounds_over_sum_of_parts": [round(ratio, 3) for ratio in ratios],
        "device_waited_share": round(_whole.waited, 4),
    }


def _parts(segmenter, devices, files, outputs, out, pool) -> dict[str, Callable[[], Any]]:
    count, size = len(files), segmenter.batch_size
    pictures = [read_image(file) for file in itertools.islice(itertools.cycle(files), size)]
    some = [segmenter.processor.eight_bits(picture) for picture in pictures]
    logits = segmenter.start(some)
    maps = [
        Segmentation(start_class_map(own, picture.size[::-1])()[0], segmenter.id2label, picture)
        for own, picture in zip(logits, pictures, strict=True)
    ]
    values = np.stack([segmenter.processor(picture)["pixel_values"][0] for picture in pictures])
    split = NamedSharding(Mesh(np.array(devices), ("batch",)), PartitionSpec("batch"))
    on_device = jax.device_put(values, split)
    batches = -(-count // size)

    def read(file):
        return segmenter.processor.eight_bits(read_image(file))

    def class_map(index):
        return start_class_map(logits[index % size], pictures[index % size].size[::-1])()

    def write(index):
        _save(maps[index % size], out / files[index].stem, outputs)

    return {
        "read": lambda: deque(pool.map(read, files), 0),
        "bare_forward": lambda: _queued(lambda: segmenter.logits(on_device), batches),
        "forward": lambda: _queued(lambda: segmenter.start(some), batches),
        "class_map": lambda: deque(pool.map(class_map, range(count)), 0),
        "write": lambda: deque(pool.map(write, range(count)), 0),
    }


def _whole(segmenter, files, outputs, out, threads) -> None:
    spans: list[Span] = []

    def save(file, result):
        _save(result, out / file.stem, outputs)

    outcomes = segment_many(segmenter, files, then=save, threads=threads, spans=spans)
    assert all(outcome.error is None for outcome in outcomes)
    _whole.waited = waited_share(spans)


def _save(result: Segmentation, stem: Path, outputs: tuple[str, ...]) -> None:
    for kind in outputs:
        result.save(f"{stem}{ENDINGS[kind]}")


def _queued(run: Callable[[], Any], count: int) -> None:
    running: deque[Any] = deque()
    for _ in range(count):
        running.append(run())
        if len(running) > QUEUE:
            jax.block_until_ready(running.popleft())
    jax.block_until_ready(list(running))


def _timed(
    work: dict[str, Callable[[], Any]], rounds: int, until: float
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Returns seconds and processor seconds of each run; an untimed first round compiles."""
    times: dict[str, list[float]] = {name: [] for name in work}
    busy: dict[str, list[float]] = {name: [] for name in work}
    for turn in range(rounds + 1):
        if turn > 1 and time.monotonic() > until:
            break
        for name, run in work.items():
            start, cpu = time.perf_counter(), time.process_time()
            run()
            if turn:
                times[name].append(time.perf_counter() - start)
                busy[name].append(time.process_time() - cpu)
    return times, busy


def _make_photos(
    folder: Path,
    count: int,
    *,
    size: tuple[int, int],
    source: Path | None,
    pool: ThreadPoolExecutor,
) -> list[Path]:
    """Writes distinct crops, with half to all of a picture's sides, some of them mirrored."""
    folder.mkdir()
    given = [STREET] if source is None else [STREET, *(f.file for f in find_pictures(source)[1])]
    pictures = [read_image(file) for file in given]

    def make(index):
        rng = np.random.default_rng(index)
        picture = pictures[index % len(pictures)]
        share = rng.uniform(0.5, 1)
        width, height = (max(1, round(share * side)) for side in picture.size)
        left, top = (
            int(rng.integers(0, whole - part + 1))
            for whole, part in zip(picture.size, (width, height), strict=True)
        )
        crop = picture.resize(size, box=(left, top, left + width, top + height))
        if rng.integers(2):
            crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        file = folder / f"{index:06d}.jpg"
        crop.save(file, quality=90)
        return file

    return list(pool.map(make, range(count)))


def _segmenter(model, *, side, labels, dtype, options) -> Segmenter:
    if model not in VARIANTS:
        return Segmenter.from_pretrained(model, dtype=dtype, **options)
    config = getattr(SegformerConfig, model)(num_labels=labels)
    network = SegformerForSemanticSegmentation(config, dtype=dtype, rngs=nnx.Rngs(0))
    network.eval()
    processor = SegformerImageProcessor(size={"height": side, "width": side})
    return Segmenter(network, processor, **options)


if __name__ == "__main__":
    tyro.cli(main)
