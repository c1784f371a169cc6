"""Exports programs that run without this library: StableHLO, ONNX, LiteRT, a page for browsers.

It may import `inference`, `checkpoints`, `models`, `ops`, `images` and `view`; the packages that
write ONNX and LiteRT come with the extras `onnx` and `litert`.
"""

from typing import TYPE_CHECKING

from segformer_jax.on_demand import on_demand

if TYPE_CHECKING:  # the names that `on_demand` imports on first use
    from segformer_jax.export.licence import Licence, licence_of
    from segformer_jax.export.litert.conversion import export_litert
    from segformer_jax.export.onnx.program import export_onnx
    from segformer_jax.export.signature import Signature
    from segformer_jax.export.stablehlo import export_stablehlo, load_exported
    from segformer_jax.export.transformers_js import export_transformers_js
    from segformer_jax.export.web.page_files import export_web

__all__ = [
    "Licence",
    "Signature",
    "export_litert",
    "export_onnx",
    "export_stablehlo",
    "export_transformers_js",
    "export_web",
    "licence_of",
    "load_exported",
]

__getattr__, __dir__ = on_demand(
    __name__,
    {
        "Licence": "segformer_jax.export.licence",
        "Signature": "segformer_jax.export.signature",
        "export_litert": "segformer_jax.export.litert.conversion",
        "export_onnx": "segformer_jax.export.onnx.program",
        "export_stablehlo": "segformer_jax.export.stablehlo",
        "export_transformers_js": "segformer_jax.export.transformers_js",
        "export_web": "segformer_jax.export.web.page_files",
        "licence_of": "segformer_jax.export.licence",
        "load_exported": "segformer_jax.export.stablehlo",
    },
)
