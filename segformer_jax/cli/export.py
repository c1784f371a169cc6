"""`export`: writes a model as a file that runs without this library."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro

from segformer_jax.cli.out_dir import output_folder
from segformer_jax.cli.printing import say
from segformer_jax.cli.progress_bar import progress

FORMATS = ("stablehlo", "onnx")
USUAL: dict[str, dict[str, Any]] = {  # options that not all formats have: defaults
    "stablehlo": dict(platforms=("cpu", "cuda", "tpu"), precision="default", weights="inside"),
    "onnx": dict(opset=20, quantize=None, calibrate=None),
}
QUANTIZED = ("int8", "int8-symmetric")
CALIBRATED_ON = 100  # pictures at most


def export(
    model: Annotated[str, tyro.conf.Positional],
    out: Annotated[Path, tyro.conf.Positional],
    format: Annotated[str | None, tyro.conf.arg(metavar="{stablehlo,onnx}")] = None,
    batch: int | Literal["dynamic"] = "dynamic",
    size: tuple[int, int] | Literal["dynamic"] = "dynamic",
    steps: Annotated[tuple[str, ...], tyro.conf.arg(name="with", metavar="STEP...")] = (),
    platforms: tuple[str, ...] = USUAL["stablehlo"]["platforms"],
    precision: Literal["default", "highest"] = "default",
    weights: Literal["inside", "beside"] = "inside",
    opset: int = 20,
    quantize: Annotated[str | None, tyro.conf.arg(metavar="{int8,int8-symmetric}")] = None,
    calibrate: Annotated[str | None, tyro.conf.arg(metavar="PICTURES")] = None,
) -> int:
    """Export a model to one file: StableHLO, which needs only jax to run, or ONNX.

    Args:
        model: an installed weights package, a folder, or a name on the Hugging Face hub.
        out: the file to write; an existing one is replaced.
        format: stablehlo or onnx; by default onnx if OUT ends in .onnx, else stablehlo.
        batch: pictures per call; dynamic accepts any number.
        size: height and width in pixels; dynamic accepts any size.
        steps: preprocess: accept uint8 photos, and scale and normalise them, without resizing
            (uint16 values for a model that was trained with --range, which it then applies);
            argmax: return the class of every pixel instead of logits at 1/4 of the size.
        platforms: StableHLO only: where the program can run: cpu, cuda, rocm, tpu.
        precision: StableHLO only: matrix products in the platform's default type, or in float32.
        weights: StableHLO only: store them inside the file, or beside it in OUT.safetensors.
        opset: ONNX only: version of the operators, at least 17.
        quantize: ONNX only: compute in 8 bits. int8 is more exact; int8-symmetric has no zero
            points, as TensorRT needs it. Needs --calibrate.
        calibrate: pictures like those that the file is for, at most 100 of which set the ranges of
            --quantize: a folder, a pattern, or a list.txt.
    """
    kind = format or ("onnx" if out.suffix == ".onnx" else "stablehlo")
    if kind not in FORMATS:
        raise ValueError(f"--format must be one of {', '.join(FORMATS)}, got {kind!r}")
    options = _options_of(
        kind,
        platforms=platforms,
        precision=precision,
        weights=weights,
        opset=opset,
        quantize=quantize,
        calibrate=calibrate,
    )

    from segformer_jax.export.signature import Signature

    signature = Signature(
        batch=None if batch == "dynamic" else batch,
        size=None if size == "dynamic" else size,
        steps=steps,
    )
    with output_folder(out.parent):
        for file in _write(model, out, kind, signature, options):
            print(file)
    return 0


def _options_of(kind: str, **given: Any) -> dict[str, Any]:
    """Returns a format's own options; raises an error for one that it doesn't have."""
    for other in FORMATS:
        for name, usual in USUAL[other].items():
            if name not in USUAL[kind] and given[name] != usual:
                raise ValueError(
                    f"--{name} must be used with --format {other} only, got --format "
                    f"{kind}: leave it out"
                )
    if given["quantize"] not in (None, *QUANTIZED):
        raise ValueError(
            f"--quantize must be one of {', '.join(QUANTIZED)}, got {given['quantize']!r}"
        )
    if given["quantize"] and not given["calibrate"]:
        raise ValueError("--quantize needs pictures to calibrate on: add --calibrate FOLDER")
    if given["calibrate"] and not given["quantize"]:
        raise ValueError("--calibrate must be used with --quantize: add --quantize int8")
    return {name: given[name] for name in USUAL[kind]}


def _write(model: str, out: Path, kind: str, signature: Any, options: dict[str, Any]) -> list[Path]:
    from segformer_jax import SegformerConfig, SegformerForSemanticSegmentation
    from segformer_jax import SegformerImageProcessor as Processor
    from segformer_jax.export.onnx.graph import onnx
    from segformer_jax.export.onnx.program import export_onnx
    from segformer_jax.export.stablehlo import export_stablehlo, weights_path

    if kind == "onnx":
        onnx()  # raises an error before the model is loaded if the package is missing
    calibrated = options.pop("calibrate", None)
    pictures = None if calibrated is None else _some_pictures(calibrated)
    signature.check(SegformerConfig.from_pretrained(model))
    network: Any = SegformerForSemanticSegmentation.from_pretrained(model, may_start=False)
    processor = Processor.from_pretrained(model) if signature.preprocess or pictures else None
    if kind == "onnx":
        with _counted(pictures) as calibrate:
            export_onnx(
                network,
                out,
                signature=signature,
                processor=processor,
                calibrate=calibrate,
                **options,
            )
        return [out]
    beside = options.pop("weights") == "beside"
    export_stablehlo(
        network, out, signature=signature, processor=processor, weights_beside=beside, **options
    )
    return [out, weights_path(out)] if beside else [out]


def _some_pictures(source: str) -> list[Path]:
    """Finds the pictures of a folder, pattern or list, and returns at most 100, evenly spaced."""
    from segformer_jax.images.find import find_pictures

    found = [own.file for own in find_pictures(source)[1]]
    places = np.linspace(0, len(found) - 1, min(CALIBRATED_ON, len(found))).round().astype(int)
    say(f"calibrating on {len(places)} of {len(found):,} pictures of {source}")
    return [found[place] for place in places]


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
