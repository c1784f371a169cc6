"""Ray Serve with the application on one machine, from its start to Ctrl-C."""

import logging
import os
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable

from segformer_jax.serve.cluster import start_here
from segformer_jax.serve.protocol import Limits
from segformer_jax.serve.workers import choose_workers

STARTED_WITHIN = 600  # seconds; a loaded machine once needed 99 for the proxy alone
PATIENCE = {  # Ray kills proxies that are not ready or well within 5 and 10 seconds
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "180",
    "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "60",
}


def check_port(host: str, port: int) -> None:
    """Ray Serve itself would share a port with whoever listens there already.

    Raises:
        ValueError: no such port.
        OSError: it is in use, or the host is not this machine.
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
    ready: Callable[[str], None],
    stop: threading.Event,
) -> None:
    """Serves until `stop` is set; Ray is up and down within this call.

    Args:
        model: a weights package, a folder, or a hub name.
        host: what the HTTP server listens on; all else that Ray opens is on loopback.
        port: of the HTTP server.
        limits: of a request.
        dtype: what the matrix products compute in.
        device: cpu, gpu or tpu; the fastest that is here when left out.
        batch_size: the most pictures that go through a replica's network together.
        replicas: how many; one per accelerator, or one for all CPUs, when left out.
        ready: called with the server's address once it answers.
        stop: ends it.

    Raises:
        RuntimeError: the replicas do not start, with the reason that Ray gives.
        TimeoutError: the server does not answer in time.
    """
    for name, value in PATIENCE.items():
        os.environ.setdefault(name, value)
    ray = start_here("serve", cpus=max(os.cpu_count() or 1, replicas or 1))
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    try:
        from segformer_jax.serve.app import Model, application

        there = ray.cluster_resources()
        each = max(1, int(there["CPU"]) // (replicas or 1))
        workers = choose_workers(there, workers=replicas, cpus=each, device=device)
        until = time.monotonic() + STARTED_WITHIN
        while True:
            try:
                ray.serve.start(http_options={"host": host, "port": port})
                break
            except TimeoutError:  # after a minute that is written into Ray; it goes on starting
                if time.monotonic() > until:
                    raise
        app = application(Model(model, dtype, batch_size), limits, workers)
        ray.serve.run(app)
        address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        _wait_until_answering(host, port, until)
        ready(address)
        stop.wait()
    finally:
        ray.serve.shutdown()
        ray.shutdown()


def _wait_until_answering(host: str, port: int, until: float) -> None:
    local = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy on the way
    while True:
        try:
            with opener.open(f"http://{local}:{port}/health", timeout=10):
                return
        except (urllib.error.URLError, OSError) as error:
            if time.monotonic() > until:
                raise TimeoutError(f"{local}:{port} does not answer: {error}") from error
            time.sleep(0.2)
