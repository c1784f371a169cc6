"""`segment` for rasters: reads windows with GDAL and writes TIFFs that keep the georeference."""

import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm

from segformer_jax.atomic import atomic_path
from segformer_jax.cli.out_dir import output_folder
from segformer_jax.cli.printing import print_json
from segformer_jax.cli.segment_photos import print_segmentation
from segformer_jax.cli.segment_request import Request
from segformer_jax.inference.result_files import ENDINGS

TIFFS = (".tif", ".tiff")
ALWAYS = (".vrt", ".jp2", ".img")


def is_raster(path: Path, request: Request) -> bool:
    """Whether a picture goes through GDAL.

    .vrt, .jp2 and .img always do. A TIFF does if it has a georeference, if windows or bands are
    asked for, if it is larger than --max-pixels, or if Pillow does not open it.
    """
    from segformer_jax.errors import ImageError
    from segformer_jax.images.read import has_georeference

    ending = path.suffix.lower()
    if ending not in TIFFS or request.protocol.windows is not None or request.bands:
        return ending in (*TIFFS, *ALWAYS)
    try:
        return has_georeference(path, max_pixels=request.max_pixels)
    except ImageError:
        return path.is_file()


def segment_rasters(paths: tuple[Path, ...], request: Request) -> int:
    """Writes DIR/<stem>.mask.tif, .overlay.tif and .json per raster; prints tables of classes."""
    _check(paths, request)
    results = []
    with output_folder(request.out_dir):
        segmenter = request.segmenter()
        for path in paths:
            results.append(_segment(segmenter, path, request))
            if not request.json:
                print_segmentation(results[-1])
    if request.json:
        print_json({"model": request.model, "images": results})
    return 0


def _check(paths: tuple[Path, ...], request: Request) -> None:
    from segformer_jax.geo.pixels import open_raster

    if "npy" in request.outputs:
        raise ValueError(
            "--outputs must not have npy for a raster: --outputs mask writes a "
            "TIFF of the same numbers"
        )
    by_stem: dict[str, Path] = {}
    for path in paths:
        with open_raster(path, bands=request.bands, channels=None):
            pass
        other = by_stem.setdefault(path.stem, path)
        if other is not path:
            raise ValueError(
                f"{other} and {path} would both be written as {path.stem}.*: segment them into two "
                "folders (--out-dir)"
            )


def _segment(segmenter: Any, path: Path, request: Request) -> dict[str, Any]:
    import json

    from segformer_jax.geo.pixels import open_raster
    from segformer_jax.geo.raster import segment_raster

    files = {
        kind: request.out_dir / f"{path.stem}{ENDINGS[kind].replace('.png', '.tif')}"
        for kind in request.outputs
    }
    with open_raster(path, bands=request.bands, channels=None) as pixels:
        height, width = pixels.size
    bar = tqdm(total=height * width, unit="pixel", unit_scale=True, disable=not sys.stderr.isatty())
    with bar:
        found = segment_raster(
            segmenter,
            path,
            mask=files.get("mask"),
            overlay=files.get("overlay"),
            protocol=request.protocol,
            bands=request.bands,
            alpha=request.alpha,
            progress=bar.update,
        )
    if "json" in files:
        with atomic_path(files["json"]) as temporary:
            temporary.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    written = {kind: str(file) for kind, file in files.items()}
    return {"image": str(path)} | found | {"outputs": written}
