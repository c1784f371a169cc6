"""OpenVINO on the exported transformers model, in float32 or at its default precision."""

from pathlib import Path

import numpy as np

from benchmarks.contender import Forward
from benchmarks.peers.onnx_runtime import exported


def forward(folder: Path, *, height: int, width: int, dtype: str) -> Forward:
    """A compiled model with the latency hint; bfloat16 where the CPU multiplies it natively."""
    import openvino

    core, requests = openvino.Core(), {}

    def prepare(pixels: np.ndarray) -> np.ndarray:
        precision = {"float32": "f32", "bfloat16": "bf16"}[dtype]
        compiled = core.compile_model(
            exported(folder, pixels.shape),
            "CPU",
            {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY"},
        )
        requests["now"] = compiled.create_infer_request()
        return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))

    return Forward(
        prepare=prepare,
        run=lambda pixels: requests["now"].infer([pixels])[0],
        logits=lambda y: np.asarray(y).transpose(0, 2, 3, 1),
    )
