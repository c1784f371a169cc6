"""Exports a page that segments photos in the visitor's browser: a folder for any web server."""

import html
import shutil
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

from segformer_jax.atomic import atomic_folder
from segformer_jax.export.labels_json import labels_of
from segformer_jax.export.licence import UNKNOWN, Licence
from segformer_jax.export.onnx.half_weights import store_half_weights
from segformer_jax.export.onnx.program import export_onnx
from segformer_jax.export.signature import Signature, check_for_photos
from segformer_jax.export.web.runtime import copy_runtime
from segformer_jax.images.processor import SegformerImageProcessor
from segformer_jax.images.read import read_image
from segformer_jax.json_text import json_bytes, json_value
from segformer_jax.models.segformer import SegformerForSemanticSegmentation
from segformer_jax.view import asset

MAKER = "segformer_jax"
POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self'; "
    "style-src 'self'; img-src 'self' blob: data:; connect-src 'self' blob:; "
    "base-uri 'none'; form-action 'none'"
)
EXAMPLE = """<button type="button" id="example" data-file="{0}">
        <img src="{0}" alt="">Example
      </button>"""


def export_web(
    model: SegformerForSemanticSegmentation,
    folder: str | Path,
    *,
    processor: SegformerImageProcessor,
    name: str = "SegFormer",
    licence: Licence | None = None,
    example: str | Path | None = None,
    runtime: str | Path | None = None,
) -> list[Path]:
    """Writes a folder of static files that segments photos and the camera's picture in a browser.

    The class maps are those of `Segmenter`, up to the rounding of weights to float16 and the
    browser's JPEG decoder. The page loads nothing from other servers and sends nothing.

    Args:
        model: the model; its weights are stored as float16.
        folder: the folder to write; an existing one is replaced if an earlier export wrote it.
        processor: gives the size, filter and normalisation of pictures.
        name: the model's name, the page's title.
        licence: the licence of the weights, shown on the page; see `licence_of`.
        example: a photo that the page offers as an example, in a format that browsers read.
        runtime: a folder or URL with the files of ONNX Runtime Web; None downloads them with npm.

    Returns:
        The files, index.html first.

    Raises:
        ImportError: the package onnx is missing.
        ImageError: the example can't be read.
        ValueError: as `export_onnx`, the processor or network is not for RGB of 8 bits, the folder
            holds other files, or the runtime is not found.
    """
    check_for_photos(model.config, processor, what="a page")
    licence = licence or Licence(UNKNOWN)
    with atomic_folder(folder, written=_earlier_files) as new:
        shown = _copy_example(example, new)
        version = copy_runtime(runtime, new)
        runtime_line = f"ONNX Runtime Web {version} (MIT)"
        export_onnx(model, new / "model.onnx", signature=Signature(batch=1))
        store_half_weights(new / "model.onnx")
        _write_page(new, name=name, licence=licence, runtime=runtime_line, example=shown)
        text = f"Weights of {name}: {licence.line}\n\n{licence.text}\n\nRuntime: {runtime_line}\n"
        (new / "LICENCE.txt").write_text(text, encoding="utf-8")
        files = sorted([*(file.name for file in new.iterdir()), "settings.json"])
        settings = _settings(model, processor) | {"made_by": MAKER, "files": files}
        (new / "settings.json").write_bytes(json_bytes(settings, indent=None))
    folder = Path(folder)
    return [folder / own for own in sorted(files, key=lambda own: own != "index.html")]


def _settings(
    model: SegformerForSemanticSegmentation, processor: SegformerImageProcessor
) -> dict[str, Any]:
    """Returns what the page's scripts know of the model."""
    return {
        "labels": labels_of(model.config.id2label),
        "size": dict(processor.size) if processor.do_resize else None,
        "least": model.config.minimum_size,
        "resample": processor.resample,
        "byte_values": processor.byte_values(3).T.tolist(),  # red, green, blue
        "white": bool(processor.do_convert_rgb),
    }


def _copy_example(example: str | Path | None, folder: Path) -> str:
    """Copies the photo as example.*; returns the page's button for it, or ""."""
    if example is None:
        return ""
    read_image(example)  # raises an error that says what is wrong
    name = f"example{Path(example).suffix.lower()}"
    shutil.copyfile(example, folder / name)
    return EXAMPLE.format(html.escape(name))


def _write_page(folder: Path, *, name: str, licence: Licence, runtime: str, example: str) -> None:
    values = {
        "policy": POLICY,
        "model": html.escape(name),
        "licence": html.escape(licence.line),
        "runtime": html.escape(runtime),
        "example": example,
        "view": asset("view.html"),
    }
    for file in resources.files("segformer_jax.export.web").joinpath("static").iterdir():
        text = file.read_text(encoding="utf-8")
        if file.name in ("index.html", "headers.js"):
            text = Template(text).substitute(values)
        (folder / file.name).write_text(text, encoding="utf-8")
    (folder / "view.css").write_text(asset("view.css"), encoding="utf-8")
    module = f"export function connect(element, props, watch) {{\n{asset('view.js')}}}\n"
    (folder / "view.js").write_text(module, encoding="utf-8")


def _earlier_files(folder: Path) -> list[str]:
    """Returns the files that an earlier export wrote into the folder, by its settings.json."""
    try:
        settings = json_value((folder / "settings.json").read_bytes())
        return [str(name) for name in settings["files"]] if settings["made_by"] == MAKER else []
    except (OSError, ValueError, TypeError, KeyError):
        return []
