"""`segment`: pictures in, masks out."""

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tqdm import tqdm

from segformer_jax.cli.folder import output_folder
from segformer_jax.cli.printing import make_console, make_table, print_json, say

DEFAULT_MODEL = "street-b0"
Output = Literal["overlay", "mask", "npy", "json"]
ENDINGS: dict[str, str] = {
    "overlay": ".overlay.png",
    "mask": ".mask.png",
    "npy": ".npy",
    "json": ".json",
}


def segment(
    images: Annotated[
        tuple[Path, ...],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="IMAGE...", help_behavior_hint="(at least one)"),
    ],
    model: str = DEFAULT_MODEL,
    out_dir: Path = Path("out"),
    outputs: tuple[Output, ...] = ("overlay", "mask"),
    alpha: float = 0.5,
    device: str | None = None,
    dtype: Literal["float32", "bfloat16"] = "float32",
    batch_size: int = 8,
    max_pixels: int = 178_956_970,
    json: bool = False,
) -> int:
    """Segment pictures: DIR/<stem>.overlay.png, .mask.png, .npy, .json and a table of classes.

    Args:
        images: the pictures.
        model: a weights package, a folder, or a hub name.
        out_dir: where the results go; made when missing.
        outputs: which files to write for each picture.
        alpha: weight of the colours in the overlay, 0 to 1.
        device: cpu, gpu or tpu; the fastest there is when left out.
        dtype: what the matrix products compute in.
        batch_size: pictures that go through the network together.
        max_pixels: the largest picture that is opened.
        json: print one JSON object, and nothing else, on standard output.
    """
    if not images:
        raise ValueError("no picture given: segformer-jax segment IMAGE...")
    if not 0 <= alpha <= 1:
        raise ValueError(f"--alpha is {alpha}; it lies between 0 (the photo) and 1 (the colours)")
    _check_pictures(images, max_pixels)
    results = []
    with output_folder(out_dir):
        segmenter = _segmenter(
            model, device=device, dtype=dtype, batch_size=batch_size, max_pixels=max_pixels
        )
        starts = range(0, len(images), batch_size)
        quiet = len(starts) < 2 or not sys.stderr.isatty()
        for start in tqdm(starts, unit="batch", disable=quiet):
            some = images[start : start + batch_size]
            for image, result in zip(some, segmenter(list(some)), strict=True):
                files = {kind: out_dir / f"{image.stem}{ENDINGS[kind]}" for kind in outputs}
                for file in files.values():
                    result.save(file, alpha=alpha)
                written = {kind: str(file) for kind, file in files.items()}
                results.append({"image": str(image)} | result.to_dict() | {"outputs": written})
            if not json:
                with tqdm.external_write_mode():  # the bar steps aside
                    for result in results[start:]:
                        _print_segmentation(result)
    if json:
        print_json({"model": model, "images": results})
    return 0


def _segmenter(model: str, *, dtype: str, **options: Any) -> Any:
    import jax.numpy as jnp

    from segformer_jax import Segmenter
    from segformer_jax.process import keep_compiled_programs, keep_freed_memory

    if model == DEFAULT_MODEL:
        say(
            "street-b0: a small model of 11 street classes, trained on CamVid; its weights are "
            "CC BY-NC 4.0, not for commercial use (choose another with --model)"
        )
    keep_freed_memory()
    keep_compiled_programs()
    return Segmenter.from_pretrained(model, dtype=jnp.dtype(dtype), **options)


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


def _print_segmentation(result: dict[str, Any]) -> None:
    table = make_table(
        "class", "share", title=f"{result['image']}, {result['width']}×{result['height']}"
    )
    for row in result["classes"]:
        table.add_row(row["label"], f"{100 * row['share']:.1f} %")
    make_console().print(table)
    for file in result["outputs"].values():
        print(file)
