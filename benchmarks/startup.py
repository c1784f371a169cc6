"""Measures the first call in a first and a second process, later calls, and `--help`."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.checkpoints import make_checkpoint, make_pixels

CALLS = 200


def measure_startup(variant: str) -> dict[str, Any]:
    """Measures the first 512×512 call, which compiles, in a first process and in a second.

    The second process finds the compiled programs of the first in JAX's cache.
    """
    folder = make_checkpoint(variant)
    with tempfile.TemporaryDirectory() as cache:
        first, second = (_first_call(folder, cache) for _ in range(2))
    return {
        "work": f"{variant}, first call at 512×512",
        "first_process_s": first["seconds"],
        "second_process_s": second["seconds"],
        "compiled_first": first["compiled"],
        "compiled_second": second["compiled"],
    }


def measure_overhead(variant: str) -> dict[str, Any]:
    """Measures the ms until `Segmenter.logits` returns to Python, and until its result is there."""
    import numpy as np

    from segformer_jax import Segmenter

    segmenter = Segmenter.from_pretrained(make_checkpoint(variant))
    pixels = np.asarray(make_pixels(1, 32, 32))
    segmenter.logits(pixels).block_until_ready()
    returned, done = [], []
    for _ in range(CALLS):
        start = time.perf_counter()
        logits = segmenter.logits(pixels)
        returned.append(1e3 * (time.perf_counter() - start))
        logits.block_until_ready()
        done.append(1e3 * (time.perf_counter() - start))
    return {
        "work": f"{variant}, one call at 32×32",
        "call_ms": statistics.median(returned),
        "result_ms": statistics.median(done),
    }


def measure_help(rounds: int) -> dict[str, Any]:
    """Measures the seconds of `segformer-jax --help` and of `import jax` alone, interleaved."""
    commands = {
        "help_s": ["from segformer_jax.cli import main; main()", "--help"],
        "import_jax_s": ["import jax"],
    }
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", *command], stdout=subprocess.DEVNULL, check=True)
            seconds[name].append(time.perf_counter() - start)
    row = {name: statistics.median(own) for name, own in seconds.items()}
    return {"work": "segformer-jax --help"} | row | {"ratio": row["help_s"] / row["import_jax_s"]}


def _first_call(folder: Path, cache: str) -> dict[str, Any]:
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": cache}
    command = [sys.executable, "-m", "benchmarks.startup", str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def _report_first_call(folder: str) -> None:
    """Compiles the forward pass (or finds it compiled) and runs it once, in the child process."""
    import jax

    from segformer_jax import Segmenter
    from segformer_jax.process import keep_compiled_programs

    compiled = 0

    def count(event: str, **_) -> None:
        nonlocal compiled
        compiled += event == "/jax/compilation_cache/cache_misses"

    jax.monitoring.register_event_listener(count)
    keep_compiled_programs()
    segmenter = Segmenter.from_pretrained(folder)
    pixels = make_pixels(1, 512, 512)
    before, start = compiled, time.perf_counter()
    segmenter.logits(pixels).block_until_ready()
    seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "compiled": compiled - before}))


if __name__ == "__main__":
    _report_first_call(sys.argv[1])
