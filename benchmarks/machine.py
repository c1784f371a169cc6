"""Describes the machine that figures were measured on, and measures its peak rate."""

import importlib.metadata
import os
import platform
import statistics
import time
from datetime import UTC, datetime
from pathlib import Path

PACKAGES = (
    "jax", "flax", "torch", "transformers", "onnxruntime", "openvino", "keras", "keras-hub",
    "zeromodels",
)  # fmt: skip


def describe() -> dict[str, object]:
    """Returns the processor, accelerator, number of cores, versions and date."""
    return {
        "processor": _processor(),
        "accelerator": _accelerator(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
        "date": datetime.now(UTC).date().isoformat(),
    }


def peak(dtype: str) -> float:
    """Measures 10⁹ multiply-adds per second in a large matrix product.

    On a CPU this is the better of JAX and PyTorch, on an accelerator it is JAX.
    """
    if _accelerator() is not None:
        return _jax_rate(dtype, 8192)
    return max(_jax_rate(dtype, 2048), _torch_rate(dtype, 2048))


def _jax_rate(dtype: str, side: int) -> float:
    import jax
    import jax.numpy as jnp

    from segformer_jax.inference.compiled import compiler_options

    a = jnp.ones((side, side), dtype)
    product = jax.jit(
        lambda a, b: jnp.matmul(a, b, preferred_element_type=jnp.float32),
        compiler_options=compiler_options(jax.default_backend(), dtype),
    )
    return _rate(lambda: product(a, a).block_until_ready(), side)


def _torch_rate(dtype: str, side: int) -> float:
    import torch

    a = torch.ones((side, side), dtype=getattr(torch, dtype))
    return _rate(lambda: a @ a, side)


def _rate(product, side: int) -> float:
    times = []
    for _ in range(12):
        start = time.perf_counter()
        product()
        times.append(time.perf_counter() - start)
    return side**3 / statistics.median(sorted(times)[:6]) / 1e9


def _accelerator() -> str | None:
    import jax

    device = jax.devices()[0]
    return None if device.platform == "cpu" else device.device_kind


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
