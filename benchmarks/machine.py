"""The machine that a figure belongs to, and the most that it can multiply."""

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
SIDE = 2048  # of the matrices whose product is the measure of the machine


def describe() -> dict[str, object]:
    """Processor, cores, versions and day."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
        "date": datetime.now(UTC).date().isoformat(),
    }


def peak(dtype: str) -> float:
    """G multiply-adds a second of a large matrix product: the better of JAX's and PyTorch's."""
    rates = [_jax_rate(dtype), _torch_rate(dtype)]
    return max(rates)


def _jax_rate(dtype: str) -> float:
    import jax
    import jax.numpy as jnp

    from segformer_jax.inference.compiling import compiler_options

    a = jnp.ones((SIDE, SIDE), dtype)
    product = jax.jit(
        lambda a, b: jnp.matmul(a, b, preferred_element_type=jnp.float32),
        compiler_options=compiler_options(jax.default_backend(), dtype),
    )
    return _rate(lambda: product(a, a).block_until_ready())


def _torch_rate(dtype: str) -> float:
    import torch

    a = torch.ones((SIDE, SIDE), dtype=getattr(torch, dtype))
    return _rate(lambda: a @ a)


def _rate(product) -> float:
    times = []
    for _ in range(12):
        start = time.perf_counter()
        product()
        times.append(time.perf_counter() - start)
    return SIDE**3 / statistics.median(sorted(times)[:6]) / 1e9


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
