"""A model in use: `Segmenter`, and programs that run without this library."""

from typing import TYPE_CHECKING

from segformer_jax.on_demand import on_demand

if TYPE_CHECKING:  # what `on_demand` gives
    from segformer_jax.inference.export import export_stablehlo, load_exported
    from segformer_jax.inference.exporting import Signature
    from segformer_jax.inference.onnx_export import export_onnx

__all__ = ["Signature", "export_onnx", "export_stablehlo", "load_exported"]

__getattr__, __dir__ = on_demand(
    __name__,
    {
        "Signature": "segformer_jax.inference.exporting",
        "export_onnx": "segformer_jax.inference.onnx_export",
        "export_stablehlo": "segformer_jax.inference.export",
        "load_exported": "segformer_jax.inference.export",
    },
)
