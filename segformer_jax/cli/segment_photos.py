"""`segment` for pictures named one by one; checks all names before it segments the first."""

import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm

from segformer_jax.cli.out_dir import output_folder
from segformer_jax.cli.printing import make_console, make_table, print_json
from segformer_jax.cli.segment_request import Request
from segformer_jax.inference.segmentation import ENDINGS


def segment_photos(images: tuple[Path, ...], request: Request) -> int:
    """DIR/<stem>.overlay.png and so on for each picture, and a table of classes."""
    _check_pictures(images, request.max_pixels)
    results = []
    with output_folder(request.out_dir):
        segmenter = request.segmenter()
        starts = range(0, len(images), request.batch_size)
        quiet = len(starts) < 2 or not sys.stderr.isatty()
        for start in tqdm(starts, unit="batch", disable=quiet):
            some = images[start : start + request.batch_size]
            found = segmenter(list(some), protocol=request.protocol)
            for image, result in zip(some, found, strict=True):
                files = {
                    kind: request.out_dir / f"{image.stem}{ENDINGS[kind]}"
                    for kind in request.outputs
                }
                for file in files.values():
                    result.save(file, alpha=request.alpha)
                written = {kind: str(file) for kind, file in files.items()}
                results.append({"image": str(image)} | result.to_dict() | {"outputs": written})
            if not request.json:
                with tqdm.external_write_mode():  # the bar steps aside
                    for result in results[start:]:
                        print_segmentation(result)
    if request.json:
        print_json({"model": request.model, "images": results})
    return 0


def _check_pictures(images: tuple[Path, ...], max_pixels: int) -> None:
    """All that names and headers tell: no wrong file in the list is found when half is written."""
    from segformer_jax.images.read import check_image

    by_stem: dict[str, Path] = {}
    for image in images:
        check_image(image, max_pixels=max_pixels)
        if image.stem in by_stem:
            raise ValueError(
                f"{by_stem[image.stem]} and {image} would both be written as {image.stem}.*: "
                "segment them into two folders (--out-dir)"
            )
        by_stem[image.stem] = image


def print_segmentation(result: dict[str, Any]) -> None:
    """A table of the classes, and the files that were written."""
    table = make_table(
        "class", "share", title=f"{result['image']}, {result['width']}×{result['height']}"
    )
    for row in result["classes"]:
        table.add_row(row["label"], f"{100 * row['share']:.1f} %")
    make_console().print(table)
    for file in result["outputs"].values():
        print(file)
