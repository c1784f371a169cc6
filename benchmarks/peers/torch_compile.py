"""transformers on PyTorch with `torch.compile`, which generates C++ on a CPU."""

from pathlib import Path

from benchmarks.contender import Forward
from benchmarks.peers import torch_eager


def forward(folder: Path, *, height: int, width: int, dtype: str) -> Forward:
    """Returns the compiled module; its first call, which compiles, is part of the warm-up."""
    import torch

    return torch_eager.of_model(torch.compile(torch_eager.load(folder, dtype)))
