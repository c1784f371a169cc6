"""`export`: a model as one program that runs without this library."""

from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

FORMATS = ("stablehlo", "onnx")
ONLY = {"stablehlo": ("platforms", "precision", "weights"), "onnx": ("opset",)}


def export(
    model: Annotated[str, tyro.conf.Positional],
    out: Annotated[Path, tyro.conf.Positional],
    format: Annotated[str | None, tyro.conf.arg(metavar="{stablehlo,onnx}")] = None,
    batch: int | Literal["any"] = "any",
    size: tuple[int, int] | Literal["dynamic"] = "dynamic",
    steps: Annotated[tuple[str, ...], tyro.conf.arg(name="with", metavar="STEP...")] = (),
    platforms: tuple[str, ...] | None = None,
    precision: Literal["default", "highest"] | None = None,
    weights: Literal["inside", "beside"] | None = None,
    opset: int | None = None,
) -> int:
    """Export a model as one program: StableHLO, which runs with jax alone, or ONNX.

    Args:
        model: a weights package, a folder, or a hub name.
        out: the file, replaced if it exists.
        format: stablehlo or onnx; when left out, onnx for a name that ends so, else stablehlo.
        batch: pictures per call.
        size: height and width in pixels, or dynamic: whatever the caller gives.
        steps: preprocess: takes uint8 photos, scales and normalises them, and resizes nothing;
            argmax: gives the class of every pixel instead of logits at 1/4 of the size.
        platforms: StableHLO: what it runs on, of cpu, cuda, rocm, tpu (cpu cuda tpu).
        precision: StableHLO: of matrix products, the platform's own or float32 (default).
        weights: StableHLO: inside the file, or beside it in OUT.safetensors (inside).
        opset: ONNX: version of the operators, at least 17 (20).
    """
    kind = format or ("onnx" if out.suffix == ".onnx" else "stablehlo")
    if kind not in FORMATS:
        raise ValueError(f"--format is {kind!r}; known are {', '.join(FORMATS)}")
    given = dict(platforms=platforms, precision=precision, weights=weights, opset=opset)
    options = {name: value for name, value in given.items() if value is not None}
    for name in options:
        if name not in ONLY[kind]:
            raise ValueError(f"--{name} says nothing of --format {kind}: leave it out")

    from segformer_jax.inference.exporting import Signature

    signature = Signature(
        batch=None if batch == "any" else batch,
        size=None if size == "dynamic" else size,
        steps=steps,
    )
    _write(model, out, kind, signature, options)
    print(out)
    if options.get("weights") == "beside":
        from segformer_jax.inference.export import weights_path

        print(weights_path(out))
    return 0


def _write(model: str, out: Path, kind: str, signature: Any, options: dict[str, Any]) -> None:
    from segformer_jax import SegformerConfig, SegformerForSemanticSegmentation
    from segformer_jax import SegformerImageProcessor as Processor
    from segformer_jax.inference.export import export_stablehlo
    from segformer_jax.inference.onnx_export import export_onnx
    from segformer_jax.inference.onnx_package import onnx

    if kind == "onnx":
        onnx()  # what is missing is said before anything is loaded
    signature.check(SegformerConfig.from_pretrained(model))
    network: Any = SegformerForSemanticSegmentation.from_pretrained(model, may_start=False)
    processor = Processor.from_pretrained(model) if signature.preprocess else None
    if kind == "onnx":
        export_onnx(network, out, signature=signature, processor=processor, **options)
    else:
        if "weights" in options:
            options["weights_beside"] = options.pop("weights") == "beside"
        export_stablehlo(network, out, signature=signature, processor=processor, **options)
