"""`export`: writes a model as a file that runs without this library."""

from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from segformer_jax.cli.out_dir import output_folder

FORMATS = ("stablehlo", "onnx")
USUAL: dict[str, dict[str, Any]] = {  # options of one format only: defaults
    "stablehlo": dict(platforms=("cpu", "cuda", "tpu"), precision="default", weights="inside"),
    "onnx": dict(opset=20),
}


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
    """
    kind = format or ("onnx" if out.suffix == ".onnx" else "stablehlo")
    if kind not in FORMATS:
        raise ValueError(f"--format must be one of {', '.join(FORMATS)}, got {kind!r}")
    given = dict(platforms=platforms, precision=precision, weights=weights, opset=opset)
    for other in FORMATS:
        for name, usual in USUAL[other].items():
            if other != kind and given[name] != usual:
                raise ValueError(
                    f"--{name} must be used with --format {other} only, got --format "
                    f"{kind}: leave it out"
                )
    options = {name: given[name] for name in USUAL[kind]}

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


def _write(model: str, out: Path, kind: str, signature: Any, options: dict[str, Any]) -> list[Path]:
    from segformer_jax import SegformerConfig, SegformerForSemanticSegmentation
    from segformer_jax import SegformerImageProcessor as Processor
    from segformer_jax.export.onnx.graph import onnx
    from segformer_jax.export.onnx.program import export_onnx
    from segformer_jax.export.stablehlo import export_stablehlo, weights_path

    if kind == "onnx":
        onnx()  # raises an error before the model is loaded if the package is missing
    signature.check(SegformerConfig.from_pretrained(model))
    network: Any = SegformerForSemanticSegmentation.from_pretrained(model, may_start=False)
    processor = Processor.from_pretrained(model) if signature.preprocess else None
    if kind == "onnx":
        export_onnx(network, out, signature=signature, processor=processor, **options)
        return [out]
    beside = options.pop("weights") == "beside"
    export_stablehlo(
        network, out, signature=signature, processor=processor, weights_beside=beside, **options
    )
    return [out, weights_path(out)] if beside else [out]
