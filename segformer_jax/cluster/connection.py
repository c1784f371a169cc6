"""Starts Ray on this machine, or connects to it, without statistics or open ports."""

import importlib
import os
import secrets
from typing import Any

REACHED_WITHIN = 10  # seconds that an address has to answer
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # Ray's future default; avoids its warning
}
# Unless this is 0, the default on macOS and Windows, Ray assumes a cluster of machines and replaces
# 127.0.0.1 by an address that other machines can reach
LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}


def import_ray(*parts: str) -> Any:
    """Imports these submodules of Ray ("data", "serve"); returns the module `ray`.

    Raises:
        ImportError: Ray is not installed; the message says how to install it.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    try:
        for part in parts:
            importlib.import_module(f"ray.{part}")
        return importlib.import_module("ray")
    except ImportError as error:
        raise ImportError(f"this needs Ray ({error}): pip install 'segformer-jax[ray]'") from error


def start_here(*parts: str, cpus: int | None = None, driver_log: bool = False) -> Any:
    """Starts Ray on this machine only, until this process ends; returns the module `ray`.

    All of its ports listen on loopback. Unless RAY_AUTH_MODE is set, they only accept clients that
    have the random token of this run.

    Args:
        parts: submodules of Ray to import, as in `import_ray`.
        cpus: number of CPUs that Ray schedules with; by default those of the machine, at least two.
        driver_log: whether to show what the workers print.
    """
    os.environ.update(LOOPBACK)
    if "RAY_AUTH_MODE" not in os.environ:
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    ray = import_ray(*parts)
    ray.init(
        address="local",
        num_cpus=cpus or max(2, os.cpu_count() or 1),
        include_dashboard=False,
        log_to_driver=driver_log,
        logging_level="ERROR",
        _node_ip_address="127.0.0.1",
    )
    return ray


def keep_replica_on_loopback() -> None:
    """Makes a replica of Ray Serve listen on loopback only, if `start_here` has started Ray.

    To be called in the replica, before it opens its gRPC port. By default it listens on all
    addresses of the machine, and Ray has no setting for this, so a private function is replaced.

    Raises:
        RuntimeError: this version of Ray does not have that function.
    """
    if any(os.environ.get(name) != value for name, value in LOOPBACK.items()):
        return
    try:
        replica: Any = importlib.import_module("ray.serve._private.replica")
        listen = replica.add_port_to_grpc_server
    except (ImportError, AttributeError) as error:
        raise RuntimeError(
            f"Ray must be a version whose replicas can be kept off the network, got another one "
            f"({error}): pip install 'segformer-jax[ray]'"
        ) from error
    replica.add_port_to_grpc_server = lambda server, _: listen(server, "127.0.0.1:0")


def connect(address: str, *parts: str) -> Any:
    """Starts Ray or connects to a running one; returns the module `ray`.

    Args:
        address: local (start Ray here), auto (find the Ray that runs on this machine), HOST:PORT of
            a head node, or ray://HOST:PORT of a Ray client server.
        parts: submodules of Ray to import, as in `import_ray`.

    Raises:
        ConnectionError: nothing answers at the address within seconds, or Ray refuses the
            connection, for example because it has another version there.
        ValueError: `address` has none of these forms.
    """
    if address == "local":
        return start_here(*parts)
    ray = import_ray(*parts)
    _check_reachable(ray, address)
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except Exception as error:  # Ray raises a dozen different types
        raise ConnectionError(f"Ray at {address} can't be used: {error}") from error
    return ray


def _check_reachable(ray: Any, address: str) -> None:
    """Raises an error if nothing answers; Ray would try for minutes and may abort this process."""
    import grpc

    target = address.removeprefix("ray://")
    if address == "auto":
        found = ray._private.services.canonicalize_bootstrap_address("auto")
        if found is None:
            raise ConnectionError(
                "--ray auto found no Ray on this machine: start it with `ray start "
                "--head`, or use --ray local"
            )
        target = found
    host, _, port = target.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise ValueError(
            f"the address of Ray must be local, auto, HOST:PORT or ray://HOST:PORT, got {address!r}"
        )
    direct = [("grpc.enable_http_proxy", 0)]
    with grpc.insecure_channel(target, options=direct) as channel:  # both kinds use gRPC
        try:
            grpc.channel_ready_future(channel).result(timeout=REACHED_WITHIN)
        except grpc.FutureTimeoutError as error:
            raise ConnectionError(
                f"no Ray answers at {target} (waited {REACHED_WITHIN} s): start it "
                "there with `ray start --head`, or use --ray local"
            ) from error
