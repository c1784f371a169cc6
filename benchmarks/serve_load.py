"""Measures the server under load: `python -m benchmarks.serve_load [--clients 64] [--seconds 60]`.

Starts `segformer-jax serve` as a user would. Clients in another process post photos, many at a time
and then one by one. Prints their rates and times, and one JSON line.
"""

import argparse
import asyncio
import json
import multiprocessing
import re
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import asdict, dataclass
from pathlib import Path

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
    options = parser.parse_args()
    photos = [path.read_bytes() for path in sorted(options.photos.glob("*.jpg"))]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    command = [*PROGRAM, options.model, "--port", str(port), "--batch-size", options.batch_size]
    command += ["--replicas", options.replicas] if options.replicas else []
    started = time.monotonic()
    server = subprocess.Popen([str(word) for word in command], stderr=subprocess.PIPE, text=True)
    try:
        assert server.stderr is not None
        for line in server.stderr:
            print(line, end="", file=sys.stderr)
            if "is served at" in line:
                break
        else:
            raise SystemExit("the server did not start")
        start = time.monotonic() - started
        with multiprocessing.get_context("spawn").Pool(1) as other:
            other.apply(_run, (url, photos, 8, 5.0))  # compiles for every photo's size
            before = _batches(url)
            many = other.apply(_run, (url, photos, options.clients, options.seconds))
            between = _batches(url)
            single = other.apply(_run, (url, photos, 1, options.seconds / 2))
        batches = _difference(between, before)
    finally:
        server.send_signal(2)
        server.communicate(timeout=120)
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
    print(json.dumps(report))


if __name__ == "__main__":
    main()
