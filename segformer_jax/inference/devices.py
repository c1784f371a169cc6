"""The devices that an option names."""

from collections.abc import Sequence

import jax


def local_devices(device: str | jax.Device | Sequence[jax.Device] | None) -> list[jax.Device]:
    """Returns this machine's devices of a platform, the given ones, or by default JAX's own.

    Raises:
        ValueError: JAX finds no device of this platform.
    """
    if device is None:
        return jax.local_devices()
    if isinstance(device, str):
        try:
            return jax.local_devices(backend=device)
        except RuntimeError as error:
            here = sorted({d.platform for d in jax.local_devices()})
            raise ValueError(
                f"device must be one that JAX finds here, {here}, got {device!r}"
            ) from error
    return list(device) if isinstance(device, Sequence) else [device]
