"""Measures contenders in interleaved rounds, each contender in its own process.

Separate processes keep thread pools and memory apart. In a round, all contenders meet the same load
of the machine, so that the ratio of two medians is reliable even if the times are not. A contender
that fails, at its start or later, is left out; the others go on.
"""

import contextlib
import math
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
    """A contender and its task.

    Attributes:
        contender: its name.
        folder: the checkpoint.
        values: the input of its `prepare`.
        height: of the input, in pixels.
        width: of the input, in pixels.
        task: "forward" or "end_to_end".
        calls: how often it runs when it is its turn, after a run that isn't timed; the median
            counts. 0 is a single run, which is timed. On a GPU the first run after that of another
            process is slower.
    """

    contender: str
    folder: Path
    values: np.ndarray
    height: int
    width: int
    task: str = "forward"
    calls: int = 0


@dataclass(frozen=True)
class Lane:
    """The result of an entry: times in milliseconds, memory of the process in MB.

    Attributes:
        contender: its name.
        median: median of all rounds, without the warm-up.
        low: the first quartile.
        high: the third quartile.
        peak: the largest resident memory of the process, including libraries and weights; None
            where the system doesn't count it.
        added: the part of `peak` that the runs added.
        first: time of the first run, which compiles if anything is compiled.
        output: the result of a run.
    """

    contender: str
    median: float
    low: float
    high: float
    peak: float | None
    added: float | None
    first: float
    output: np.ndarray


def race(
    entries: list[Entry], *, rounds: int, seconds: float = 90, until: float = math.inf
) -> tuple[list[Lane], list[str]]:
    """Runs all entries in turn; returns their results, and the name and error of any that failed.

    Args:
        entries: the first is the one that others are compared with.
        rounds: runs of each entry; fewer, but at least 5, if all take longer than `seconds`.
        seconds: limit for the whole race, without the starts of processes.
        until: a time of `time.monotonic()`; entries that have not started (loaded, compiled and
            warmed up) by then are left out.
    """
    workers, failures = [], []
    for entry in entries:
        worker = Worker(entry)
        try:
            worker.start(until)
            workers.append(worker)
        except ContenderError as error:
            failures.append(f"{entry.contender}: {error}")
    started = time.perf_counter()
    for number in range(rounds):
        for worker in list(workers):
            time.sleep(REST)
            try:
                worker.run()
            except ContenderError as error:
                failures.append(f"{worker.entry.contender}: {error}")
                workers.remove(worker)
        if number >= 4 and time.perf_counter() - started > seconds:
            break
    lanes = []
    for worker in workers:
        try:
            lanes.append(worker.finish())
        except ContenderError as error:
            failures.append(f"{worker.entry.contender}: {error}")
    return lanes, failures


class ContenderError(Exception):
    """A contender that could not start, or died."""


class Worker:
    """The process of an entry, from this side."""

    def __init__(self, entry: Entry):
        context = multiprocessing.get_context("spawn")
        self.entry, self.times = entry, []
        self.connection, self.there = context.Pipe()
        self.process = context.Process(target=_serve, args=(self.there, entry), daemon=True)

    def start(self, until: float) -> None:
        """Waits until it has loaded, compiled and warmed up."""
        left = until - time.monotonic()
        if left <= 0:
            raise ContenderError("no time was left to start it")
        self.process.start()
        self.there.close()
        if not self.connection.poll(None if math.isinf(left) else left):
            self.process.kill()
            raise ContenderError(f"it was not ready after {left:.0f} s")
        self.first = self._answer()

    def run(self) -> None:
        """Runs it once and keeps the time, in milliseconds."""
        self._send("run")
        self.times.append(self._answer())

    def finish(self) -> Lane:
        """Ends the process, and returns its result."""
        self._send("finish")
        peak, added, output = self._answer()
        self.process.join()
        low, median, high = statistics.quantiles(self.times, n=4)
        name = self.entry.contender
        return Lane(name, median, low, high, peak, added, self.first, output)

    def _send(self, request: str) -> None:
        try:
            self.connection.send(request)
        except OSError as error:
            raise ContenderError("its process died (out of memory?)") from error

    def _answer(self) -> Any:
        try:
            answer = self.connection.recv()
        except (EOFError, OSError) as error:
            raise ContenderError("its process died (out of memory?)") from error
        if isinstance(answer, str):
            self.process.join()
            raise ContenderError(answer)
        return answer


def _serve(connection: Any, entry: Entry) -> None:
    """Runs in a contender's process: loads, warms up, then answers each request.

    An answer that is a string is an error, after which the process ends.
    """
    try:
        contender = (CONTENDERS | EXPORTED)[entry.contender]
        make = contender.load(entry.task)
        passes = make(entry.folder, height=entry.height, width=entry.width, dtype=contender.dtype)
        values = passes.prepare(entry.values)
        before = _memory("VmRSS")
        _forget_peak()
        first = _timed(passes.run, values)
        passes.run(values)
        connection.send(first)
        while connection.recv() == "run":
            connection.send(_turn(passes.run, values, entry.calls))
        peak = _memory("VmHWM")
        added = None if peak is None or before is None else peak - before
        output = np.asarray(passes.logits(passes.run(values)))
        connection.send((peak, added, output))
    except Exception as error:  # any error of a peer is sent as its answer
        traceback.print_exc()
        connection.send(f"{type(error).__name__}: {error}".splitlines()[0])


def _turn(run: Any, values: Any, calls: int) -> float:
    if calls == 0:
        return _timed(run, values)
    run(values)
    return statistics.median(_timed(run, values) for _ in range(calls))


def _timed(run: Any, values: Any) -> float:
    start = time.perf_counter()
    run(values)
    return 1e3 * (time.perf_counter() - start)


def _memory(name: str) -> float | None:
    """Returns a line of Linux's status of this process in MB; None if it has no such line."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) / 1e3
    return None


def _forget_peak() -> None:
    """Resets the peak memory that Linux counts; some sandboxes don't let it."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
