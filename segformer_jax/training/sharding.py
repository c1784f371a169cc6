"""Distributes a run over several devices and processes."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXIS = "data"
ANSWER_WITHIN = 2.0  # seconds until all processes know of a signal that one has got
SMALL = 1 << 14  # numbers in a parameter that is not worth splitting


def join_processes(
    coordinator: str | None, num_processes: int | None, process_id: int | None
) -> None:
    """Makes this process one of several; call it before JAX is used for anything else.

    Args:
        coordinator: HOST:PORT of process 0; "auto" asks SLURM, a TPU pod, Kubernetes or MPI; None
            leaves this process alone.
        num_processes: how many there are, with an address.
        process_id: which of them this one is, with an address.

    Raises:
        ValueError: half an address, or nobody answers there.
    """
    if coordinator is None:
        if num_processes is not None or process_id is not None:
            raise ValueError(
                "num_processes and process_id need a coordinator: HOST:PORT of process 0, or auto"
            )
        return
    if coordinator != "auto" and (num_processes is None or process_id is None):
        raise ValueError(
            "num_processes and process_id must be given with coordinator "
            f"{coordinator}: auto finds them on SLURM, on a TPU pod, and under MPI "
            "only"
        )
    if jax.distributed.is_initialized():
        return
    try:
        if coordinator == "auto":
            jax.distributed.initialize()
        else:
            jax.distributed.initialize(coordinator, num_processes, process_id)
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"the processes could not connect to each other: {error}") from error


def make_mesh(devices: Any = None) -> Mesh:
    """All devices of all processes in one row, or these."""
    return Mesh(np.array(jax.devices() if devices is None else devices), (AXIS,))


def parameter_spec(shape: tuple[int, ...], parts: int) -> PartitionSpec:
    """FSDP's rule: the longest axis that the devices divide is split; small ones are not."""
    axes = [axis for axis, size in enumerate(shape) if size % parts == 0]
    if int(np.prod(shape)) < SMALL or not axes:
        return PartitionSpec()
    longest = max(axes, key=lambda axis: shape[axis])
    return PartitionSpec(*(AXIS if axis == longest else None for axis in range(len(shape))))


def state_sharding(state: Any, mesh: Mesh, *, fsdp: bool) -> Any:
    """Where each array of a state lies: everywhere whole, or split by `parameter_spec`."""

    def of(leaf: Any) -> NamedSharding:
        spec = parameter_spec(leaf.shape, mesh.size) if fsdp else PartitionSpec()
        return NamedSharding(mesh, spec)

    return jax.tree.map(of, state)


def place(state: Any, sharding: Any) -> Any:
    """A state that every process has whole, as global arrays."""

    def put(leaf: Any, where: NamedSharding) -> jax.Array:
        return jax.make_array_from_callback(leaf.shape, where, np.asarray(leaf).__getitem__)

    return jax.tree.map(put, state, sharding)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """A batch is (parts, pictures, …); its pictures are split."""
    return NamedSharding(mesh, PartitionSpec(None, AXIS))


def global_batch(parts: Sequence[Mapping[str, np.ndarray]], mesh: Mesh) -> dict[str, jax.Array]:
    """The batch of all devices, of which this process holds its share of (parts, pictures, …).

    A part holds the same pictures however many processes share it.
    """
    sharding = batch_sharding(mesh)
    return {
        name: jax.make_array_from_process_local_data(
            sharding, np.stack([part[name] for part in parts])
        )
        for name in parts[0]
    }


def gathered(values: Any) -> Any:
    """Global arrays as NumPy ones, whole, in every process."""
    if jax.process_count() > 1:
        return multihost_utils.process_allgather(values, tiled=True)
    return jax.device_get(values)


class SharedFlags:
    """Flags that are raised in all processes, at the same step, once they are in any.

    An answer makes all processes wait for one another and for the device, so several of them ask
    only when about `ANSWER_WITHIN` seconds of steps have gone by; they agree on which step that is.
    """

    def __init__(self, step: int, *, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._asked, self._next = (step, clock()), step

    def __call__(self, step: int, flags: tuple[bool, ...]) -> tuple[bool, ...]:
        """The flags of all processes; none is raised where this step does not ask.

        Args:
            step: the step that was just begun; every process calls once a step.
            flags: of this process, raised until they are answered.
        """
        if jax.process_count() == 1:
            return flags
        if step < self._next:
            return (False,) * len(flags)
        before, since = self._asked
        now = self._clock()
        took = (now - since) / max(1, step - before)
        all_ = multihost_utils.process_allgather(np.array([*flags, took], np.float32)).max(0)
        self._asked = step, now
        self._next = step + max(1, int(ANSWER_WITHIN / max(float(all_[-1]), 1e-3)))
        return tuple(bool(flag) for flag in all_[:-1])
