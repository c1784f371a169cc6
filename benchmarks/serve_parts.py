"""The parts of an answer of the server, each measured alone with all cores.

`python -m benchmarks.serve_load --parts` compares the server with their sum: on a CPU all of them
share the cores, so the server takes at best the sum of their times. HTTP is measured by the same
server with a replica that answers at once, and the same clients.
"""

import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

PICTURES = 200  # of each part


def measure(model: str, photos: list[bytes], batch_size: int) -> dict[str, float]:
    """Returns the seconds per picture of each part but HTTP, in this process."""
    from segformer_jax import Segmentation, Segmenter
    from segformer_jax.images.picture import as_rgb
    from segformer_jax.inference.pipeline import usable_cores
    from segformer_jax.process import keep_compiled_programs, keep_freed_memory
    from segformer_jax.server import requests

    keep_freed_memory()
    keep_compiled_programs()
    segmenter = Segmenter.from_pretrained(model, batch_size=batch_size)
    bodies = [photos[index % len(photos)] for index in range(PICTURES)]
    limits, wish = requests.Limits(), requests.wanted({})

    def decode(body: bytes) -> tuple[Any, Any]:
        requests.check_picture(body, limits)
        picture = segmenter.processor.read(body)
        return as_rgb(picture), segmenter.processor.eight_bits(picture)

    def encode(result: Segmentation) -> bytes:
        return requests.answer(result, wish)

    with ThreadPoolExecutor(usable_cores()) as pool:
        decoded = list(pool.map(decode, bodies))

        def network() -> list[Any]:  # with class maps, as in the replica
            maps = []
            for first in range(0, PICTURES, batch_size):
                some = decoded[first : first + batch_size]
                inputs = [values for _, values in some]
                maps += segmenter.class_maps(inputs, [own.size[::-1] for own, _ in some])
            return maps

        results = [
            Segmentation(classes, segmenter.id2label, picture)
            for (classes, _), (picture, _) in zip(network(), decoded, strict=True)
        ]
        return {
            "decode": _seconds(lambda: list(pool.map(decode, bodies))),
            "network and class map": _seconds(network),
            "encode": _seconds(
                lambda: [*pool.map(lambda own: requests.answer(own, wish), results)]
            ),
        }


def _seconds(run: Callable[[], Any]) -> float:
    times = []
    for _ in range(3):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return sorted(times)[1] / PICTURES


def serve_at_once(answer: Path, port: int) -> None:
    """Serves as `segformer-jax serve` does until it is interrupted; a file is every answer."""
    from segformer_jax.server import run as server
    from segformer_jax.server.requests import Limits

    body, start_here = answer.read_bytes(), server.start_here

    class AtOnce:
        def __init__(self, *_: Any):
            pass

        async def left_aside(self) -> str | None:
            return None

        async def segment(self, *_: Any) -> Any:
            from segformer_jax.server.ingress import Answer

            return Answer(200, body)

    def started(*parts: str, **options: Any) -> Any:
        ray = start_here(*parts, **options)  # sets Ray's token, which is read when Ray is imported
        from segformer_jax.server import app

        app.Replica = AtOnce
        return ray

    server.start_here = started
    stop = threading.Event()
    signal.signal(signal.SIGINT, lambda *_: stop.set())

    def ready(address: str) -> None:
        print(f"at once is served at {address}", file=sys.stderr, flush=True)

    server.run("none", host="127.0.0.1", port=port, limits=Limits(), ready=ready, stop=stop)


if __name__ == "__main__":
    serve_at_once(Path(sys.argv[1]), int(sys.argv[2]))
