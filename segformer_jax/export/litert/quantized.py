"""Rounds the weights of a .tflite file to float16, or its convolutions to 8 bits."""

import contextlib
import io
from importlib import import_module
from typing import Any

KINDS = ("float16", "int8")


def quantized(content: bytes, kind: str) -> bytes:
    """Returns a .tflite file with smaller weights.

    With "float16", weights are stored as float16 and computed with in float32. With "int8", the
    kernels of convolutions and linear layers are int8, one scale per output channel; LiteRT rounds
    their inputs when it runs, by the range of each, so that no pictures are needed to calibrate.
    Depthwise kernels, norms, attention and activations stay float32.

    Raises:
        ImportError: the package ai-edge-quantizer is missing.
        ValueError: the kind is unknown.
    """
    check_kind(kind)
    types, quantizer = ai_edge_quantizer()
    recipe: dict[str, Any]
    if kind == "float16":
        recipe = dict(
            operation_name=types.TFLOperationName.ALL_SUPPORTED,
            op_config=types.OpQuantizationConfig(
                weight_tensor_config=types.TensorQuantizationConfig(
                    num_bits=16, dtype=types.TensorDataType.FLOAT
                ),
                compute_precision=types.ComputePrecision.FLOAT,
                explicit_dequantize=True,
            ),
            algorithm_key="float_casting",
        )
    else:
        recipe = dict(
            operation_name=types.TFLOperationName.CONV_2D,
            op_config=types.OpQuantizationConfig(
                weight_tensor_config=types.TensorQuantizationConfig(
                    num_bits=8, granularity=types.QuantGranularity.CHANNELWISE
                ),
                compute_precision=types.ComputePrecision.INTEGER,
            ),
            algorithm_key="min_max_uniform_quantize",
        )
    run = quantizer.Quantizer(content)
    run.update_quantization_recipe(regex=".*", **recipe)
    shown = io.StringIO()  # it prints its progress and the sizes
    with contextlib.redirect_stdout(shown), contextlib.redirect_stderr(shown):
        return bytes(run.quantize().quantized_model)


def check_kind(kind: str) -> None:
    """Raises a ValueError if there is no such rounding."""
    if kind not in KINDS:
        raise ValueError(f"quantize must be one of {', '.join(KINDS)} for LiteRT, got {kind!r}")


def ai_edge_quantizer() -> tuple[Any, Any]:
    """Imports the package ai-edge-quantizer; returns its modules `qtyping` and `quantizer`.

    Raises:
        ImportError: it isn't installed.
    """
    try:
        names = ("qtyping", "quantizer")
        types, quantizer = (import_module(f"ai_edge_quantizer.{name}") for name in names)
    except ImportError as error:
        raise ImportError(
            f"smaller weights for LiteRT need the package ai-edge-quantizer ({error}): "
            "pip install 'segformer-jax[litert]'"
        ) from error
    return types, quantizer
