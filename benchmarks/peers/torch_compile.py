"""transformers on PyTorch, through `torch.compile` (its C++ backend on a CPU)."""

from pathlib import Path

from benchmarks.contender import Forward
from benchmarks.peers import torch_eager


def forward(folder: Path, *, height: int, width: int, dtype: str) -> Forward:
    """The compiled module; the first call, which compiles, is among the warm-up."""
    import torch

    return torch_eager.of_model(torch.compile(torch_eager.load(folder, dtype)))
