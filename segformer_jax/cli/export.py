"""`export`: writes a model as a file, or a page, that runs without this library."""

from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from segformer_jax.cli.out_dir import output_folder

FORMATS = ("stablehlo", "onnx", "web")
USUAL: dict[str, dict[str, Any]] = {  # options of one format only: defaults
    "stablehlo": dict(platforms=("cpu", "cuda", "tpu"), precision="default", weights="inside"),
    "onnx": dict(opset=20),
    "web": dict(runtime=None, example=None),
}


def export(
    model: Annotated[str, tyro.conf.Positional],
    out: Annotated[Path, tyro.conf.Positional],
    format: Annotated[str | None, tyro.conf.arg(metavar="{stablehlo,onnx,web}")] = None,
    batch: int | Literal["dynamic"] = "dynamic",
    size: tuple[int, int] | Literal["dynamic"] = "dynamic",
    steps: Annotated[tuple[str, ...], tyro.conf.arg(name="with", metavar="STEP...")] = (),
    platforms: tuple[str, ...] = USUAL["stablehlo"]["platforms"],
    precision: Literal["default", "highest"] = "default",
    weights: Literal["inside", "beside"] = "inside",
    opset: int = 20,
    runtime: str | None = None,
    example: Path | None = None,
) -> int:
    """Export a model to one file, StableHLO or ONNX, or to a page that runs in any browser.

    Args:
        model: an installed weights package, a folder, or a name on the Hugging Face hub.
        out: the file or, with --format web, the folder to write; an existing one is replaced, but
            not a folder with other files.
        format: stablehlo, onnx or web; by default onnx if OUT ends in .onnx, else stablehlo.
        batch: pictures per call; dynamic accepts any number.
        size: height and width in pixels; dynamic accepts any size.
        steps: preprocess: accept uint8 photos, and scale and normalise them, without resizing
            (uint16 values for a model that was trained with --range, which it then applies);
            argmax: return the class of every pixel instead of logits at 1/4 of the size.
        platforms: StableHLO only: where the program can run: cpu, cuda, rocm, tpu.
        precision: StableHLO only: matrix products in the platform's default type, or in float32.
        weights: StableHLO only: store them inside the file, or beside it in OUT.safetensors.
        opset: ONNX only: version of the operators, at least 17.
        runtime: web only: a folder or URL with the files of ONNX Runtime Web; by default they are
            downloaded with npm.
        example: web only: a photo that the page offers as an example.
    """
    kind = format or ("onnx" if out.suffix == ".onnx" else "stablehlo")
    if kind not in FORMATS:
        raise ValueError(f"--format must be one of {', '.join(FORMATS)}, got {kind!r}")
    given = dict(platforms=platforms, precision=precision, weights=weights, opset=opset)
    given |= dict(runtime=runtime, example=example)
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
    if kind == "web" and signature != Signature(steps=()):
        raise ValueError(
            "--batch, --size and --with must be left out with --format web: the page resizes "
            "photos as the model's processor does"
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

    if kind != "stablehlo":
        onnx()  # raises an error before the model is loaded if the package is missing
    signature.check(SegformerConfig.from_pretrained(model))
    network: Any = SegformerForSemanticSegmentation.from_pretrained(model, may_start=False)
    if kind == "web":
        return _write_page(network, Processor.from_pretrained(model), model, out, options)
    processor = Processor.from_pretrained(model) if signature.preprocess else None
    if kind == "onnx":
        export_onnx(network, out, signature=signature, processor=processor, **options)
        return [out]
    beside = options.pop("weights") == "beside"
    export_stablehlo(
        network, out, signature=signature, processor=processor, weights_beside=beside, **options
    )
    return [out, weights_path(out)] if beside else [out]


def _write_page(
    network: Any, processor: Any, model: str, folder: Path, options: dict[str, Any]
) -> list[Path]:
    from segformer_jax.export.licence import licence_of
    from segformer_jax.export.web.page_files import export_web

    licence, name = licence_of(model), Path(model).name
    how: dict[str, Any] = dict(processor=processor, name=name, licence=licence)
    return export_web(network, folder, **how, **options)[:1]
