"""Distributes a run over several devices and processes."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXIS = "data"
ANSWER_WITHIN = 2.0  # seconds until all processes know of a signal that one has received
SMALL = 1 << 14  # parameters with fewer numbers than this are not split


def join_processes(
    coordinator: str | None, num_processes: int | None, process_id: int | None
) -> None:
    """Connects this process with the others; call it before JAX is used for anything else.

    Args:
        coordinator: HOST:PORT of process 0; "auto" gets it from SLURM, a TPU pod, Kubernetes or
            MPI; with None nothing is connected.
        num_processes: number of processes; needed with HOST:PORT.
        process_id: index of this process; needed with HOST:PORT.

    Raises:
        ValueError: only some of the arguments are given, or the processes can't connect.
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
            f"{coordinator}: only auto finds them, on SLURM, a TPU pod, Kubernetes and under MPI"
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
    """Returns a mesh of one axis over these devices; by default all devices of all processes."""
    return Mesh(np.array(jax.devices() if devices is None else devices), (AXIS,))


def parameter_spec(shape: tuple[int, ...], parts: int) -> PartitionSpec:
    """Splits the longest axis that is a multiple of `parts`, as FSDP; small arrays stay whole."""
    axes = [axis for axis, size in enumerate(shape) if size % parts == 0]
    if int(np.prod(shape)) < SMALL or not axes:
        return PartitionSpec()
    longest = max(axes, key=lambda axis: shape[axis])
    return PartitionSpec(*(AXIS if axis == longest else None for axis in range(len(shape))))


def state_sharding(state: Any, mesh: Mesh, *, fsdp: bool) -> Any:
    """Returns each array's sharding: replicated, or with `fsdp` split by `parameter_spec`."""

    def of(leaf: Any) -> NamedSharding:
        spec = parameter_spec(leaf.shape, mesh.size) if fsdp else PartitionSpec()
        return NamedSharding(mesh, spec)

    return jax.tree.map(of, state)


def place(state: Any, sharding: Any) -> Any:
    """Returns global arrays of a state of which every process has a complete copy."""

    def put(leaf: Any, where: NamedSharding) -> jax.Array:
        return jax.make_array_from_callback(leaf.shape, where, np.asarray(leaf).__getitem__)

    return jax.tree.map(put, state, sharding)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of a batch, (parts, pictures, …), whose pictures are split."""
    return NamedSharding(mesh, PartitionSpec(None, AXIS))


def global_batch(parts: Sequence[Mapping[str, np.ndarray]], mesh: Mesh) -> dict[str, jax.Array]:
    """Returns the global batch, (parts, pictures, …), of which this process gives its own pictures.

    Which pictures a part contains does not depend on the number of processes.
    """
    sharding = batch_sharding(mesh)
    return {
        name: jax.make_array_from_process_local_data(
            sharding, np.stack([part[name] for part in parts])
        )
        for name in parts[0]
    }


def gathered(values: Any) -> Any:
    """Returns global arrays as complete NumPy arrays in every process."""
    if jax.process_count() > 1:
        return multihost_utils.process_allgather(values, tiled=True)
    return jax.device_get(values)


class SharedFlags:
    """Flags that become true in all processes at the same step, once they are true in any process.

    An exchange makes all processes wait for one another and for the device. With several processes
    it therefore takes place only after about `ANSWER_WITHIN` seconds of steps; all of them agree on
    the step.
    """

    def __init__(self, step: int, *, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._asked, self._next = (step, clock()), step

    def __call__(self, step: int, flags: tuple[bool, ...]) -> tuple[bool, ...]:
        """Returns which flags are true in any process; all False at a step without an exchange.

        Args:
            step: number of the step that was just begun; every process calls this once per step.
            flags: this process's own flags, which must stay true until they are returned as true.
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
