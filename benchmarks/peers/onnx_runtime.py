"""ONNX Runtime with the exported transformers model."""

import os
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.contender import Forward
from benchmarks.peers import torch_eager


def forward(folder: Path, *, height: int, width: int, dtype: str) -> Forward:
    """Returns a session on all cores, with a graph exported for the shape of its input."""
    if dtype != "float32":
        raise ValueError(f"ONNX Runtime's CPU provider is measured in float32, not {dtype}")
    return in_session(lambda shape: exported(folder, shape))


def in_session(file_for: Callable[[tuple[int, ...]], Path]) -> Forward:
    """Returns a session on all cores; `file_for` gives the ONNX file for an input (b, h, w, 3)."""
    import onnxruntime

    sessions = {}

    def prepare(pixels: np.ndarray) -> np.ndarray:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = os.cpu_count() or 1
        sessions["now"] = onnxruntime.InferenceSession(
            file_for(pixels.shape), options, providers=["CPUExecutionProvider"]
        )
        return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))

    return Forward(
        prepare=prepare,
        run=lambda pixels: sessions["now"].run(None, {"pixel_values": pixels})[0],
        logits=lambda y: y.transpose(0, 2, 3, 1),
    )


def exported(folder: Path, shape: tuple[int, ...]) -> Path:
    """Returns the ONNX file of transformers' model for one shape (b, h, w, 3), exported once."""
    file = folder / f"{'x'.join(map(str, shape))}.onnx"
    if file.exists():
        return file
    import torch

    model = torch_eager.load(folder, "float32")

    class Logits(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, pixel_values):
            return self.model(pixel_values, return_dict=False)[0]

    b, h, w, c = shape
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the tracing exporter is deprecated, but faster
        torch.onnx.export(
            Logits().eval(),
            (torch.zeros(b, c, h, w),),
            str(file),
            input_names=["pixel_values"],
            opset_version=17,
            dynamo=False,
        )
    return file
