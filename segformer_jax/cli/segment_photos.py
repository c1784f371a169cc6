"""`segment` for pictures named one by one: reports unreadable pictures and segments the others."""

import contextlib
from pathlib import Path
from typing import Any

from tqdm import tqdm

from segformer_jax.cli import collector
from segformer_jax.cli.coco_file import COCO, merge_coco
from segformer_jax.cli.out_dir import output_folder
from segformer_jax.cli.printing import about, make_console, make_table, print_json, say
from segformer_jax.cli.progress_bar import progress, say_aside
from segformer_jax.cli.results_of import Picture, check_names
from segformer_jax.cli.segment_request import Request


def segment_photos(images: tuple[Path, ...], request: Request) -> int:
    """Writes DIR/<stem>.overlay.png and so on for each picture; prints tables of their classes.

    Returns:
        The exit code: 1 if one of several pictures can't be read, else 0.

    Raises:
        ImageError: only one picture was given, and it can't be read.
    """
    with collector.paused():
        from segformer_jax.errors import ImageError
        from segformer_jax.images.read import check_image
        from segformer_jax.inference.pipeline import segment_many

    pictures = [Picture(image, image.stem) for image in images]
    check_names(pictures)
    for picture in pictures:
        picture.results(request)
    alone = len(images) == 1
    if alone:  # report errors before the model is loaded
        check_image(images[0], max_pixels=request.max_pixels)

    def read(picture):
        return segmenter.processor.read(picture.file, max_pixels=request.max_pixels)

    def save(picture, result):
        written = {kind: str(file) for kind, file in picture.save(result, request).items()}
        return {"image": str(picture.file)} | result.to_dict() | {"outputs": written}

    results, failed = [], []
    with output_folder(request.out_dir):
        with collector.paused():
            segmenter = request.segmenter()
        outcomes = segment_many(
            segmenter, pictures, read=read, then=save, protocol=request.protocol
        )
        with contextlib.closing(outcomes), progress(len(images), unit="picture") as step:
            for outcome in outcomes:
                if outcome.error is not None:
                    reason = about(outcome.source.file, outcome.error)
                    if alone:
                        raise ImageError(reason) from outcome.error
                    failed.append({"image": str(outcome.source.file), "error": reason})
                    say_aside(reason)
                else:
                    results.append(outcome.value)
                    if not request.json:
                        with tqdm.external_write_mode():  # hides the bar meanwhile
                            print_segmentation(outcome.value)
                step()
        if "coco" in request.outputs and not alone:
            merge_coco(
                [picture.results(request)["coco"] for picture in pictures], request.out_dir / COCO
            )
    if request.json:
        print_json({"model": request.model, "images": results, "failed": failed})
    elif failed:
        say(f"pictures that could not be read: {len(failed):,}")
    return 1 if failed else 0


def print_segmentation(result: dict[str, Any]) -> None:
    """Prints a table of the classes, and the files that were written."""
    table = make_table(
        "class", "share", title=f"{result['image']}, {result['width']}×{result['height']}"
    )
    for row in result["classes"]:
        table.add_row(row["label"], f"{100 * row['share']:.1f} %")
    make_console().print(table)
    for file in result["outputs"].values():
        print(file)
