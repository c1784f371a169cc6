"""OpenVINO with the exported transformers model, in float32 or bfloat16."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.contender import Forward
from benchmarks.peers.onnx_runtime import exported


def forward(folder: Path, *, height: int, width: int, dtype: str) -> Forward:
    """Compiles a model with the latency hint; bfloat16 works if the CPU multiplies it natively."""
    return compiled(lambda shape: exported(folder, shape), dtype)


def compiled(file_for: Callable[[tuple[int, ...]], Path], dtype: str) -> Forward:
    """Returns a compiled model; `file_for` gives the ONNX file for an input (b, h, w, 3)."""
    import openvino

    core, requests = openvino.Core(), {}

    def prepare(pixels: np.ndarray) -> np.ndarray:
        precision = {"float32": "f32", "bfloat16": "bf16"}[dtype]
        model = core.compile_model(
            file_for(pixels.shape),
            "CPU",
            {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY"},
        )
        requests["now"] = model.create_infer_request()
        return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))

    return Forward(
        prepare=prepare,
        run=lambda pixels: requests["now"].infer([pixels])[0],
        logits=lambda y: np.asarray(y).transpose(0, 2, 3, 1),
    )
