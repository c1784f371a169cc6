"""`demo`: a page in the browser to try models on photos."""

import os
import signal
import socket
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import tyro

from segformer_jax.cli.open_model import DEFAULT_MODEL, open_segmenter
from segformer_jax.cli.printing import say

EXAMPLES = Path(__file__).parents[2] / "examples"  # in a clone only, not in a wheel


def demo(
    models: Annotated[
        tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[MODEL...]")
    ] = (DEFAULT_MODEL,),
    host: str = "127.0.0.1",
    port: int = 7860,
    device: str | None = None,
    max_pixels: int = 178_956_970,
) -> int:
    """Serve a page to try models on photos: drop one, see its classes, download the mask.

    Args:
        models: weights packages, folders or names on the hub, to choose from on the page.
        host: the address to listen on; 127.0.0.1 can be reached from this machine only.
        port: the port to listen on; 0 chooses a free one.
        device: cpu, gpu or tpu; by default JAX chooses, preferring an accelerator.
        max_pixels: largest picture, in pixels, that is opened.
    """
    with (
        _listening(host, port) as listening,
        tempfile.TemporaryDirectory(prefix="segformer-jax-") as uploads,
    ):
        os.environ["GRADIO_TEMP_DIR"] = uploads  # uploaded photos are deleted at the end
        from segformer_jax.demo.page import build_page, serve

        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # so that `uploads` is removed
        options = dict(device=device, batch_size=1, max_pixels=max_pixels)
        segmenters = {name: open_segmenter(name, **options) for name in models}
        page = build_page(segmenters, examples=sorted(EXAMPLES.glob("street.jpg")))
        at = f"[{host}]" if ":" in host else host
        say(f"open http://{at}:{listening.getsockname()[1]} in a browser; stop with Ctrl-C")
        serve(page, listening=listening)
    return 0


def _listening(host: str, port: int) -> socket.socket:
    """Returns a bound socket; called before models are loaded, to report errors at once."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        raise ValueError(
            f"can't listen on {host}, port {port} ({error}): choose another --port, or 0 for any "
            "that is free"
        ) from error
