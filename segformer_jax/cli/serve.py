"""`serve`: serves a model by HTTP."""

import signal
import threading
from pathlib import Path
from typing import Annotated, Literal

import tyro

from segformer_jax.cli.open_model import DEFAULT_MODEL, say_licence
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
    programs: Path | None = None,
) -> int:
    """Serve a model by HTTP, on Ray Serve: POST /segment, GET /health, GET /metrics.

    Args:
        model: an installed weights package, a folder, or a name on the Hugging Face hub.
        host: the address to listen on; 0.0.0.0 opens it to other machines, without a password.
        port: the port to listen on.
        replicas: copies of the model; by default one per accelerator, or one on a CPU.
        batch_size: largest number of pictures per run of the network.
        max_body_mib: largest body of a request, in MiB.
        max_pixels: largest picture, in pixels, that is decoded.
        max_queue: largest number of requests at one time; further ones are answered with 503.
        max_queue_mib: largest total of their bodies, in MiB; likewise.
        device: cpu, gpu or tpu; by default JAX chooses, preferring an accelerator.
        dtype: the type of the matrix products.
        programs: a folder that segformer-jax compile wrote for this model, so that nothing needs to
            be compiled; by default the one that SEGFORMER_JAX_PROGRAMS names.
    """
    from segformer_jax.server.requests import Limits
    from segformer_jax.server.run import check_port, run

    if batch_size < 1:
        raise ValueError(f"--batch-size must be at least 1, got {batch_size}")
    limits = Limits(
        body_bytes=max_body_mib * 2**20,
        pixels=max_pixels,
        queue=max_queue,
        queue_bytes=max_queue_mib * 2**20,
    )
    if programs is not None:
        from segformer_jax.inference.programs import check_folder

        check_folder(programs)
        programs = programs.absolute()
    check_port(host, port)
    name = _checked_model(model)
    say_licence(model)
    stop = threading.Event()

    def ready(address: str) -> None:
        signal.signal(signal.SIGTERM, lambda *_: stop.set())  # replaces Ray's handler
        say(f"{model} is served at {address}/segment; stop with Ctrl-C")

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
            programs=programs,
            aside=say,
            ready=ready,
            stop=stop,
        )
    except RuntimeError as error:  # Ray's reason why a replica does not start
        raise ValueError(f"the server did not start: {error}") from error
    return 0


def _checked_model(model: str) -> str:
    """Checks a model before Ray is started; returns its absolute path, for the workers."""
    from segformer_jax.checkpoints.hub import resolve
    from segformer_jax.config import SegformerConfig
    from segformer_jax.images.processor import SegformerImageProcessor

    SegformerConfig.from_pretrained(model)
    SegformerImageProcessor.from_pretrained(model)
    return str(resolve(model).absolute())
