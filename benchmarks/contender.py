"""The interface by which libraries are measured, and the list of these libraries (contenders)."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Forward:
    """A forward pass in three parts, of which only `run` is timed.

    A peer's module in `benchmarks.peers` has a function
    `forward(folder, *, height, width, dtype) -> Forward`: folder holds a checkpoint of
    transformers, dtype is "float32" or "bfloat16". The function itself imports the library, so that
    a peer can be listed where it isn't installed.

    Attributes:
        prepare: converts normalised pixels (b, height, width, 3) float32 to the input of `run`.
        run: computes a forward pass, and returns when the result is complete.
        logits: converts the result to (b, ⌈height/4⌉, ⌈width/4⌉, labels) float32, or at
            (height, width) if the library has no others.
    """

    prepare: Callable[[np.ndarray], Any]
    run: Callable[[Any], Any]
    logits: Callable[[Any], np.ndarray]


@dataclass(frozen=True)
class Contender:
    """A library with one way to run it.

    Attributes:
        module: its module in `benchmarks.peers`.
        dtype: the type that it is asked to compute in.
        tolerance: the largest distance of its logits from ours, ‖Δ‖ / ‖ours‖.
    """

    module: str
    dtype: str = "float32"
    tolerance: float = 1e-5

    def load(self, task: str) -> Callable[..., Forward]:
        """Returns its function for a task, such as "forward" or "end_to_end"."""
        return getattr(importlib.import_module(f"benchmarks.peers.{self.module}"), task)


BFLOAT16 = 3e-2  # error of rounding to 8 significant bits in some dozen layers
TANH_GELU = 1e-2  # KerasHub approximates GELU: see `benchmarks.peers.keras_hub`

CONTENDERS = {
    "ours": Contender("ours"),
    "ours, bfloat16": Contender("ours", "bfloat16", BFLOAT16),
    "ours, fused, bfloat16": Contender("ours_fused", "bfloat16", BFLOAT16),
    "transformers": Contender("torch_eager"),
    "transformers, torch.compile": Contender("torch_compile"),
    "transformers, bfloat16": Contender("torch_eager", "bfloat16", BFLOAT16),
    "transformers, torch.compile, bfloat16": Contender("torch_compile", "bfloat16", BFLOAT16),
    "transformers, torch.compile max-autotune, bfloat16": Contender(
        "torch_max_autotune", "bfloat16", BFLOAT16
    ),
    "ONNX Runtime": Contender("onnx_runtime"),
    "OpenVINO": Contender("openvino_cpu"),
    "OpenVINO, bfloat16": Contender("openvino_cpu", "bfloat16", BFLOAT16),
    "KerasHub": Contender("keras_hub", tolerance=TANH_GELU),
    "ZeroModels": Contender("zeromodels"),
}
# without max-autotune, which takes minutes to compile, and without kernels that are not in use
ON_GPU = tuple(
    name
    for name in CONTENDERS
    if name.startswith(("ours", "transformers"))
    and "max-autotune" not in name
    and "fused" not in name
)
# without PyTorch in bfloat16: it is slower than in float32, so nobody uses it
ON_CPU = tuple(
    name
    for name in CONTENDERS
    if not (name.startswith("transformers") and "bfloat16" in name) and "fused" not in name
)
TENSORFLOAT32 = 1e-2  # error of products of 10 bits, the default for float32 on a GPU
EXPORTED = {  # our ONNX files, measured by `benchmarks.exported`
    "ours in ONNX Runtime": Contender("ours_onnx_runtime"),
    "ours in OpenVINO": Contender("ours_openvino"),
    "ours in OpenVINO, bfloat16": Contender("ours_openvino", "bfloat16", BFLOAT16),
}
