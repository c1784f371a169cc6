"""The command line: one function per command, their arguments made by tyro."""

import contextlib
import json as json_format
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tqdm import tqdm

from segformer_jax.atomic import writable_folder

DEFAULT_MODEL = "street-b0"
Output = Literal["overlay", "mask", "npy", "json"]
ENDINGS: dict[str, str] = {
    "overlay": ".overlay.png",
    "mask": ".mask.png",
    "npy": ".npy",
    "json": ".json",
}

app = tyro.extras.SubcommandApp()


def main(arguments: list[str] | None = None) -> None:
    """Runs a command; exits 0, 1 if a comparison failed, 2 for a user's mistake, 130 on Ctrl-C."""
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            code = app.cli(
                prog="segformer-jax",
                description="SegFormer in JAX: cuts pictures into classes, pixel by pixel.",
                args=arguments,
                config=(tyro.conf.FlagCreatePairsOff, tyro.conf.OmitArgPrefixes),
            )
        sys.stdout.flush()
    except KeyboardInterrupt:
        _say("interrupted")
        code = 130
    except BrokenPipeError:  # whoever read the output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1  # as rich does
    except (ValueError, OSError, ImportError, MemoryError) as error:
        _say(f"error: {_one_line(error)}")
        code = 2
    sys.exit(code)


@app.command
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
    with _output_folder(out_dir):
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
        _print_json({"model": model, "images": results})
    return 0


@app.command
def info(
    model: Annotated[str, tyro.conf.Positional],
    size: tuple[int, int] = (512, 512),
    json: bool = False,
) -> int:
    """What a model is: its layers, parameters, multiply-adds at a size, and labels.

    Args:
        model: a weights package, a folder, a hub name, or a variant, b0 to b5.
        size: height and width of the network's input, in pixels.
        json: print one JSON object instead of tables.
    """
    from segformer_jax.models.summary import summarize

    about = summarize(_config(model), *size)
    if json:
        _print_json({"model": model} | about)
    else:
        _print_info(model, about)
    return 0


@app.command
def convert(
    source: Annotated[str, tyro.conf.Positional],
    out_dir: Annotated[Path, tyro.conf.Positional],
    verify: bool = False,
) -> int:
    """Convert a checkpoint into a folder in Hugging Face's layout, without torch.

    Args:
        source: a hub name, a folder, or a .bin, .pth or .safetensors file.
        out_dir: config.json, model.safetensors and preprocessor_config.json go there.
        verify: compare the result with PyTorch afterwards (needs torch and transformers).
    """
    from segformer_jax.convert.checkpoint import convert_checkpoint

    with _output_folder(out_dir):
        kind = convert_checkpoint(source, out_dir)
    print(f"{source} → {out_dir}: {kind}")
    return _verify(str(out_dir), image=None, json=False) if verify else 0


@app.command
def verify(
    model: Annotated[str, tyro.conf.Positional],
    image: Path | None = None,
    published: bool = False,
    checkpoint: str | None = None,
    json: bool = False,
) -> int:
    """Compare a model with PyTorch, stage by stage; exit 0 when they are equal, else 1.

    Args:
        model: a weights package, a folder, or a hub name.
        image: the picture to compare on; random pixels when left out.
        published: compare with the logits that the authors published for NVIDIA's checkpoints on
            COCO's 000000039769.jpg (give it as --image) instead; needs no torch.
        checkpoint: which of the published rows, where the model's name does not tell.
        json: print one JSON object instead of a table.
    """
    if not published:
        return _verify(model, image=image, json=json)
    from segformer_jax.convert.published import compare_with_published

    if image is None:
        raise ValueError("--published needs --image 000000039769.jpg, of COCO's val2017")
    report = compare_with_published(model, image, checkpoint=checkpoint)
    if json:
        _print_json(report)
    else:
        for check in report["checks"]:
            print(
                f"{check['suite']}, {report['checkpoint']}: max |Δ| {check['max_difference']:.1e}, "
                f"allowed {check['tolerance']:.0e}"
            )
        print("equal" if report["equal"] else "DIFFERENT")
    return 0 if report["equal"] else 1


def _verify(model: str, *, image: Path | None, json: bool) -> int:
    from segformer_jax.convert.verify import compare_with_torch

    report = compare_with_torch(model, image=image)
    if json:
        _print_json(report)
    else:
        _print_comparison(report)
    return 0 if report["equal"] else 1


def _segmenter(model: str, *, dtype: str, **options: Any) -> Any:
    import jax.numpy as jnp

    from segformer_jax import Segmenter
    from segformer_jax.process import keep_compiled_programs, keep_freed_memory

    if model == DEFAULT_MODEL:
        _say(
            "street-b0: a small model of 11 street classes, trained on CamVid; its weights are "
            "CC BY-NC 4.0, not for commercial use (choose another with --model)"
        )
    keep_freed_memory()
    keep_compiled_programs()
    return Segmenter.from_pretrained(model, dtype=jnp.dtype(dtype), **options)


def _config(model: str) -> Any:
    from segformer_jax import SegformerConfig

    if model in ("b0", "b1", "b2", "b3", "b4", "b5"):
        return getattr(SegformerConfig, model)(num_labels=150)
    return SegformerConfig.from_pretrained(model)


@contextlib.contextmanager
def _output_folder(folder: Path) -> Iterator[None]:
    """The folder, made when missing, and taken away where an error leaves a new one empty."""
    new = not folder.exists()
    writable_folder(folder)
    try:
        yield
    except BaseException:
        if new:
            with contextlib.suppress(OSError):  # it holds files
                folder.rmdir()
        raise


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


# --- what is printed


def _print_json(value: Any) -> None:
    print(json_format.dumps(value, ensure_ascii=False))


def _print_segmentation(result: dict[str, Any]) -> None:
    table = _table(
        "class", "share", title=f"{result['image']}, {result['width']}×{result['height']}"
    )
    for row in result["classes"]:
        table.add_row(row["label"], f"{100 * row['share']:.1f} %")
    _console().print(table)
    for file in result["outputs"].values():
        print(file)


def _print_info(model: str, about: dict[str, Any]) -> None:
    title = f"{model}: {about['architecture']}"
    table = _table("part", "shape of the output", "parameters", title=title)
    for row in about["layers"]:
        table.add_row(row["name"], row["output"], f"{row['parameters']:,}")
    table.add_section()
    table.add_row("all", "", f"{about['parameters']:,}")
    console = _console()
    console.print(table)
    height, width = about["size"]
    console.print(
        f"multiply-adds at {height}×{width}: {about['multiply_adds_usual'] / 1e9:.2f} G as usually "
        f"computed, {about['multiply_adds'] / 1e9:.2f} G here",
        highlight=False,
    )
    if about["labels"]:
        names = ", ".join(about["labels"].values())
        console.print(f"{len(about['labels'])} labels: {names}", highlight=False, markup=False)


def _print_comparison(report: dict[str, Any]) -> None:
    table = _table(
        "", *(f"max |Δ|, {name}" for name in report["precisions"]), title=report["model"]
    )
    for stage, row in report["stages"].items():
        table.add_row(stage, *(f"{row[name]:.1e}" for name in report["precisions"]))
    table.add_section()
    agreement = report["argmax_agreement"]
    table.add_row("argmax", *(f"{100 * agreement[name]:.3f} %" for name in report["precisions"]))
    _console().print(table)
    print("equal" if report["equal"] else "DIFFERENT", "to transformers", report["transformers"])


def _table(first: str, *others: str, title: str) -> Any:
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column(first)
    for name in others:
        table.add_column(name, justify="right")
    return table


def _console() -> Any:
    from rich.console import Console

    return Console(soft_wrap=not sys.stdout.isatty())


def _say(message: str) -> None:
    print(f"segformer-jax: {message}", file=sys.stderr)


def _show_warning(message, category, filename, lineno, file=None, line=None) -> None:
    _say(f"warning: {_one_line(message)}")


def _one_line(error: Any) -> str:
    text = " ".join(str(error).split())
    return text or type(error).__name__
