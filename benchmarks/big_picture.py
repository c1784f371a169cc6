"""Measures how the memory and time of a class map grow with the size of the picture.

    python -m benchmarks.big_picture --sides 4000 20000 --photos FOLDER

For each side, a mosaic of photos is written as a tiled TIFF and segmented in its own process.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

TILE = 512


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sides", type=int, nargs="+", default=[4000, 20000])
    parser.add_argument("--photos", type=Path, required=True, help="a folder of pictures")
    parser.add_argument("--model", default="scene-b0")
    parser.add_argument("--slide", type=int, nargs=2, default=[512, 384])
    parser.add_argument("--bound", type=float, help="fail where the ratio of peaks is above this")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for side in options.sides:
            source = Path(folder) / f"{side}.tif"
            make_mosaic(source, side, options.photos)
            rows.append({"side": side} | measure(source, options.model, options.slide))
            row = rows[-1]
            print(
                f"{side:6d}² pixels: peak {row['peak_mib']:7.0f} MiB, {row['seconds']:7.1f} s, "
                f"{1e6 * row['seconds'] / side**2:.3f} s per megapixel",
                flush=True,
            )
            source.unlink()
    ratio = rows[-1]["peak_mib"] / rows[0]["peak_mib"]
    print(f"peak of {rows[-1]['side']}² ÷ peak of {rows[0]['side']}²: {ratio:.2f}")
    if options.bound is not None and ratio > options.bound:
        sys.exit(f"the ratio is above {options.bound}")


def make_mosaic(path: Path, side: int, folder: Path) -> None:
    """Writes a square TIFF of the folder's photos side by side, tile by tile to save memory."""
    import rasterio

    from segformer_jax.geo.pixels import window_of

    parts = _parts(folder)
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        width=side,
        height=side,
        count=3,
        dtype=np.uint8,
        photometric="RGB",
        tiled=True,
        blockxsize=TILE,
        blockysize=TILE,
        compress="deflate",
        crs="EPSG:32632",
        transform=rasterio.Affine(0.2, 0, 500_000, 0, -0.2, 5_600_000),
    ) as file:
        number = 0
        for top in range(0, side, TILE):
            for left in range(0, side, TILE):
                size = min(TILE, side - top), min(TILE, side - left)
                part = parts[number % len(parts)][:, : size[0], : size[1]]
                file.write(part, window=window_of(top, left, size))
                number += 1


def measure(source: Path, model: str, slide: list[int]) -> dict[str, float]:
    """Returns the time and the largest resident memory of a process that segments a file."""
    arguments = [str(source), model, *map(str, slide)]
    command = [sys.executable, "-m", "benchmarks.big_picture", "--child", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def _parts(folder: Path) -> list[np.ndarray]:
    """Returns tiles of all photos, (3, TILE, TILE)."""
    from segformer_jax import ImageError
    from segformer_jax.images.read import read_image

    parts = []
    for path in sorted(folder.iterdir()):
        try:
            photo = np.asarray(read_image(path))
        except ImageError:
            continue
        for top in range(0, photo.shape[0] - TILE + 1, TILE):
            for left in range(0, photo.shape[1] - TILE + 1, TILE):
                parts.append(np.moveaxis(photo[top : top + TILE, left : left + TILE], -1, 0))
    if not parts:
        sys.exit(f"{folder} has no picture of at least {TILE}×{TILE} pixels")
    return parts


def _segment(source: str, model: str, window: str, stride: str) -> None:
    """Segments the file in the child process, and prints the time and memory as JSON."""
    from segformer_jax import Segmenter
    from segformer_jax.geo.raster import segment_raster
    from segformer_jax.inference.protocol import Protocol, Windows
    from segformer_jax.process import keep_compiled_programs, keep_freed_memory

    keep_freed_memory()
    keep_compiled_programs()
    segmenter = Segmenter.from_pretrained(model)
    windows = Windows((int(window),) * 2, (int(stride),) * 2)
    start = time.perf_counter()
    segment_raster(
        segmenter,
        source,
        mask=Path(source).with_suffix(".mask.tif"),
        overlay=Path(source).with_suffix(".overlay.tif"),
        protocol=Protocol(windows=windows),
    )
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # Linux counts in KiB
    print(json.dumps({"seconds": seconds, "peak_mib": peak}))


if __name__ == "__main__":
    _segment(*sys.argv[2:]) if sys.argv[1:2] == ["--child"] else main()
