"""Starts Ray on this machine, or connects to it, without statistics or open ports."""

import importlib
import os
import secrets
from typing import Any

REACHED_WITHIN = 10  # seconds, for an address to answer
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # Ray's coming default, without its warning
}
# Ray replaces 127.0.0.1 by an address that other machines reach, unless it is told, as it tells
# itself on a Mac, that no cluster is wanted
LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}


def import_ray(*parts: str) -> Any:
    """Ray and these parts of it ("data", "serve").

    Raises:
        ImportError: it is not installed; it says how to get it.
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
    """Ray on this machine alone, ended with this process.

    All of its ports are on loopback, and take nothing from whoever does not know this run's token.

    Args:
        parts: as `import_ray`.
        cpus: that Ray counts with; those of the machine when left out, and two at least.
        driver_log: show what the workers print.
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
    """In a replica of Ray Serve on a Ray of `start_here`, before it opens its port to the others.

    It would listen on all of the machine's addresses, and there is no setting for it.

    Raises:
        RuntimeError: this Ray opens the port by another function than the one known here.
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
    """Ray at an address: "local" starts it here, "auto" finds the one that runs here.

    Args:
        address: local, auto, HOST:PORT of a head node, or ray://HOST:PORT of a Ray client server.
        parts: as `import_ray`.

    Raises:
        ConnectionError: nothing answers there within seconds, or it is another version of Ray.
        ValueError: it is no address.
    """
    if address == "local":
        return start_here(*parts)
    ray = import_ray(*parts)
    _check_reachable(ray, address)
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except Exception as error:  # of a dozen kinds
        raise ConnectionError(f"Ray at {address} can't be used: {error}") from error
    return ray


def _check_reachable(ray: Any, address: str) -> None:
    """Ray's own attempts last minutes, and may end in an abort of this process."""
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
    with grpc.insecure_channel(target, options=direct) as channel:  # both kinds speak gRPC
        try:
            grpc.channel_ready_future(channel).result(timeout=REACHED_WITHIN)
        except grpc.FutureTimeoutError as error:
            raise ConnectionError(
                f"no Ray answers at {target} (waited {REACHED_WITHIN} s): start it "
                "there with `ray start --head`, or use --ray local"
            ) from error
