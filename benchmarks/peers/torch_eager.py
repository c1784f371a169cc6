"""transformers on PyTorch with its defaults: eager, with sdpa attention.

On an NVIDIA GPU float32 products may use TensorFloat-32, which is JAX's default there.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.contender import Forward


def forward(folder: Path, *, height: int, width: int, dtype: str) -> Forward:
    """Returns `SegformerForSemanticSegmentation` in `torch.inference_mode`, NCHW."""
    return of_model(load(folder, dtype))


def end_to_end(folder: Path, *, height: int, width: int, dtype: str) -> Forward:
    """Returns the PIL processor, the model and `post_process_semantic_segmentation` as one pass."""
    import torch
    import transformers

    model = load(folder, dtype)
    processor = transformers.SegformerImageProcessorPil.from_pretrained(folder)

    def run(photo: np.ndarray) -> Any:
        with torch.inference_mode():
            inputs = processor(images=photo, return_tensors="pt").to(model.device, model.dtype)
            outputs = model(**inputs)
            size = photo.shape[:2]
            maps = processor.post_process_semantic_segmentation(outputs, target_sizes=[size])
            return maps[0].cpu()

    return Forward(prepare=lambda photo: photo, run=run, logits=lambda y: y.numpy())


def load(folder: Path, dtype: str) -> Any:
    """Loads the model in eval mode, on the GPU if there is one, else on PyTorch's CPU threads.

    Raises:
        RuntimeError: JAX_PLATFORMS asks for a GPU, which PyTorch does not find.
    """
    import torch
    import transformers

    check_gpu()
    model = transformers.SegformerForSemanticSegmentation.from_pretrained(
        folder, dtype=getattr(torch, dtype)
    )
    model = model.eval()
    if not torch.cuda.is_available():
        return model
    torch.set_float32_matmul_precision("high")
    return model.cuda()


def check_gpu() -> None:
    """Refuses to measure PyTorch on the CPU where JAX is told to run on a GPU.

    Raises:
        RuntimeError: JAX_PLATFORMS begins with cuda, and PyTorch finds no GPU.
    """
    import torch

    if os.environ.get("JAX_PLATFORMS", "").startswith("cuda") and not torch.cuda.is_available():
        raise RuntimeError(
            f"PyTorch {torch.__version__} finds no GPU, and JAX_PLATFORMS asks for one: install "
            "PyTorch for CUDA"
        )


def of_model(model: Any) -> Forward:
    """Returns the forward pass of a model of transformers, compiled or not."""
    import torch

    parameter = next(model.parameters())

    def prepare(pixels: np.ndarray) -> Any:
        return torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))).to(parameter)

    def run(pixels: Any) -> Any:
        with torch.inference_mode():
            logits = model(pixel_values=pixels).logits
        if logits.is_cuda:
            torch.cuda.synchronize()
        return logits

    return Forward(prepare, run, lambda y: y.float().permute(0, 2, 3, 1).cpu().numpy())
