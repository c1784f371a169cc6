"""Measures contenders in interleaved rounds, each contender in its own process.

Separate processes keep thread pools and memory apart. In a round, all contenders meet the same load
of the machine, so that the ratio of two medians is reliable even if the times are not.
"""

import multiprocessing
import statistics
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.contender import CONTENDERS, EXPORTED

REST = 0.02  # seconds between runs, in which the spinning threads of the last one fall asleep


@dataclass(frozen=True)
class Entry:
    """A contender and its task."""

    contender: str
    folder: Path
    values: np.ndarray
    height: int
    width: int
    task: str = "forward"


@dataclass(frozen=True)
class Lane:
    """The result of an entry: times in milliseconds, memory of the process in MB.

    Attributes:
        contender: its name.
        median: median of all rounds, without the warm-up.
        low: the first quartile.
        high: the third quartile.
        peak: the largest resident memory of the process, including libraries and weights.
        added: the part of `peak` that the runs added.
        first: time of the first run, which compiles if anything is compiled.
        output: the result of a run.
    """

    contender: str
    median: float
    low: float
    high: float
    peak: float
    added: float
    first: float
    output: np.ndarray


def race(entries: list[Entry], *, rounds: int, seconds: float = 90) -> tuple[list[Lane], list[str]]:
    """Runs all entries in turn; returns their results, and the name and error of any that failed.

    Args:
        entries: the first is the one that others are compared with.
        rounds: runs of each entry; fewer, but at least 5, if all take longer than `seconds`.
        seconds: limit for the whole race, without the starts of processes.
    """
    context = multiprocessing.get_context("spawn")
    workers, failures = [], []
    for entry in entries:
        here, there = context.Pipe()
        process = context.Process(target=_serve, args=(there, entry), daemon=True)
        process.start()
        there.close()
        first = _answer(here)
        if isinstance(first, str):
            failures.append(f"{entry.contender}: {first}")
            process.join()
        else:
            workers.append((entry, process, here, first, []))
    started = time.perf_counter()
    for number in range(rounds):
        for _, _, connection, _, times in workers:
            time.sleep(REST)
            connection.send("run")
            times.append(connection.recv())
        if number >= 4 and time.perf_counter() - started > seconds:
            break
    lanes = []
    for entry, process, connection, first, times in workers:
        connection.send("finish")
        peak, added, output = connection.recv()
        process.join()
        low, median, high = statistics.quantiles(times, n=4)
        lanes.append(Lane(entry.contender, median, low, high, peak, added, first, output))
    return lanes, failures


def _answer(connection: Any) -> Any:
    try:
        return connection.recv()
    except EOFError:
        return "its process died (out of memory?)"


def _serve(connection: Any, entry: Entry) -> None:
    """Runs in a contender's process: loads, warms up, then answers each request by a run."""
    try:
        contender = (CONTENDERS | EXPORTED)[entry.contender]
        make = contender.load(entry.task)
        passes = make(entry.folder, height=entry.height, width=entry.width, dtype=contender.dtype)
        values = passes.prepare(entry.values)
        before = _resident()
        _forget_peak()
        first = _timed(passes.run, values)
        passes.run(values)
    except Exception as error:  # any error of a peer is sent as its answer
        traceback.print_exc()
        connection.send(f"{type(error).__name__}: {error}".splitlines()[0])
        return
    connection.send(first)
    while connection.recv() == "run":
        connection.send(_timed(passes.run, values))
    peak = _peak()
    output = np.asarray(passes.logits(passes.run(values)))
    connection.send((peak, peak - before, output))


def _timed(run: Any, values: Any) -> float:
    start = time.perf_counter()
    run(values)
    return 1e3 * (time.perf_counter() - start)


def _resident() -> float:
    return _status("VmRSS")


def _peak() -> float:
    return _status("VmHWM")


def _status(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1e3


def _forget_peak() -> None:
    """Resets the peak memory that Linux counts."""
    Path("/proc/self/clear_refs").write_text("5")
