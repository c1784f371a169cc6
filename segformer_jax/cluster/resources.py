"""Chooses the number of workers and the resources of each."""

import os
from dataclasses import dataclass, field
from typing import Any

CPUS = 2  # of a worker without an accelerator
BESIDE_ACCELERATOR = 8  # threads
ACCELERATORS = {"gpu": "GPU", "tpu": "TPU"}  # JAX's names, and Ray's of the resource


@dataclass(frozen=True)
class Workers:
    """A number of equal workers.

    Attributes:
        count: how many.
        device: JAX's platform.
        cpus: CPUs of each, as Ray counts them.
        gpus: GPUs of each.
        resources: what else each takes.
    """

    count: int
    device: str
    cpus: float
    gpus: float = 0
    resources: dict[str, float] = field(default_factory=dict)

    @property
    def threads(self) -> int:
        """How many pictures one worker decodes and encodes at a time."""
        return max(1, round(self.cpus)) if self.device == "cpu" else BESIDE_ACCELERATOR

    def options(self) -> dict[str, Any]:
        """In Ray's words."""
        return {
            "num_cpus": self.cpus,
            "num_gpus": self.gpus,
            "resources": dict(self.resources),
        }


def choose_workers(
    cluster: dict[str, float],
    *,
    workers: int | None = None,
    cpus: int | None = None,
    device: str | None = None,
) -> Workers:
    """One worker per accelerator where there are any, else one per few CPUs.

    Args:
        cluster: what the cluster has, `ray.cluster_resources()`.
        workers: how many; all that fit when left out.
        cpus: CPUs of each worker without an accelerator.
        device: cpu, gpu or tpu; the fastest that the cluster has when left out.

    Raises:
        ValueError: the cluster has not enough of what is asked for.
    """
    for name, value in (("workers", workers), ("CPUs of a worker", cpus)):
        if value is not None and value < 1:
            raise ValueError(f"the number of {name} must be at least 1, got {value}")
    if device is None:
        device = next((d for d, name in ACCELERATORS.items() if cluster.get(name, 0) >= 1), "cpu")
    if device in ACCELERATORS:
        name = ACCELERATORS[device]
        there = int(cluster.get(name, 0))
        count = _fitting(workers, there, f"{there} {name}s")
        if name == "GPU":
            return Workers(count, device, cpus=0, gpus=1)
        return Workers(count, device, cpus=0, resources={name: 1})
    if device != "cpu":
        raise ValueError(f"device must be cpu, gpu or tpu, got {device!r}")
    total = int(cluster.get("CPU", 0))
    each = cpus if cpus is not None else max(1, min(CPUS, total // (workers or 1)))
    count = _fitting(workers, total // each, f"{total} CPUs, and a worker takes {each}")
    return Workers(count, device, cpus=each)


def limit_threads(workers: Workers) -> None:
    """The network's arithmetic keeps to the worker's CPUs; called before JAX is used."""
    if workers.device == "cpu":
        os.environ["JAX_PLATFORMS"] = "cpu"
        os.environ["NPROC"] = str(workers.threads)  # XLA's pool of threads is as large


def _fitting(wanted: int | None, there: int, has: str) -> int:
    if there < (wanted or 1):
        raise ValueError(
            f"the number of workers must be at most {there} on Ray's cluster "
            f"({has}), got {wanted or 1}"
        )
    return wanted or there
