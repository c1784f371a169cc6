"""Exports ONNX files: the folded model in standard operators.

Inputs and logits have the layout of transformers' exports, channels first. If the input has a fixed
size, runtimes know all sizes of the graph and skip the arithmetic on shapes.
"""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from segformer_jax.atomic import atomic_path
from segformer_jax.config import SegformerConfig
from segformer_jax.export.onnx.calibrate import measured_grids, onnxruntime
from segformer_jax.export.onnx.graph import Graph, onnx, value
from segformer_jax.export.onnx.grids import EightBits, Grid, Measured, is_taken
from segformer_jax.export.onnx.network import decode, encode, resized
from segformer_jax.export.signature import (
    Signature,
    check_model,
    photo_range,
    pixel_line,
    pixel_table,
)
from segformer_jax.images.processor import SegformerImageProcessor
from segformer_jax.inference.best_class import index_type
from segformer_jax.models.foreign import refuse_foreign
from segformer_jax.models.segformer import SegformerForSemanticSegmentation

OLDEST_OPSET = 17  # the first with LayerNormalization
USUAL_OPSET = 20  # the first with Gelu
QUANTIZED = {"int8": False, "int8-symmetric": True}  # `quantize`: whether values have zero = 0


def export_onnx(
    model: SegformerForSemanticSegmentation,
    path: str | Path,
    *,
    signature: Signature | None = None,
    processor: SegformerImageProcessor | None = None,
    opset: int = USUAL_OPSET,
    quantize: str | None = None,
    calibrate: Iterable[Any] | None = None,
) -> None:
    """Exports the model to one ONNX file, written completely or not at all.

    The file computes in float32, or with `quantize` mostly in 8 bits: the kernels are int8, one
    scale per output channel, and `QuantizeLinear` and `DequantizeLinear` round the values between
    them. `grids.FLOAT`, norms, softmax and activations stay float32.

    The input is `pixel_values`, (b, channels, h, w) float32, or with "preprocess" `photos`,
    (b, h, w, channels) uint8 or uint16 (see `Signature`). The output is `logits`,
    (b, labels, ⌈h/4⌉, ⌈w/4⌉), or with "argmax" `classes`, (b, h, w). The class names are in the
    file's metadata, as `id2label` in JSON.

    Args:
        model: its parameters are copied and folded.
        path: the file to write.
        signature: inputs and outputs; by default pixels and logits of any batch and size.
        processor: needed for the step "preprocess", which applies its scale, mean and deviation,
            and for `calibrate`.
        opset: version of ONNX's operators, at least 17.
        quantize: "int8" rounds values to uint8 with a zero point, which is more exact;
            "int8-symmetric" to int8 without, which TensorRT needs. None keeps float32.
        calibrate: pictures like those that the file is for, as the processor takes them; the ranges
            of the rounded values are measured on them. A hundred are enough.

    Raises:
        ImageError: a picture of `calibrate` can't be read.
        ImportError: the package onnx is missing, or for `quantize` the package onnxruntime.
        ValueError: the model or one of its layers is not SegFormer's, the opset is too old or
            unknown, the size is too small, the processor is missing or stretches by percentiles,
            the path can't be written, or `quantize` is unknown or has no pictures.
    """
    signature = signature or Signature()
    check_model(model)
    refuse_foreign(model, "ONNX", instead="export_stablehlo exports any model")
    signature.check(model.config)
    newest = onnx().defs.onnx_opset_version()
    if not OLDEST_OPSET <= opset <= newest:
        raise ValueError(
            f"opset must be {OLDEST_OPSET} to {newest} (the newest of the installed "
            f"onnx), got {opset}"
        )
    folded = model.folded()
    eight_bits = eight_bits_of(folded, processor, opset, quantize=quantize, calibrate=calibrate)
    whole, _ = program(folded, signature, processor, opset=opset, eight_bits=eight_bits)
    with atomic_path(path) as temporary:
        temporary.write_bytes(whole.SerializeToString())


def eight_bits_of(
    folded: Any,
    processor: SegformerImageProcessor | None,
    opset: int,
    *,
    quantize: str | None,
    calibrate: Iterable[Any] | None,
) -> EightBits | None:
    """Measures what is rounded to 8 bits, see `export_onnx`; returns None without `quantize`."""
    if quantize is None:
        if calibrate is not None:
            raise ValueError(
                'calibrate must be used with quantize: pass quantize="int8" or leave it out'
            )
        return None
    if quantize not in QUANTIZED:
        raise ValueError(f"quantize must be one of {', '.join(QUANTIZED)}, got {quantize!r}")
    if calibrate is None or processor is None:
        raise ValueError(
            f'quantize="{quantize}" needs pictures to calibrate on and the processor that prepares '
            "them: pass calibrate=[…] and processor=…"
        )
    onnxruntime()  # raises an error before pictures are read if the package is missing
    pixels = (processor(picture)["pixel_values"][0] for picture in calibrate)
    return EightBits(calibrated(folded, pixels, symmetric=QUANTIZED[quantize], opset=opset))


def calibrated(
    folded: Any,
    pixels: Iterable[Any],
    *,
    symmetric: bool,
    opset: int = USUAL_OPSET,
    takes: Callable[[str], bool] = is_taken,
) -> dict[str, Grid]:
    """Returns the grid of each value that becomes 8 bits, measured on pictures.

    Args:
        folded: the folded model.
        pixels: the network's input for each picture, (h, w, c).
        symmetric: int8 with zero = 0, else uint8.
        opset: version of ONNX's operators.
        takes: see `EightBits`.
    """
    floats, values = program(
        folded, Signature(), None, opset=opset, eight_bits=EightBits(takes=takes)
    )
    return measured_grids(floats, values, pixels, symmetric=symmetric)


def program(
    model: Any,
    signature: Signature,
    processor: Any,
    *,
    opset: int = USUAL_OPSET,
    eight_bits: EightBits | None = None,
    prepare: Callable[[Graph, str], str] | None = None,
) -> tuple[Any, dict[str, Measured]]:
    """Returns a folded model as an ONNX model, and its values that have no grid yet.

    Args:
        model: the folded model.
        signature: inputs and outputs.
        processor: needed for the step "preprocess".
        opset: version of ONNX's operators.
        eight_bits: what is rounded to 8 bits; None leaves all in float32.
        prepare: adds nodes between the input, `pixel_values`, and the network.
    """
    graph, config = Graph(opset, eight_bits=eight_bits), model.config
    if signature.preprocess:
        source, size_axes = "photos", (1, 3)
        pixels = _preprocess(graph, source, processor, config)
        kind = "uint8" if photo_range(processor) is None else "uint16"
    else:
        source, size_axes, kind = "pixel_values", (2, 4), "float"
        pixels = source if prepare is None else prepare(graph, source)
    result = decode(graph, model.decode_head, encode(graph, model.segformer, pixels))
    if signature.argmax:
        size = graph.sizes(source, *size_axes, name="picture")
        result = _classes(graph, resized(graph, result, size, name="logits"), config.num_labels)
    graph.rename(result, "classes" if signature.argmax else "logits")
    helper = onnx().helper
    made = helper.make_graph(
        graph.nodes,
        "segformer",
        [_input(signature, kind, config)],
        [_output(signature, config)],
        graph.constants,
    )
    opsets = [helper.make_opsetid("", opset)]
    whole = helper.make_model(
        made,
        opset_imports=opsets,
        ir_version=helper.find_min_ir_version_for(opsets),
        producer_name="segformer_jax",
    )
    names = json.dumps({str(index): name for index, name in config.id2label.items()})
    helper.set_model_props(whole, {"id2label": names})
    return whole, graph.to_measure


def _preprocess(graph: Graph, photos: str, processor: Any, config: SegformerConfig) -> str:
    """Adds the processor's arithmetic as one product and one sum per channel."""
    factor, shift = pixel_line(pixel_table(processor, config))
    x = graph.node("Cast", photos, name="preprocess", to=onnx().TensorProto.FLOAT)
    if (limits := photo_range(processor)) is not None:
        x = _stretch(graph, x, *limits)
    x = graph.node("Mul", x, graph.weight(factor, name="preprocess.factor"), name="preprocess")
    x = graph.node("Add", x, graph.weight(shift, name="preprocess.shift"), name="preprocess")
    return graph.transpose(x, 0, 3, 1, 2, name="preprocess")


def _stretch(graph: Graph, x: str, low: int | float, high: int | float) -> str:
    """Adds `eight_bits.stretched`, operation by operation, for the same rounding."""
    black, white = np.float32(low), np.float32(high)
    factor = graph.weight(np.float32(255) / (white - black), name="stretch.factor")
    x = graph.node("Sub", x, graph.weight(black, name="stretch.low"), name="stretch")
    x = graph.node("Mul", x, factor, name="stretch")
    ends = (graph.weight(end, name=f"stretch.{end}") for end in (0, 255))
    return graph.node("Round", graph.node("Clip", x, *ends, name="stretch"), name="stretch")


def _classes(graph: Graph, logits: str, labels: int) -> str:
    """Adds the best class, the first of equals; for a single label, 1 if its logit is above 0."""
    kind = onnx().helper.np_dtype_to_tensor_dtype(np.dtype(index_type(labels)))
    if labels == 1:
        zero = graph.weight(0, name="zero")
        x = graph.node("Squeeze", logits, graph.integers(1), name="logits.of_label")
        x = graph.node("Greater", x, zero, name="above")
    else:
        x = graph.node("ArgMax", logits, name="best", axis=1, keepdims=0)
    return graph.node("Cast", x, name="class", to=kind)


def _input(signature: Signature, kind: str, config: SegformerConfig) -> Any:
    b, (h, w) = signature.batch or "batch", signature.size or ("height", "width")
    if signature.preprocess:
        return value("photos", kind, (b, h, w, config.num_channels))
    return value("pixel_values", kind, (b, config.num_channels, h, w))


def _output(signature: Signature, config: SegformerConfig) -> Any:
    b, labels = signature.batch or "batch", config.num_labels
    if signature.argmax:
        size = signature.size or ("height", "width")
        return value("classes", np.dtype(index_type(labels)).name, (b, *size))
    cells = config.feature_sizes(*signature.size)[0] if signature.size else ("rows", "columns")
    return value("logits", "float", (b, labels, *cells))
