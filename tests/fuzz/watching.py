"""Starts the process that reads, watches it, and keeps the inputs that show a fault."""

import contextlib
import multiprocessing
import shutil
import signal
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

from tests.fuzz.kinds import Reader, Sample
from tests.fuzz.reading import FAULT, READY, work

KEPT = Path(__file__).resolve().parents[2] / "out" / "fuzz"
HANG = 5.0  # seconds of processor time that an input may take
WAIT = 60.0  # seconds that it may take in all, on a busy machine
START = 120.0  # seconds that the process may take to import what it needs
MOST_KEPT = 20  # faults of a reader, after which it is stopped


@dataclass
class Found:
    """What a reader did.

    Attributes:
        inputs: how many it was given.
        outcomes: how often each documented error was raised, and nothing.
        slowest: seconds that one input took at most.
        faults: the kind of each fault and the folder of its input.
    """

    inputs: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0
    faults: list[tuple[str, Path]] = field(default_factory=list)


def try_reader(
    reader: Reader, *, seed: int, seconds: float | None = None, inputs: int | None = None
) -> Found:
    """Gives damaged inputs to a reader, for some seconds or up to a number of inputs."""
    found = Found()
    samples = reader.samples()
    end = time.monotonic() + seconds if seconds is not None else float("inf")
    with tempfile.TemporaryDirectory() as folder:
        while not _is_done(found, end, inputs):
            _one_process(reader, samples, found, Path(folder), seed=seed, end=end, inputs=inputs)
    return found


def _is_done(found: Found, end: float, inputs: int | None) -> bool:
    enough = inputs is not None and found.inputs >= inputs
    return enough or time.monotonic() >= end or len(found.faults) >= MOST_KEPT


def _one_process(
    reader: Reader,
    samples: list[Sample],
    found: Found,
    folder: Path,
    *,
    seed: int,
    end: float,
    inputs: int | None,
) -> None:
    """Runs a process until an input shows a fault, or enough is done."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.fuzz.readers"])  # once for all processes
    pipe, own = context.Pipe(duplex=False)
    options = dict(seed=seed, first=found.inputs, hang=HANG, folder=folder, pipe=own)
    process = context.Process(target=work, args=(reader, samples), kwargs=options, daemon=True)
    process.start()
    own.close()
    try:
        if _received(pipe, process, START) != READY:
            raise RuntimeError(f"the process that reads {reader.name} did not start")
        while not _is_done(found, end, inputs):
            start = time.monotonic()
            outcome = _received(pipe, process, WAIT)
            found.slowest = max(found.slowest, time.monotonic() - start)
            number = found.inputs
            found.inputs += 1
            if outcome.startswith(FAULT):
                place = KEPT / f"{reader.name}-{seed}-{number}"
                shutil.copytree(folder / "input", place, dirs_exist_ok=True)
                found.faults.append((outcome.removeprefix(FAULT), place))
                return
            found.outcomes[outcome] += 1
    finally:
        process.kill()
        process.join()


def _received(pipe: Connection, process: BaseProcess, seconds: float) -> str:
    """Returns what the process says next, or what became of it."""
    waits = not pipe.poll(seconds)
    if waits:
        process.kill()
    with contextlib.suppress(EOFError):  # it has ended
        return pipe.recv()
    process.join()
    if waits or process.exitcode == -signal.SIGPROF:
        return f"{FAULT}a hang of more than {HANG:g} s"
    return f"{FAULT}the process ended with {process.exitcode}"
