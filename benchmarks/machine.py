"""Describes the machine that figures were measured on, and measures its peak rate."""

import importlib.metadata
import os
import platform
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

PACKAGES = (
    "segformer-jax", "jax", "libtpu", "flax", "torch", "triton", "transformers", "onnxruntime",
    "openvino", "keras", "keras-hub", "zeromodels",
)  # fmt: skip


def describe() -> dict[str, object]:
    """Returns the processor, accelerator, its driver, number of cores, versions and date."""
    return {
        "processor": _processor(),
        "accelerator": _accelerator(),
        "driver": _driver(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
        "date": datetime.now(UTC).date().isoformat(),
    }


def peak(dtype: str) -> float:
    """Measures 10⁹ multiply-adds per second in a large matrix product.

    On a CPU this is the better of JAX and PyTorch, on an accelerator it is JAX.
    """
    product, side = large_product(dtype)
    own = _rate(product, side)
    return own if _accelerator() is not None else max(own, _torch_rate(dtype, side))


def large_product(dtype: str) -> tuple[Callable[[], Any], int]:
    """Returns a function that multiplies two square matrices by JAX, and their side."""
    import jax
    import jax.numpy as jnp

    from segformer_jax.inference.compiled import compiler_options

    side = 2048 if _accelerator() is None else 8192
    a = jnp.ones((side, side), dtype)
    product = jax.jit(
        lambda a, b: jnp.matmul(a, b, preferred_element_type=jnp.float32),
        compiler_options=compiler_options(jax.default_backend(), dtype),
    )
    return lambda: product(a, a).block_until_ready(), side


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


def _driver() -> str | None:
    """Returns the version of NVIDIA's driver, or of the runtime of another accelerator."""
    import jax

    device = jax.devices()[0]
    if device.platform == "cpu":
        return None
    program = shutil.which("nvidia-smi")
    if device.platform == "gpu" and program is not None:
        query = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
        done = subprocess.run(query, capture_output=True, text=True)
        if done.returncode == 0:
            return done.stdout.splitlines()[0].strip()
    return str(getattr(device.client, "platform_version", "unknown"))


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
