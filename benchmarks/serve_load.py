"""Measures the server under load: `python -m benchmarks.serve_load [--clients 64] [--seconds 60]`.

Starts `segformer-jax serve` as a user would. Clients in another process post photos, many at a time
and then one by one. Prints their rates and times, and one JSON line. With `--parts` it also
measures the parts of an answer alone: the server takes at best their sum.
"""

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Generator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import serve_parts
from benchmarks.machine import describe

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = [sys.executable, "-c", "from segformer_jax.cli import main; main()", "serve"]


@dataclass(frozen=True)
class Load:
    """What the clients of one run measured; times in seconds."""

    clients: int
    seconds: float
    answers: int
    errors: int
    per_second: float
    p50: float
    p99: float


async def _clients(url: str, photos: list[bytes], clients: int, seconds: float) -> Load:
    import aiohttp

    times: list[float] = []
    errors = 0
    until = time.monotonic() + seconds

    async def client(session: aiohttp.ClientSession, number: int) -> None:
        nonlocal errors
        while time.monotonic() < until:
            photo = photos[(number + len(times)) % len(photos)]
            start = time.monotonic()
            try:
                async with session.post(f"{url}/segment", data=photo) as response:
                    await response.read()
                    fine = response.status == 200
            except (aiohttp.ClientError, TimeoutError):
                fine = False
            if fine:
                times.append(time.monotonic() - start)
            else:
                errors += 1

    start = time.monotonic()
    connector = aiohttp.TCPConnector(limit=clients)
    async with aiohttp.ClientSession(connector=connector) as session:
        await asyncio.gather(*(client(session, number) for number in range(clients)))
    took = time.monotonic() - start
    ordered = sorted(times) or [float("nan")]
    return Load(
        clients,
        round(took, 1),
        len(times),
        errors,
        round(len(times) / took, 2),
        round(ordered[len(ordered) // 2], 4),
        round(ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)], 4),
    )


def _run(url: str, photos: list[bytes], clients: int, seconds: float) -> Load:
    return asyncio.run(_clients(url, photos, clients, seconds))


def _batches(url: str) -> dict[str, int]:
    """Returns the number of runs of the network for each batch size, from /metrics."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=60) as response:
        text = response.read().decode()
    found = re.findall(r'segformer_batch_size_bucket\{le="(\d+)\.0"\} (\S+)', text)
    counts = [int(float(count)) for _, count in found]
    below = [0, *counts[:-1]]
    return {size: n - m for (size, _), n, m in zip(found, counts, below, strict=True)}


def _difference(after: dict[str, int], before: dict[str, int]) -> dict[str, int]:
    return {size: n - before[size] for size, n in after.items() if n > before[size]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="scene-b0")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--replicas", type=int)
    parser.add_argument("--photos", type=Path, default=ROOT / "examples")
    parser.add_argument("--parts", action="store_true", help="compare with the parts of an answer")
    options = parser.parse_args()
    photos = [path.read_bytes() for path in sorted(options.photos.glob("*.jpg"))]
    arguments = [options.model, "--batch-size", options.batch_size]
    arguments += ["--replicas", options.replicas] if options.replicas else []
    work = options.model, photos, options.batch_size
    before = _in_process(serve_parts.measure, *work) if options.parts else {}
    started = time.monotonic()
    with _served([*PROGRAM, *arguments, "--port"]) as (url, server):
        start = time.monotonic() - started
        with multiprocessing.get_context("spawn").Pool(1) as other:
            other.apply(_run, (url, photos, 8, 5.0))  # compiles for every photo's size
            counted = _batches(url)
            many = other.apply(_run, (url, photos, options.clients, options.seconds))
            batches = _difference(_batches(url), counted)
            single = other.apply(_run, (url, photos, 1, options.seconds / 2))
    print(f"started in {start:.0f} s, {len(photos)} photos of {options.photos}")
    for load in (many, single):
        print(
            f"{load.clients:3} clients: {load.per_second:.2f} pictures a second, p50 "
            f"{1000 * load.p50:.0f} ms, p99 {1000 * load.p99:.0f} ms, {load.errors} errors of "
            f"{load.answers + load.errors} requests in {load.seconds:.0f} s"
        )
    print("runs of the network by pictures:", batches)
    report = {
        "model": options.model,
        "batch_size": options.batch_size,
        "many": asdict(many),
        "one": asdict(single),
        "batches": batches,
        "exit": server.returncode,
        "machine": describe(),
    }
    if options.parts:
        after = _in_process(serve_parts.measure, *work)
        parts = {name: (before[name] + after[name]) / 2 for name in before}
        parts["HTTP"] = _http_alone(photos, options.clients)
        whole = 1 / many.per_second
        for name, seconds in (parts | {"sum": sum(parts.values()), "the whole": whole}).items():
            print(f"{name:24} {1000 * seconds:6.2f} ms a picture")
        print(f"rate ÷ that of the sum of the parts: {sum(parts.values()) / whole:.2f}")
        report["parts"] = parts
    print(json.dumps(report))


@contextlib.contextmanager
def _served(command: Sequence[Any]) -> Generator[tuple[str, subprocess.Popen]]:
    """Starts a server whose command ends with its port; yields its address and its process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = [str(word) for word in (*command, port)]
    server = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    try:
        assert server.stderr is not None
        for line in server.stderr:
            print(line, end="", file=sys.stderr)
            if "is served at" in line:
                break
        else:
            raise SystemExit("the server did not start")
        yield f"http://127.0.0.1:{port}", server
    finally:
        server.send_signal(signal.SIGINT)
        server.communicate(timeout=120)


def _http_alone(photos: list[bytes], clients: int) -> float:
    """Returns the seconds per picture of a server that answers at once."""
    from segformer_jax import Segmenter

    with tempfile.TemporaryDirectory() as folder:
        mask = Path(folder, "answer.mask.png")
        Segmenter.from_pretrained("scene-b0")(ROOT / "examples" / "street.jpg").save(mask)
        with (
            _served([sys.executable, "-m", "benchmarks.serve_parts", mask]) as (url, _),
            multiprocessing.get_context("spawn").Pool(1) as other,
        ):
            other.apply(_run, (url, photos, 8, 5.0))
            return 1 / other.apply(_run, (url, photos, clients, 20.0)).per_second


def _in_process(function: Callable[..., Any], *arguments: Any) -> Any:
    with multiprocessing.get_context("spawn").Pool(1) as other:
        return other.apply(function, arguments)


if __name__ == "__main__":
    main()
