"""`segment` for pictures named one by one: reports unreadable pictures and segments the others."""

import contextlib
from pathlib import Path
from typing import Any

from tqdm import tqdm

from segformer_jax.cli.out_dir import output_folder
from segformer_jax.cli.printing import make_console, make_table, one_line, print_json, say
from segformer_jax.cli.progress_bar import progress, say_aside
from segformer_jax.cli.segment_request import Request
from segformer_jax.inference.result_files import ENDINGS


def segment_photos(images: tuple[Path, ...], request: Request) -> int:
    """Writes DIR/<stem>.overlay.png and so on for each picture; prints tables of their classes.

    Returns:
        The exit code: 1 if one of several pictures can't be read, else 0.

    Raises:
        ImageError: only one picture was given, and it can't be read.
    """
    from segformer_jax.images.read import check_image
    from segformer_jax.inference.pipeline import segment_many

    _check_names(images)
    alone = len(images) == 1
    if alone:  # report errors before the model is loaded
        check_image(images[0], max_pixels=request.max_pixels)

    def save(image, result):
        files = {kind: request.out_dir / f"{image.stem}{ENDINGS[kind]}" for kind in request.outputs}
        for file in files.values():
            result.save(file, alpha=request.alpha)
        written = {kind: str(file) for kind, file in files.items()}
        return {"image": str(image)} | result.to_dict() | {"outputs": written}

    results, failed = [], []
    with output_folder(request.out_dir):
        segmenter = request.segmenter()
        outcomes = segment_many(segmenter, images, then=save, protocol=request.protocol)
        with contextlib.closing(outcomes), progress(len(images), unit="picture") as step:
            for outcome in outcomes:
                if outcome.error is not None:
                    if alone:
                        raise outcome.error
                    reason = one_line(outcome.error)
                    failed.append({"image": str(outcome.source), "error": reason})
                    say_aside(reason)
                else:
                    results.append(outcome.value)
                    if not request.json:
                        with tqdm.external_write_mode():  # hides the bar meanwhile
                            print_segmentation(outcome.value)
                step()
    if request.json:
        print_json({"model": request.model, "images": results, "failed": failed})
    elif failed:
        say(f"pictures that could not be read: {len(failed):,}")
    return 1 if failed else 0


def _check_names(images: tuple[Path, ...]) -> None:
    by_stem: dict[str, Path] = {}
    for image in images:
        if image.stem in by_stem:
            raise ValueError(
                f"{by_stem[image.stem]} and {image} would both be written as {image.stem}.*: "
                "segment them into two folders (--out-dir)"
            )
        by_stem[image.stem] = image


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
