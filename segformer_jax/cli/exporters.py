"""Loads a model and writes it, by one function for each format of `export`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from segformer_jax import SegformerConfig, SegformerForSemanticSegmentation
from segformer_jax import SegformerImageProcessor as Processor
from segformer_jax.cli.printing import say
from segformer_jax.cli.progress_bar import progress
from segformer_jax.export.licence import licence_of
from segformer_jax.export.signature import Signature
from segformer_jax.images.sizes import target_size

CALIBRATED_ON = 100  # pictures at most


def _stablehlo(model: str, out: Path, *, weights: str, **options: Any) -> list[Path]:
    from segformer_jax.export.stablehlo import export_stablehlo, weights_path

    signature = _signature(model, options)
    processor = Processor.from_pretrained(model) if signature.preprocess else None
    beside = weights == "beside"
    export_stablehlo(
        _network(model),
        out,
        signature=signature,
        processor=processor,
        weights_beside=beside,
        **options,
    )
    return [out, weights_path(out)] if beside else [out]


def _onnx(model: str, out: Path, *, calibrate: str | None, **options: Any) -> list[Path]:
    from segformer_jax.export.onnx.graph import onnx
    from segformer_jax.export.onnx.program import export_onnx

    onnx()  # raises an error before the model is loaded if the package is missing
    pictures = None if calibrate is None else _some_pictures(calibrate)
    signature = _signature(model, options)
    processor = Processor.from_pretrained(model) if signature.preprocess or pictures else None
    network = _network(model)
    with _counted(pictures) as counted:
        export_onnx(
            network, out, signature=signature, processor=processor, calibrate=counted, **options
        )
    return [out]


def _litert(model: str, out: Path, **options: Any) -> list[Path]:
    from segformer_jax.export.litert.conversion import export_litert, litert_converter

    litert_converter()
    processor = Processor.from_pretrained(model)
    if options["size"] == "dynamic":
        options["size"] = height, width = target_size(processor.size, 480, 640)
        say(
            f"a file for LiteRT has one size, by default the model's for photos of 4:3, {height} × "
            f"{width}: --size HEIGHT WIDTH sets another"
        )
    if options["batch"] == "dynamic":
        options["batch"] = 1
    signature = _signature(model, options)
    export_litert(
        _network(model),
        out,
        signature=signature,
        processor=processor,
        licence=licence_of(model),
        **options,
    )
    return [out]


def _web(model: str, out: Path, **options: Any) -> list[Path]:
    from segformer_jax.export.onnx.graph import onnx
    from segformer_jax.export.web.page_files import export_web

    onnx()
    return export_web(
        _network(model),
        out,
        processor=Processor.from_pretrained(model),
        name=Path(model).name,
        licence=licence_of(model),
        **options,
    )[:1]


def _transformers_js(model: str, out: Path, *, calibrate: str | None, **options: Any) -> list[Path]:
    from segformer_jax.export.onnx.graph import onnx
    from segformer_jax.export.transformers_js import export_transformers_js

    onnx()
    pictures = None if calibrate is None else _some_pictures(calibrate)
    network, processor = _network(model), Processor.from_pretrained(model)
    with _counted(pictures) as counted:
        return export_transformers_js(
            network, out, processor=processor, calibrate=counted, **options
        )


EXPORTERS: dict[str, Callable[..., list[Path]]] = {
    "stablehlo": _stablehlo,
    "onnx": _onnx,
    "litert": _litert,
    "web": _web,
    "transformers.js": _transformers_js,
}


def _network(model: str) -> Any:
    return SegformerForSemanticSegmentation.from_pretrained(model, may_start=False)


def _signature(model: str, options: dict[str, Any]) -> Signature:
    """Takes batch, size and steps out of the options; checks them before the weights are read."""
    batch, size, steps = (options.pop(name) for name in ("batch", "size", "steps"))
    signature = Signature(
        batch=None if batch == "dynamic" else batch,
        size=None if size == "dynamic" else size,
        steps=steps,
    )
    signature.check(SegformerConfig.from_pretrained(model))
    return signature


def _some_pictures(source: str) -> list[Path]:
    """Finds the pictures of a folder, pattern or list, and returns at most 100, evenly spaced.

    In a data set, folders beside one called `images` (masks, say) are left out.
    """
    from segformer_jax.images.find import find_pictures

    root, pictures = find_pictures(source)
    found = [own.file for own in pictures if not _beside_images(own.file, root)]
    if not found:
        raise ValueError(
            f"the pictures of {source} are all in folders beside images/, which has none: give the "
            "folder of the photos"
        )
    places = np.linspace(0, len(found) - 1, min(CALIBRATED_ON, len(found))).round().astype(int)
    left_out = len(pictures) - len(found)
    without = f"; {left_out:,} in folders beside images/ are left out" if left_out else ""
    say(f"calibrating on {len(places)} of {len(found):,} pictures of {source}{without}")
    return [found[place] for place in places]


def _beside_images(file: Path, root: Path) -> bool:
    """Whether a file below `root` is in a folder beside one called `images`, and not in that."""
    below = file.relative_to(root).parents if file.is_relative_to(root) else ()
    folders = (root / part for part in below if part.name)
    return any((own.parent / "images").is_dir() and own.name != "images" for own in folders)


@contextmanager
def _counted(pictures: list[Path] | None) -> Iterator[Iterator[Path] | None]:
    """Yields an iterator over the pictures that shows its progress; None for None."""
    if pictures is None:
        yield None
        return
    with progress(len(pictures), unit="picture") as step:

        def one_by_one():
            for picture in pictures:
                yield picture
                step()

        yield one_by_one()
