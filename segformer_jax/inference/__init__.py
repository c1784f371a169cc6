"""Inference: `Segmenter`, and programs that run without this library."""

from segformer_jax.inference.export import export_stablehlo, load_exported
from segformer_jax.inference.exporting import Signature
from segformer_jax.inference.onnx_export import export_onnx

__all__ = ["Signature", "export_onnx", "export_stablehlo", "load_exported"]
