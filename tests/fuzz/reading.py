"""The process that damages inputs and reads them; it reports each over a pipe."""

import os
import resource
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from typing import Any

from tests.fuzz.kinds import Reader, Sample

READY, FINE = "ready", "read"
MEMORY = 16 * 2**30  # bytes of address space, of which the imports take some
PROGRAMS = ("os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "socket.connect")
CODE = (".py", ".pyc", ".so")  # what imports open
FAULT = "fault: "  # begins the report of one


def work(
    reader: Reader,
    samples: list[Sample],
    *,
    seed: int,
    first: int,
    hang: float,
    folder: Path,
    pipe: Connection,
) -> None:
    """Reads the inputs `first`, `first` + 1, … until one shows a fault; reports each outcome.

    The last input is in `folder`/input, also after a crash. The process ends by SIGPROF if an input
    takes more than `hang` seconds of processor time.
    """
    warnings.simplefilter("ignore")
    contents = [sample.files[sample.damaged] for sample in samples]
    root = folder / "input"
    for sample in samples:  # imports what reading imports
        write(sample.files, root)
        with suppress(*reader.documented):  # of a valid input too, such as too many bands for RGB
            reader.read(root)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, resource.RLIM_INFINITY))
    watch = _Watch(root)
    sys.addaudithook(watch)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # C libraries write of each damage
    pipe.send(READY)
    for number in range(first, sys.maxsize):
        write(damaged_input(reader, samples, contents, seed=seed, number=number), root)
        signal.setitimer(signal.ITIMER_PROF, hang)
        with watch.on():
            outcome = _outcome(reader, root)
        outcome = FAULT + watch.seen[0] if watch.seen else outcome
        pipe.send(outcome)
        if outcome.startswith(FAULT):
            return


def damaged_input(
    reader: Reader, samples: list[Sample], contents: list[bytes], *, seed: int, number: int
) -> dict[str, bytes]:
    """The files of an input, which are the same whenever the arguments are."""
    rng = Random(f"{reader.name} {seed} {number}")
    sample = rng.choice(samples)
    damaged = reader.damage(rng, sample.files[sample.damaged], contents)
    return sample.files | {sample.damaged: damaged}


def write(files: dict[str, bytes], root: Path) -> None:
    """Writes an input's files, and removes those of the one before."""
    for old in root.rglob("*"):
        if old.is_file() and old.relative_to(root).as_posix() not in files:
            old.unlink()
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)


def _outcome(reader: Reader, root: Path) -> str:
    try:
        reader.read(root)
    except Exception as error:
        kind = type(error).__name__
        if type(error) not in reader.documented:
            return f"{FAULT}{kind}: {str(error)[:300]}"
        if reader.names_file and str(root) not in str(error):
            return f"{FAULT}{kind} that names no file: {str(error)[:300]}"
        return kind
    return FINE


class _Watch:
    """An audit hook that refuses to open files outside a folder and to start anything."""

    def __init__(self, root: Path):
        self.root = os.path.realpath(root)
        self.seen: list[str] = []
        self.is_on = False

    @contextmanager
    def on(self) -> Iterator[None]:
        self.seen, self.is_on = [], True
        try:
            yield
        finally:
            self.is_on = False

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.is_on:
            return
        if event == "open" and isinstance(arguments[0], str | bytes):
            path = os.path.realpath(os.fsdecode(arguments[0]).split("\0")[0])
            if path.startswith((self.root + os.sep, "/dev/")) or path.endswith(CODE):
                return
        elif event not in PROGRAMS:
            return
        self.seen.append(f"{event} {arguments[0]!r}")
        raise PermissionError(self.seen[-1])
