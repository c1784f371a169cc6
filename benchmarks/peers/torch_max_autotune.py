"""transformers on PyTorch with `torch.compile(mode="max-autotune")`.

On a GPU, it measures several kernels for each product and convolution, and records CUDA graphs. It
takes minutes to compile.
"""

from pathlib import Path

from benchmarks.contender import Forward
from benchmarks.peers import torch_eager


def forward(folder: Path, *, height: int, width: int, dtype: str) -> Forward:
    """Returns the compiled module; the first calls, which compile and record, are a warm-up."""
    import torch

    model = torch_eager.load(folder, dtype)
    return torch_eager.of_model(torch.compile(model, mode="max-autotune"))
