"""Stores kernels in 8 bits: the file is a quarter as large, and the weights nearly the same.

The weights of each output channel of a linear layer or a convolution are integers times a scale,
which is the channel's largest absolute weight ÷ 127. The file has the integers as `….weight`, int8,
and the scales as `….weight_scale`, float32, one per output channel. Norms, biases and statistics
stay floats, and so do depthwise kernels, which have only nine weights for each scale of four bytes.
Loading converts everything to floats.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from segformer_jax.errors import WeightsError

INT8_FILE = "model.int8.safetensors"
SCALE = "_scale"
LARGEST = 127  # the range is symmetric: −128 is not used


def quantise(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Replaces kernels by int8 kernels and their scales; tensors have Hugging Face's names.

    A weight is rounded to the nearest multiple of its scale, or to the even one if two are equally
    near. A channel of zeros has the scale 1.

    Raises:
        ValueError: kernels have NaN or infinity; the message names all of them.
    """
    quantised, broken = {}, []
    for name, tensor in tensors.items():
        if not _is_kernel(name, tensor):
            quantised[name] = tensor
            continue
        rows = np.asarray(tensor, np.float64).reshape(len(tensor), -1)  # output channels are first
        scale = (np.abs(rows).max(1) / LARGEST).astype(np.float32)
        if not np.isfinite(scale).all():
            broken.append(name)
            continue
        scale[scale == 0] = 1
        multiples = np.rint(rows / scale[:, None]).clip(-LARGEST, LARGEST)
        quantised[name] = multiples.astype(np.int8).reshape(tensor.shape)
        quantised[name + SCALE] = scale
    if broken:
        raise ValueError(
            "int8 weights must be finite, got NaN or infinity in "
            f"{', '.join(broken)}: use a checkpoint from before training diverged"
        )
    return quantised


def dequantise(tensors: Mapping[str, np.ndarray], *, source: Path) -> dict[str, np.ndarray]:
    """Replaces int8 kernels and their scales by float32 kernels; keeps other tensors as they are.

    Args:
        tensors: the content of a file, by Hugging Face's names.
        source: path of the file, for the error.

    Raises:
        WeightsError: scales are missing or invalid; the message names all of them.
    """
    scales = {n: n + SCALE for n, tensor in tensors.items() if tensor.dtype == np.int8}
    missing = [scale for scale in scales.values() if scale not in tensors]
    faults = {
        scale: _fault(tensors[scale], tensors[name].shape[:1])
        for name, scale in scales.items()
        if scale in tensors
    }
    damaged = [f"{scale} {fault}" for scale, fault in faults.items() if fault]
    if missing or damaged:
        raise WeightsError(
            f"int8 weights need a scale per output channel; those of {source} are incomplete\n"
            f"  missing: {', '.join(missing) or 'none'}\n"
            f"  damaged: {', '.join(damaged) or 'none'}\n"
            "fetch the file again, or make it anew from the float weights: segformer-jax convert "
            "SOURCE OUT_DIR --weights int8"
        )
    return {
        name: _times(tensor, tensors[scales[name]]) if name in scales else tensor
        for name, tensor in tensors.items()
        if name not in faults
    }


def _is_kernel(name: str, tensor: np.ndarray) -> bool:
    return tensor.ndim in (2, 4) and not name.endswith(".dwconv.weight")


def _fault(scale: np.ndarray, shape: tuple[int, ...]) -> str:
    """Returns what is wrong with a scale; "" if nothing is."""
    if scale.dtype != np.float32:
        return f"is {scale.dtype}, not float32"
    if scale.shape != shape:
        return f"has shape {scale.shape}, not {shape}"
    wrong = int((~(np.isfinite(scale) & (scale > 0))).sum())
    return f"has {wrong} of {scale.size} values that are not finite and above 0" if wrong else ""


def _times(kernel: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return kernel.astype(np.float32) * scale.reshape(scale.shape + (1,) * (kernel.ndim - 1))
