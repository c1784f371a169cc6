"""Measures how the memory and time of a raster's polygons grow with the size of the raster.

    python -m benchmarks.polygons --sides 2000 8000

For each side, a mask of random shapes is written as a tiled TIFF and traced in its own process.
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
    parser.add_argument("--sides", type=int, nargs="+", default=[2000, 8000])
    parser.add_argument("--classes", type=int, default=8)
    parser.add_argument("--grain", type=float, default=6.0, help="size of the shapes, in pixels")
    parser.add_argument("--bound", type=float, help="fail where the ratio of peaks is above this")
    options = parser.parse_args()
    peaks = []
    with tempfile.TemporaryDirectory() as folder:
        for side in options.sides:
            mask = Path(folder) / f"{side}.tif"
            make_mask(mask, side, classes=options.classes, grain=options.grain)
            command = [
                sys.executable,
                "-c",
                f"from {__spec__.name} import trace; trace()",
                str(mask),
            ]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            row = json.loads(done.stdout)
            peaks.append(row["peak_mib"])
            print(
                f"{side:6d}² pixels: {row['polygons']:10,} polygons, peak {row['peak_mib']:6.0f} "
                f"MiB, {row['seconds']:7.1f} s, {1e6 * row['seconds'] / side**2:.3f} s a megapixel",
                flush=True,
            )
    ratio = peaks[-1] / peaks[0]
    print(f"peak of {options.sides[-1]}² ÷ peak of {options.sides[0]}²: {ratio:.2f}")
    if options.bound is not None and ratio > options.bound:
        sys.exit(f"the ratio is above {options.bound}")


def make_mask(path: Path, side: int, *, classes: int, grain: float) -> None:
    """Writes a square TIFF of classes in shapes, tile by tile to save memory."""
    import rasterio
    from scipy.ndimage import gaussian_filter

    from segformer_jax.geo.pixels import window_of

    rng = np.random.default_rng(0)
    place = {"crs": "EPSG:32632", "transform": rasterio.Affine(0.5, 0, 5e5, 0, -0.5, 5.6e6)}
    size = {"count": 1, "width": side, "height": side, "dtype": "uint8"}
    tiles = {"tiled": True, "blockxsize": TILE, "blockysize": TILE, "compress": "deflate"}
    with rasterio.open(path, "w", driver="GTiff", **size, **tiles, **place) as file:
        for top in range(0, side, TILE):
            for left in range(0, side, TILE):
                own = (min(TILE, side - top), min(TILE, side - left))
                noise = rng.normal(size=(classes, *own)).astype(np.float32)
                best = np.stack([gaussian_filter(part, grain) for part in noise]).argmax(0)
                file.write(best.astype(np.uint8), 1, window=window_of(top, left, own))


def trace() -> None:
    """In a process of its own: writes the polygons of a mask, and prints what it took."""
    from segformer_jax.geo.vectorise import write_polygons

    mask = Path(sys.argv[1])
    out = mask.with_suffix(".geojson")
    started = time.perf_counter()
    write_polygons(mask, {}, geojson=out)
    seconds = time.perf_counter() - started
    with out.open("rb") as file:
        polygons = sum(line.startswith(b'{"type": "Feature",') for line in file)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"polygons": polygons, "seconds": seconds, "peak_mib": peak}))


if __name__ == "__main__":
    main()
