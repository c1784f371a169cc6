"""`serve`: a model behind HTTP."""

import signal
import threading
from typing import Annotated, Literal

import tyro

from segformer_jax.cli.model import DEFAULT_MODEL, say_licence
from segformer_jax.cli.printing import say


def serve(
    model: Annotated[str, tyro.conf.Positional] = DEFAULT_MODEL,
    host: str = "127.0.0.1",
    port: int = 8000,
    replicas: int | None = None,
    batch_size: int = 8,
    max_body_mib: int = 32,
    max_pixels: int = 50_000_000,
    max_queue: int = 256,
    max_queue_mib: int = 512,
    device: str | None = None,
    dtype: Literal["float32", "bfloat16"] = "float32",
) -> int:
    """Serve a model by HTTP, on Ray Serve: POST /segment, GET /health, GET /metrics.

    Args:
        model: a weights package, a folder, or a hub name.
        host: what to listen on; 0.0.0.0 is reached from other machines, and asks nobody who it is.
        port: of the server.
        replicas: copies of the model; one per accelerator, or one, when left out.
        batch_size: pictures that go through a copy's network together, at most.
        max_body_mib: the longest body of a request, in MiB.
        max_pixels: the largest picture that is decoded.
        max_queue: requests that are read, waiting or computed at one time; others get a 503.
        max_queue_mib: MiB of their bodies; likewise.
        device: cpu, gpu or tpu; the fastest there is when left out.
        dtype: what the matrix products compute in.
    """
    from segformer_jax.server.requests import Limits
    from segformer_jax.server.run import check_port, run

    if batch_size < 1:
        raise ValueError(f"--batch-size is {batch_size}; it is at least 1")
    limits = Limits(
        body_bytes=max_body_mib * 2**20,
        pixels=max_pixels,
        queue=max_queue,
        queue_bytes=max_queue_mib * 2**20,
    )
    check_port(host, port)
    name = _checked_model(model)
    say_licence(model)
    stop = threading.Event()

    def ready(address: str) -> None:
        signal.signal(signal.SIGTERM, lambda *_: stop.set())  # Ray had put its own there
        say(f"{model} answers at {address}/segment (Ctrl-C ends it)")

    try:
        run(
            name,
            host=host,
            port=port,
            limits=limits,
            dtype=dtype,
            device=device,
            batch_size=batch_size,
            replicas=replicas,
            ready=ready,
            stop=stop,
        )
    except RuntimeError as error:  # what Ray says of a replica that does not start
        raise ValueError(f"the server did not start: {error}") from error
    return 0


def _checked_model(model: str) -> str:
    """Its name for workers elsewhere; what is wrong with it is said before Ray is started."""
    from segformer_jax.checkpoints.hub import resolve
    from segformer_jax.config import SegformerConfig
    from segformer_jax.images.processor import SegformerImageProcessor

    SegformerConfig.from_pretrained(model)
    SegformerImageProcessor.from_pretrained(model)
    return str(resolve(model).absolute())
