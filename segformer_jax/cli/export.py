"""`export`: writes a model as a file, or a folder, that runs without this library."""

from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from segformer_jax.cli.out_dir import output_folder

ENDINGS = {".onnx": "onnx", ".tflite": "litert"}  # others are stablehlo
USUAL: dict[str, dict[str, Any]] = {  # options that not all formats have: defaults
    "stablehlo": dict(
        batch="dynamic",
        size="dynamic",
        steps=(),
        platforms=("cpu", "cuda", "tpu"),
        precision="default",
        weights="inside",
    ),
    "onnx": dict(
        batch="dynamic", size="dynamic", steps=(), opset=20, quantize=None, calibrate=None
    ),
    "litert": dict(batch="dynamic", size="dynamic", steps=(), quantize=None),
    "web": dict(runtime=None, example=None),
    "transformers.js": dict(quantize=None, calibrate=None),
}
FORMATS = tuple(USUAL)
OPTION_NAMES = {"steps": "with"}  # where they differ from the arguments'
QUANTIZED = {
    "onnx": ("int8", "int8-symmetric"),
    "litert": ("float16", "int8"),
    "transformers.js": ("int8",),
}


def export(
    model: Annotated[str, tyro.conf.Positional],
    out: Annotated[Path, tyro.conf.Positional],
    format: Annotated[str | None, tyro.conf.arg(metavar=f"{{{','.join(FORMATS)}}}")] = None,
    batch: int | Literal["dynamic"] = "dynamic",
    size: tuple[int, int] | Literal["dynamic"] = "dynamic",
    steps: Annotated[tuple[str, ...], tyro.conf.arg(name="with", metavar="STEP...")] = (),
    platforms: tuple[str, ...] = USUAL["stablehlo"]["platforms"],
    precision: Literal["default", "highest"] = "default",
    weights: Literal["inside", "beside"] = "inside",
    opset: int = 20,
    quantize: Annotated[str | None, tyro.conf.arg(metavar="{int8,int8-symmetric,float16}")] = None,
    calibrate: Annotated[str | None, tyro.conf.arg(metavar="PICTURES")] = None,
    runtime: str | None = None,
    example: Path | None = None,
) -> int:
    """Export a model to StableHLO, ONNX, LiteRT or JavaScript, or to a page for any browser.

    Args:
        model: an installed weights package, a folder, or a name on the Hugging Face hub.
        out: the file or, with --format web and transformers.js, the folder to write; existing
            files of an export are replaced, others are never touched.
        format: by default onnx if OUT ends in .onnx, litert if in .tflite, else stablehlo.
        batch: pictures per call; dynamic accepts any number, but one with LiteRT.
        size: height and width in pixels; dynamic accepts any size, but with LiteRT only that of the
            model's processor.
        steps: preprocess: accept uint8 photos, and scale and normalise them, without resizing
            (uint16 values for a model that was trained with --range, which it then applies);
            argmax: return the class of every pixel instead of logits at 1/4 of the size.
        platforms: StableHLO only: where the program can run: cpu, cuda, rocm, tpu.
        precision: StableHLO only: matrix products in the platform's default type, or in float32.
        weights: StableHLO only: store them inside the file, or beside it in OUT.safetensors.
        opset: ONNX only: version of the operators, at least 17.
        quantize: int8: compute in 8 bits (LiteRT; ONNX and transformers.js with --calibrate);
            int8-symmetric: ONNX without zero points, as TensorRT needs it; float16: LiteRT with
            smaller weights.
        calibrate: pictures like those that the file is for, at most 100 of which set the ranges of
            --quantize: a folder, a pattern, or a list.txt.
        runtime: web only: a folder or URL with the files of ONNX Runtime Web; by default they are
            downloaded with npm.
        example: web only: a photo that the page offers as an example.
    """
    kind = format or ENDINGS.get(out.suffix, "stablehlo")
    if kind not in FORMATS:
        raise ValueError(f"--format must be one of {', '.join(FORMATS)}, got {kind!r}")
    options = _options_of(
        kind,
        batch=batch,
        size=size,
        steps=steps,
        platforms=platforms,
        precision=precision,
        weights=weights,
        opset=opset,
        quantize=quantize,
        calibrate=calibrate,
        runtime=runtime,
        example=example,
    )

    from segformer_jax.cli.exporters import EXPORTERS

    with output_folder(out.parent):
        for file in EXPORTERS[kind](model, out, **options):
            print(file)
    return 0


def _options_of(kind: str, **given: Any) -> dict[str, Any]:
    """Returns a format's own options; raises an error for one that it doesn't have."""
    for other in FORMATS:
        for name, usual in USUAL[other].items():
            if name not in USUAL[kind] and given[name] != usual:
                owners = " or ".join(own for own in FORMATS if name in USUAL[own])
                raise ValueError(
                    f"--{OPTION_NAMES.get(name, name)} must be used with --format {owners} only, "
                    f"got --format {kind}: leave it out"
                )
    _check_quantize(kind, given["quantize"], given["calibrate"])
    return {name: given[name] for name in USUAL[kind]}


def _check_quantize(kind: str, quantize: str | None, calibrate: str | None) -> None:
    if quantize and quantize not in QUANTIZED[kind]:
        raise ValueError(
            f"--quantize must be one of {', '.join(QUANTIZED[kind])} with --format {kind}, got "
            f"{quantize!r}"
        )
    if quantize and "calibrate" in USUAL[kind] and not calibrate:
        raise ValueError("--quantize needs pictures to calibrate on: add --calibrate FOLDER")
    if calibrate and not quantize:
        raise ValueError("--calibrate must be used with --quantize: add --quantize int8")
