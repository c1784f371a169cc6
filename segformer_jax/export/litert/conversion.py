"""Exports LiteRT files: the folded model, traced in LiteRT's operators and converted.

A file has one size and one batch, because XNNPACK plans its memory for fixed shapes.
"""

import os
import zipfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

from segformer_jax import ops
from segformer_jax.atomic import atomic_path
from segformer_jax.export.labels_json import labels_of
from segformer_jax.export.licence import Licence
from segformer_jax.export.litert.forms import FORMS
from segformer_jax.export.litert.quantized import ai_edge_quantizer, check_kind, quantized
from segformer_jax.export.signature import Signature, photo_range, pixel_line, pixel_table
from segformer_jax.export.stablehlo import USUAL_SIZE, classes
from segformer_jax.images.processor import SegformerImageProcessor
from segformer_jax.json_text import json_bytes
from segformer_jax.models.contract import in_use, interface_of, logits_of

SIGNATURE = "serving_default"  # the name that runtimes look for first
# the converter never imports xdsl, but requires a version of it that excludes newer packages
INSTALL = "pip install 'segformer-jax[litert]' && pip install --no-deps 'litert-converter>=0.5'"
PUBLISHED = (1980, 1, 1, 0, 0, 0)  # one date for every file: equal models give equal bytes


def export_litert(
    model: nnx.Module,
    path: str | Path,
    *,
    signature: Signature | None = None,
    processor: SegformerImageProcessor | None = None,
    quantize: str | None = None,
    licence: Licence | None = None,
) -> None:
    """Exports the model to one .tflite file, written completely or not at all.

    The signature `serving_default` has the input `pixel_values`, (b, h, w, channels) float32, or
    with "preprocess" `photos`, uint8; and the output `logits`, (b, ⌈h/4⌉, ⌈w/4⌉, labels) float32,
    or with "argmax" `classes`, (b, h, w) (see `Signature`). The file is also a ZIP archive of
    labels.txt, labels.json (names and colours), LICENCE.txt and, if there is a processor,
    preprocessor_config.json.

    Args:
        model: any module that maps `pixel_values` to an output with `.logits`. Its parameters are
            copied; a SegFormer is folded.
        path: the file to write.
        signature: inputs and outputs, of a fixed batch and size; by default pixels and logits of
            one picture of 512 × 512.
        processor: needed for the step "preprocess", which applies its scale, mean and deviation.
        quantize: "float16" or "int8", see `quantized`; None keeps float32.
        licence: the licence of the weights.

    Raises:
        ImportError: the package litert-converter is missing, or for `quantize` ai-edge-quantizer.
        ValueError: the batch or size is open or too small, the model returns no logits for pixels
            or has an operation that LiteRT lacks, the processor is missing or has a range,
            `quantize` is unknown, or the path can't be written.
    """
    signature = signature or Signature(batch=1, size=USUAL_SIZE)
    if signature.batch is None or signature.size is None:
        raise ValueError(
            "LiteRT needs a fixed batch and size, got "
            f"batch={signature.batch}, size={signature.size}: give both, as in "
            f"Signature(batch=1, size={USUAL_SIZE})"
        )
    litert_converter()  # errors before the work if a package is missing
    if quantize is not None:
        check_kind(quantize)
        ai_edge_quantizer()
    model = in_use(model)
    interface = interface_of(model, size=signature.size)
    signature.check(interface)
    kind = jnp.uint8 if signature.preprocess else jnp.float32
    shape = (signature.batch, *signature.size, interface.num_channels)
    run = _with_steps(model, signature, processor, interface)
    content = _converted(
        jax.jit(run).lower(jax.ShapeDtypeStruct(shape, kind)),
        takes="photos" if signature.preprocess else "pixel_values",
        gives="classes" if signature.argmax else "logits",
    )
    if quantize is not None:
        content = quantized(content, quantize)
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)
        _append_labels(temporary, labels_of(interface.id2label), licence, processor)


def litert_converter() -> ModuleType:
    """Imports the package litert-converter.

    Raises:
        ImportError: it isn't installed.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")  # it logs what it does
    try:
        return import_module("litert_converter")
    except ImportError as error:
        raise ImportError(
            f"writing LiteRT needs the package litert-converter ({error}): {INSTALL}"
        ) from error


def _with_steps(
    model: Any, signature: Signature, processor: SegformerImageProcessor | None, interface: Any
) -> Callable[[Array], Array]:
    table = pixel_table(processor, interface) if signature.preprocess else None
    line = None if table is None else pixel_line(table)
    if table is not None and processor is not None and photo_range(processor) is not None:
        raise ValueError(
            'the step "preprocess" must have a processor of 8 bits for LiteRT, got '
            f"stretch={processor.stretch}: export without this step"
        )

    def run(pixels: Array) -> Array:
        with ops.use("gpu", forms=FORMS):
            if line is not None:
                pixels = pixels.astype(jnp.float32) * line[0] + line[1]
            logits = logits_of(model, pixels).astype(jnp.float32)
            return classes(logits, pixels.shape[1:3]) if signature.argmax else logits

    return run


def _converted(lowered: jax.stages.Lowered, *, takes: str, gives: str) -> bytes:
    """Converts a program of one input and one output to the bytes of a .tflite file."""
    litert_converter()
    api: Any = import_module("litert_converter.converter_api_ext")
    ir: Any = import_module("litert_converter.mlir.ir")
    passes: Any = import_module("litert_converter.mlir.passmanager")
    text = str(lowered.compiler_ir("stablehlo"))
    context = ir.Context()
    api.prepare_mlir_context(context)
    with context, ir.Location.unknown():
        config = api.ConvertToTFLConfig()
        try:
            module = ir.Module.parse(text)
            api.set_signature(module.operation, SIGNATURE, [takes], [gives])
            api.run_convert_to_tfl_passes(module, passes.PassManager(), config)
            content = api.export_flatbuffer_to_bytes(module.operation)
        except (ir.MLIRError, RuntimeError, ValueError) as error:
            raise ValueError(
                f"LiteRT's converter refuses the model ({' '.join(str(error).split())[:300]}): use "
                "--format stablehlo or onnx, or write the layer that it names in other operations"
            ) from error
    missing = [name for name in operators(content) if name.startswith(("STABLEHLO_", "CUSTOM"))]
    if missing:
        raise ValueError(
            f"the model has operations that LiteRT lacks, {', '.join(missing)}: use "
            "--format stablehlo or onnx, or write these layers in other operations"
        )
    return content


def operators(content: bytes) -> list[str]:
    """Returns the names of the operators in a .tflite file, such as CONV_2D, each once."""
    litert_converter()
    schema: Any = import_module("litert_converter.schema_py_generated")
    names = {
        code: name for name, code in vars(schema.BuiltinOperator).items() if isinstance(code, int)
    }
    model = schema.Model.GetRootAs(content, 0)
    codes = (model.OperatorCodes(index) for index in range(model.OperatorCodesLength()))
    return sorted({names[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())] for code in codes})


def _append_labels(
    file: Path, labels: list[dict[str, str]], licence: Licence | None, processor: Any
) -> None:
    """Appends a ZIP archive, which readers of .tflite pass over, as TFLite's metadata are."""
    texts = {
        "labels.txt": "".join(f"{row['label']}\n" for row in labels).encode(),
        "labels.json": json_bytes(labels),
    }
    if licence is not None:
        texts["LICENCE.txt"] = (
            f"Weights: {licence.line}\n\n{licence.text}".rstrip().encode() + b"\n"
        )
    if processor is not None:
        texts["preprocessor_config.json"] = processor.to_json_string().encode()
    with zipfile.ZipFile(file, "a") as archive:
        for name, text in texts.items():
            archive.writestr(zipfile.ZipInfo(name, PUBLISHED), text)
