"""Chooses the number of workers and the resources of each."""

import os
from dataclasses import dataclass, field
from typing import Any

CPUS = 2  # default of a worker without an accelerator
BESIDE_ACCELERATOR = 8  # threads that decode and encode pictures in a worker with an accelerator
ACCELERATORS = {"gpu": "GPU", "tpu": "TPU"}  # JAX's platform: Ray's resource


@dataclass(frozen=True)
class Workers:
    """The number of workers, and the resources of each.

    Attributes:
        count: number of workers.
        device: JAX's platform: cpu, gpu or tpu.
        cpus: CPUs that Ray reserves for each worker.
        gpus: GPUs of each worker.
        resources: Ray's other resources of each worker, such as {"TPU": 1}.
    """

    count: int
    device: str
    cpus: float
    gpus: float = 0
    resources: dict[str, float] = field(default_factory=dict)

    @property
    def threads(self) -> int:
        """Number of pictures that one worker decodes or encodes at a time."""
        return max(1, round(self.cpus)) if self.device == "cpu" else BESIDE_ACCELERATOR

    def options(self) -> dict[str, Any]:
        """Returns the resources of a worker as options of a Ray actor."""
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
    """Chooses one worker per accelerator if the cluster has any, else one per few CPUs.

    Args:
        cluster: the resources of the cluster, from `ray.cluster_resources()`.
        workers: number of workers; by default all that fit.
        cpus: CPUs of each worker without an accelerator; by default two, or one if `workers` would
            not fit otherwise.
        device: cpu, gpu or tpu; by default the first of gpu, tpu and cpu that the cluster has.

    Raises:
        ValueError: a number is below 1, the device is unknown, or the cluster has too few
            resources.
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
    """On a CPU, limits XLA to the worker's number of threads; call it before JAX is used."""
    if workers.device == "cpu":
        os.environ["JAX_PLATFORMS"] = "cpu"
        os.environ["NPROC"] = str(workers.threads)  # size of XLA's thread pool


def _fitting(wanted: int | None, there: int, has: str) -> int:
    if there < (wanted or 1):
        raise ValueError(
            f"the number of workers must be at most {there} on Ray's cluster "
            f"({has}), got {wanted or 1}"
        )
    return wanted or there
