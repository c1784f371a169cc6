"""OpenVINO with our exported model."""

from pathlib import Path

from benchmarks.contender import Forward
from benchmarks.peers.openvino_cpu import compiled
from benchmarks.peers.ours_onnx_runtime import exported


def forward(folder: Path, *, height: int, width: int, dtype: str) -> Forward:
    """Returns a compiled model with a graph of fixed sizes."""
    return compiled(lambda shape: exported(folder, shape), dtype)


def any_size(folder: Path, *, height: int, width: int, dtype: str) -> Forward:
    """Returns a compiled model with a graph of open sizes."""
    return compiled(lambda shape: exported(folder, None), dtype)
