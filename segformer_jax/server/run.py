"""Runs the Ray Serve application on one machine until it is stopped."""

import logging
import os
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from segformer_jax.cluster.connection import start_here
from segformer_jax.cluster.resources import choose_workers
from segformer_jax.server.requests import Limits

STARTED_WITHIN = 600  # seconds; a loaded machine once needed 99 for the proxy alone
PATIENCE = {  # Ray kills proxies that are not ready or well within 5 and 10 seconds
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "180",
    "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "60",
}


def check_port(host: str, port: int) -> None:
    """Checks that the port is free, because Ray Serve would share it with another program.

    Raises:
        ValueError: the port is not in 1…65535.
        OSError: the port is in use, or the host is not an address of this machine.
    """
    if not 1 <= port <= 65535:
        raise ValueError(f"the port must be in 1…65535, got {port}")
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise OSError(
            f"can't listen on {host}:{port}: {error.strerror or error}; choose another --port"
        ) from error


def run(
    model: str,
    *,
    host: str,
    port: int,
    limits: Limits,
    dtype: str = "float32",
    device: str | None = None,
    batch_size: int = 8,
    replicas: int | None = None,
    programs: Path | None = None,
    aside: Callable[[str], None] = lambda reason: None,
    ready: Callable[[str], None],
    stop: threading.Event,
) -> None:
    """Starts Ray, serves until `stop` is set, and stops Ray.

    Args:
        model: a weights package, a folder, or a name on the hub.
        host: address that the HTTP server listens on; Ray's other ports are on loopback.
        port: port of the HTTP server.
        limits: the limits of requests.
        dtype: type of the matrix products.
        device: cpu, gpu or tpu; by default an accelerator if there is one.
        batch_size: largest number of pictures per run of a replica's network.
        replicas: number of replicas; by default one per accelerator, or one for all CPUs.
        programs: a folder of programs compiled ahead; by default what SEGFORMER_JAX_PROGRAMS names.
        aside: called with the reason if the programs are left aside.
        ready: called with the server's address when it answers requests.
        stop: set it to stop the server.

    Raises:
        RuntimeError: the replicas do not start; the message has Ray's reason.
        TimeoutError: the server does not answer in time.
    """
    for name, value in PATIENCE.items():
        os.environ.setdefault(name, value)
    ray = start_here("serve", cpus=max(os.cpu_count() or 1, replicas or 1))
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    try:
        from segformer_jax.server.app import Model, application

        there = ray.cluster_resources()
        each = max(1, int(there["CPU"]) // (replicas or 1))
        workers = choose_workers(there, workers=replicas, cpus=each, device=device)
        until = time.monotonic() + STARTED_WITHIN
        while True:
            try:
                ray.serve.start(http_options={"host": host, "port": port})
                break
            except TimeoutError:  # Ray's fixed limit of a minute; Serve goes on starting
                if time.monotonic() > until:
                    raise
        app = application(Model(model, dtype, batch_size, programs), limits, workers)
        ray.serve.run(app)
        replica = ray.serve.get_deployment_handle("segformer-replica", "default")
        reason = replica.left_aside.remote().result(timeout_s=STARTED_WITHIN)
        if reason is not None:
            aside(reason)
        address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        _wait_until_answering(host, port, until)
        ready(address)
        stop.wait()
    finally:
        ray.serve.shutdown()
        ray.shutdown()


def _wait_until_answering(host: str, port: int, until: float) -> None:
    local = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no HTTP proxy
    while True:
        try:
            with opener.open(f"http://{local}:{port}/health", timeout=10):
                return
        except (urllib.error.URLError, OSError) as error:
            if time.monotonic() > until:
                raise TimeoutError(f"{local}:{port} does not answer: {error}") from error
            time.sleep(0.2)
