"""Inference: `Segmenter`, and programs that run without this library."""

from segformer_jax.export.onnx.program import export_onnx
from segformer_jax.export.signature import Signature
from segformer_jax.export.stablehlo import export_stablehlo, load_exported

__all__ = ["Signature", "export_onnx", "export_stablehlo", "load_exported"]
