"""`segment` for rasters: reads windows with GDAL and writes TIFFs that keep the georeference."""

import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm

from segformer_jax.atomic import atomic_path, temporary_name
from segformer_jax.cli.out_dir import output_folder
from segformer_jax.cli.printing import about, print_json, say
from segformer_jax.cli.results_of import Picture, check_names
from segformer_jax.cli.segment_photos import print_segmentation
from segformer_jax.cli.segment_request import Request
from segformer_jax.json_text import json_bytes

TIFFS = (".tif", ".tiff")
ALWAYS = (".vrt", ".jp2", ".img")
WORLD_FILES = (".tfw", ".tifw", ".tiffw", ".wld")  # a TIFF's place, in a file beside it


def is_raster(path: Path, request: Request) -> bool:
    """Whether a picture goes through GDAL.

    .vrt, .jp2 and .img always do. A TIFF does if it has a georeference, in itself or in a world
    file beside it, if windows or bands are asked for, if it is larger than --max-pixels, or if
    Pillow does not open it.
    """
    from segformer_jax.errors import ImageError
    from segformer_jax.images.read import has_georeference

    ending = path.suffix.lower()
    if ending not in TIFFS or request.protocol.windows is not None or request.bands:
        return ending in (*TIFFS, *ALWAYS)
    if path.is_file() and any(path.with_suffix(own).is_file() for own in WORLD_FILES):
        return True
    try:
        return has_georeference(path, max_pixels=request.max_pixels)
    except ImageError:
        return path.is_file()


def segment_rasters(paths: tuple[Path, ...], request: Request) -> int:
    """Writes DIR/<stem>.mask.tif, .overlay.tif and .json per raster; prints tables of classes.

    Returns:
        The exit code: 1 if one of several rasters can't be read, else 0.

    Raises:
        ImageError: only one raster was given, and it can't be read.
        ImportError: a package is not installed.
    """
    from segformer_jax.errors import ImageError
    from segformer_jax.geo.pixels import open_raster

    pictures = [Picture(path, path.stem, raster=True) for path in paths]
    check_names(pictures)
    for picture in pictures:
        picture.results(request)
    alone = len(pictures) == 1
    if alone:  # report errors before the model is loaded
        with open_raster(pictures[0].file, bands=request.bands, channels=None):
            pass
    results, failed = [], []
    with output_folder(request.out_dir):
        segmenter = request.segmenter()
        for picture in pictures:
            try:
                found = segment_one(segmenter, picture, request)
            except ImageError as error:
                if alone:
                    raise
                reason = about(picture.file, error)
                failed.append({"image": str(picture.file), "error": reason})
                say(reason)
                continue
            results.append(found)
            if not request.json:
                print_segmentation(found)
    if request.json:
        print_json({"model": request.model, "images": results, "failed": failed})
    elif failed:
        say(f"pictures that could not be read: {len(failed):,}")
    return 1 if failed else 0


def segment_one(segmenter: Any, picture: Picture, request: Request) -> dict[str, Any]:
    """Writes the results of a raster; returns its entry in the output of `--json`.

    Raises:
        ImageError: it can't be read.
        ImportError: a package is not installed.
    """
    from segformer_jax.geo.geopackage import import_pyogrio
    from segformer_jax.geo.pixels import open_raster
    from segformer_jax.geo.raster import segment_raster
    from segformer_jax.geo.vectorise import write_polygons

    files = picture.results(request)
    own = request.out_dir / f"{picture.name}.mask.tif"
    mask = files.get("mask", own.with_name(temporary_name(own.name)))
    vectors = {"geojson": files.get("polygons"), "geopackage": files.get("gpkg")}
    traced = any(vectors.values())
    if "gpkg" in files:
        import_pyogrio()  # now, not after an hour
    with open_raster(picture.file, bands=request.bands, channels=None) as pixels:
        height, width = pixels.size
    bar = tqdm(total=height * width, unit="pixel", unit_scale=True, disable=not sys.stderr.isatty())
    try:
        with bar:
            found = segment_raster(
                segmenter,
                picture.file,
                mask=mask if traced or "mask" in files else None,
                overlay=files.get("overlay"),
                protocol=request.protocol,
                bands=request.bands,
                alpha=request.alpha,
                progress=bar.update,
            )
        if traced:
            write_polygons(
                mask,
                segmenter.id2label,
                **vectors,
                min_area=request.min_area,
                simplify=request.simplify,
            )
    finally:
        if "mask" not in files:
            mask.unlink(missing_ok=True)
    if "json" in files:
        with atomic_path(files["json"]) as temporary:
            temporary.write_bytes(json_bytes(found))
    written = {kind: str(file) for kind, file in files.items()}
    return {"image": str(picture.file)} | found | {"outputs": written}
