"""`segment --ray ADDRESS`: segments pictures on all workers of a Ray cluster."""

import re
import sys
from pathlib import Path
from typing import Any

from segformer_jax.cli.open_model import say_licence
from segformer_jax.cli.printing import one_line, print_json, say
from segformer_jax.cli.segment_photos import print_segmentation
from segformer_jax.cli.segment_raster import TIFFS, is_raster
from segformer_jax.cli.segment_request import Request
from segformer_jax.inference.protocol import Protocol

ONE_SLASH = re.compile(r"^([a-z][a-z0-9+.-]+):/(?!/)")


def segment_on_ray(images: tuple[Path, ...], request: Request, address: str) -> int:
    """Segments pictures, folders and URIs, which every machine of the cluster must be able to read.

    Returns:
        The exit code: 1 if some of the pictures could not be read, else 0.
    """
    from segformer_jax.cluster.connection import connect

    _refuse_others(request)
    sources = [as_given(image) for image in images]
    out = as_given(request.out_dir)
    ray = connect(address, "data")
    say_licence(request.model)
    try:
        rows = _rows(ray, sources, out, request)
    finally:
        ray.shutdown()
    results, failed = [], []
    for row in sorted(rows, key=lambda row: row["path"]):
        if row["error"]:
            failed.append({"image": row["path"], "error": row["error"]})
            continue
        results.append(
            {"image": row["path"]}
            | {key: row[key] for key in ("height", "width", "classes")}
            | {"outputs": dict(zip(request.outputs, row["outputs"], strict=True))}
        )
    if request.json:
        print_json({"model": request.model, "images": results, "failed": failed})
    else:
        for result in results:
            print_segmentation(result)
    for failure in failed:
        say(f"{failure['image']}: {one_line(failure['error'])}")
    placed = [result["image"] for result in results if _has_place(result["image"], request)]
    if placed:
        say(
            f"{placed[0]}{f' and {len(placed) - 1} more' * (len(placed) > 1)}: the results have no "
            "georeference, and rasters were segmented whole: segment them without --ray"
        )
    return 1 if failed else 0


def _refuse_others(request: Request) -> None:
    if request.protocol != Protocol():
        raise ValueError(
            "--ray segments whole pictures at the processor's size: leave out "
            "--protocol, --slide, --scales, --flip and --threshold"
        )
    for name in ("bands", "smoothing", "overwrite", "min_area", "simplify", "id2label", "programs"):
        if getattr(request, name):
            raise ValueError(f"--{name.replace('_', '-')} can't be used with --ray: leave it out")
    if request.stretch is not None:
        raise ValueError(
            "--range and --stretch can't be used with --ray, which reads pictures as the model's "
            'preprocessor_config.json says: write "stretch" there'
        )


def _has_place(picture: str, request: Request) -> bool:
    """Whether a picture, if it is on this machine, would be segmented as a raster without Ray."""
    return picture.lower().endswith(TIFFS) and is_raster(Path(picture), request)


def as_given(place: Path) -> str:
    """Restores a URI that was parsed as a `Path`, which turns its two slashes into one."""
    return ONE_SLASH.sub(r"\1://", str(place))


def _rows(ray: Any, sources: list[str], out: str, request: Request) -> list[dict[str, Any]]:
    options = dict(
        model=request.model,
        outputs=request.outputs,
        alpha=request.alpha,
        dtype=request.dtype,
        device=request.device,
        batch_size=request.batch_size,
        max_pixels=request.max_pixels,
    )
    if ray.util.client.ray.is_connected():  # ray://: the dataset must be run inside the cluster
        from segformer_jax.cluster.store import absolute

        task = ray.remote(num_cpus=0)(_segmented)
        here = [absolute(source) for source in sources]
        try:
            return ray.get(task.remote(here, absolute(out), options))
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None
    ray.data.DataContext.get_current().enable_progress_bars = sys.stderr.isatty()
    return _segmented(sources, out, options)


def _segmented(sources: list[str], out: str, options: dict[str, Any]) -> list[dict[str, Any]]:
    from segformer_jax.cluster.ray_data import segment_dataset

    return segment_dataset(sources, out, **options).take_all()
